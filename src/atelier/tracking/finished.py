"""Checkpoints of stages whose outputs DVC has recorded.

Those of the last training are kept, because a longer one continues from them. Those of other
stages are removed. Two trainings are also compared to find out why one does not continue another.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import NotExtendableError, count_text
from atelier.core.paths import LISTS, START
from atelier.tracking.dvc_lock import StageRecord, is_code, read_lock
from atelier.tracking.environment import PRIVATE
from atelier.tracking.run_state import (
    FINISHED,
    FOLDERS,
    TRIAL,
    Fingerprint,
    ResumeDir,
    machine_values,
)
from atelier.tracking.store import locked

if TYPE_CHECKING:
    from atelier.core.checkpoints import Checkpoints

_KEPT_STAGE = "train"
_LENGTH = ("train.epochs", "train.steps")
_FINGERPRINT, _MACHINE = "fingerprint.json", "machine.json"


def clear_recorded(private: Path) -> None:
    """Keep the checkpoints of a recorded training, and remove those of other recorded stages.

    Checkpoints in use stay, and those of a stage that has not finished: a stage that `dvc repro -f`
    repeats is recorded already, and resumes if it was interrupted.

    Args:
        private: the repository's folder ``.atelier/``.
    """
    with suppress(OSError):
        folders = list((private / "unfinished").iterdir())
        # Mostly there are none, and parsing dvc.lock is slow.
        records = read_lock(Path("dvc.lock").read_text("utf-8")) if folders else {}
        for folder in folders:
            stage = folder.name.lstrip(".").partition("-")[0]
            with suppress(OSError, ValueError, TypeError):
                if stage in records and _fingerprint(folder).is_recorded(records[stage]):
                    _clear(folder, stage, private)


def _clear(folder: Path, stage: str, private: Path) -> None:
    """Keep or remove the checkpoints of a recorded stage, unless a process works with them."""
    with locked(folder / ".lock", wait=False) as is_free:
        if not is_free:
            return
        if not (folder / _FINGERPRINT).exists():  # another process has just moved it
            shutil.rmtree(folder)
        elif (folder / FINISHED).exists() and stage == _KEPT_STAGE:
            _keep(folder, private)
        elif (folder / FINISHED).exists() or folder.name.startswith("."):  # never resumed
            shutil.rmtree(folder)


class RepetitionInterrupt(KeyboardInterrupt):
    """Raised if a stage is interrupted whose outputs DVC has recorded already.

    DVC repeats it with `-f` only.
    """


def is_recorded(stage: str, fingerprint: Fingerprint | None) -> bool:
    """Return True if DVC has recorded a stage with this fingerprint."""
    recorded = _read_record(stage)
    return bool(fingerprint and recorded and fingerprint.is_recorded(recorded))


@contextmanager
def open_finished(resume_dir: ResumeDir) -> Iterator["Checkpoints | None"]:
    """Yield the checkpoints of the last recorded training, if the present one may extend it.

    Meanwhile no other process replaces them.

    Yields:
        ``None`` if the present training is not longer than the recorded one, or if it is another
            one, for example of another preset.

    Raises:
        NotExtendableError: the present training is longer, but differs in more than its length, or
            the state is not here. The message names the first difference.
    """
    fingerprint, finished = resume_dir.fingerprint, resume_dir.private / FINISHED
    if fingerprint is None:
        yield None
        return
    with locked(finished / ".lock") if finished.is_dir() else nullcontext():
        folder = next(finished.glob(f"{resume_dir.stage}-*"), None)
        now = _Training.of(fingerprint.as_record(), machine_values(resume_dir.device))
        saved = _read_training(folder) if folder else None
        if folder and saved and now.length != saved.length and not _changes(saved, now):
            yield _checkpoints(folder)
            return
        reason = _reason(now, saved, _recorded_training(resume_dir.stage), folder is not None)
        if reason:
            raise NotExtendableError(reason)
        yield None


def stopped_reason(resume_dir: ResumeDir) -> str:
    """Return why the present training does not continue a stopped one; empty if there is none.

    It is only about the last training of the project. Trainings that run now do not count, and
    neither do those of a search, which stops some of its trials.

    Args:
        resume_dir: of the present training, without a checkpoint.

    Returns:
        The first change since the stopped training, and the number of others.
    """
    if resume_dir.fingerprint is None:
        return ""
    with suppress(OSError):
        last = _last_training(resume_dir.private, resume_dir.stage)
        if last is None or (last / FINISHED).exists():
            return ""
        values = machine_values(resume_dir.device)
        now, stopped = (
            _Training.of(resume_dir.fingerprint.as_record(), values),
            _read_training(last),
        )
        return _changes_text(_changes(stopped, now, with_length=True)) if stopped else ""
    return ""


def _last_training(private: Path, stage: str) -> Path | None:
    """Return the folder with the newest checkpoint; see :func:`stopped_reason`."""
    times: dict[Path, float] = {}
    for folder in (path for kind in FOLDERS for path in (private / kind).glob(f"{stage}-*")):
        states = [path.stat().st_mtime for path in folder.glob("state-*")]
        if states and not (folder / TRIAL).exists() and not _is_in_use(folder):
            times[folder] = max(states)
    return max(times, key=lambda folder: times[folder], default=None)


def _is_in_use(folder: Path) -> bool:
    """Return True if a training runs that saves its checkpoints in a folder."""
    lock = folder / ".lock"
    # Opening the lock of a folder that another process replaces would create the folder again.
    if folder.parent.name == FINISHED or not lock.exists():
        return False
    with locked(lock, wait=False) as is_free:
        return not is_free


def _keep(folder: Path, private: Path) -> None:
    """Move a folder of checkpoints to the place of the one that is kept."""
    finished = private / FINISHED
    with locked(finished / ".lock"):
        _checkpoints(folder).delete_older()
        for old in finished.glob(f"{_KEPT_STAGE}-*"):
            shutil.rmtree(old)
        folder.rename(finished / folder.name.lstrip("."))


@dataclass(frozen=True)
class _Training:
    """What the result of a training depends on.

    Attributes:
        record: settings and inputs.
        machine: values of the machine; ``None`` if they are not known.
        length: the settings that determine the number of steps.
    """

    record: StageRecord
    machine: dict[str, Any] | None
    length: tuple[float, ...]

    @classmethod
    def of(cls, record: StageRecord, machine: dict[str, Any] | None = None) -> "_Training":
        """Return a training.

        Raises:
            ValueError: its length is not a number, because the record is damaged.
        """
        length = tuple(float(record.parameters.get(name) or 0) for name in _LENGTH)
        return cls(record, machine, length)

    def is_longer_than(self, other: "_Training") -> bool:
        """Return True if one of the values that determine the number of steps is larger."""
        return any(now > before for now, before in zip(self.length, other.length, strict=True))


def _recorded_training(stage: str) -> _Training | None:
    """Return the training that ``dvc.lock`` records."""
    with suppress(ValueError):
        record = _read_record(stage)
        return _Training.of(record) if record else None
    return None


def _read_record(stage: str) -> StageRecord | None:
    """Return DVC's record of a stage."""
    with suppress(OSError, ValueError):
        return read_lock(Path("dvc.lock").read_text("utf-8")).get(stage)
    return None


def _read_training(folder: Path) -> _Training | None:
    """Return the training of a folder of checkpoints; ``None`` if its removal was interrupted."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return _Training.of(_fingerprint(folder).as_record(), _read(folder / _MACHINE))
    return None


def _reason(
    now: _Training, saved: _Training | None, recorded: _Training | None, has_folder: bool
) -> str:
    """Return why the last training is not extended; empty if the present one is not longer.

    Args:
        now: the present training.
        saved: the training whose state is kept.
        recorded: the training that ``dvc.lock`` records.
        has_folder: True if a state is kept, possibly a damaged one.
    """
    last = recorded or saved
    if last is None or not now.is_longer_than(last):
        return ""
    if saved and (recorded is None or not _changes(recorded, saved)):
        return _changes_text(_changes(saved, now))  # none: an experiment has just trained it
    if _changes(last, now):  # not meant as an extension, for example another preset
        return ""
    if saved:
        return f"{PRIVATE / FINISHED} has the state of another training"
    if has_folder:
        return "the saved state of the finished training is damaged"
    return "the state of the finished training is not on this machine"


def _changes_text(changes: list[str]) -> str:
    """Return the first change and the number of others; empty if there is none."""
    first, *others = changes or [""]
    return first + (f" (and {count_text(len(others), 'other change')})" if others else "")


def _changes(before: _Training, now: _Training, with_length: bool = False) -> list[str]:
    """Return the differences of two trainings in words.

    A change of ``train.start_from`` is the first one.

    Args:
        before: the earlier training.
        now: the present one.
        with_length: include the settings that determine the number of steps.
    """
    changes: list[str] = []
    old, new = before.record.parameters, now.record.parameters
    for name in _different(old, new):
        if name.startswith("train.start_from"):  # its key is train.start_from.NAME, if any
            changes.insert(0, "train.start_from changed")
        elif with_length or name not in _LENGTH:
            changes.append(f"{name} was {old.get(name)} and is {new.get(name)}")
    if before.machine is not None and now.machine is not None:
        machines = before.machine, now.machine
        for name in _different(*machines):
            changes.append(f"{name} was {machines[0].get(name)} and is {machines[1].get(name)}")
    known, inputs = before.record.inputs, now.record.inputs
    if before.machine is None:  # DVC records the list of some inputs, not the inputs that it names
        inputs = {path: hash_ for path, hash_ in inputs.items() if path in known}
    for path in _different(known, inputs):
        if not (_is_start(path) and "train.start_from changed" in changes):
            changes.append(f"{_file_text(path)} changed")
    return list(dict.fromkeys(changes))


def _file_text(path: str) -> str:
    """Return what a file of the train stage is, in words that users know."""
    if is_code(path):
        return f"the code in {path}"
    return "the networks of train.start_from" if _is_start(path) else path


def _is_start(path: str) -> bool:
    """Return True for a network of ``train.start_from``, and for the list of them."""
    return Path(path).parent in (START, LISTS)


def _different(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _fingerprint(folder: Path) -> Fingerprint:
    return Fingerprint(**_read(folder / _FINGERPRINT))


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def _checkpoints(folder: Path) -> "Checkpoints":
    from atelier.core.checkpoints import Checkpoints  # imports torch

    return Checkpoints(folder)
