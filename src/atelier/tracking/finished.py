"""Checkpoints of stages whose outputs DVC has recorded.

Those of the last training are kept, because a longer one continues from them. Those of other
stages are removed.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import NotExtendableError
from atelier.core.paths import LISTS, START
from atelier.tracking.dvc_lock import is_code, read_lock
from atelier.tracking.run_state import FINISHED, Fingerprint, ResumeDir, machine_values
from atelier.tracking.store import locked

if TYPE_CHECKING:
    from atelier.core.checkpoints import Checkpoints

_KEPT_STAGE = "train"
_LENGTH = ("train.epochs", "train.steps")


def clear_recorded(private: Path) -> None:
    """Keep the checkpoints of a recorded training, and remove those of other recorded stages.

    Args:
        private: the repository's folder ``.atelier/``.
    """
    with suppress(OSError):
        records = read_lock(Path("dvc.lock").read_text("utf-8"))
        for folder in (private / "unfinished").iterdir():
            stage = folder.name.lstrip(".").partition("-")[0]
            with suppress(OSError, ValueError, TypeError):
                if stage in records and _fingerprint(folder).is_recorded(records[stage]):
                    if stage == _KEPT_STAGE and (folder / FINISHED).exists():
                        _keep(folder, private)
                    else:
                        shutil.rmtree(folder)


@contextmanager
def open_finished(resume_dir: ResumeDir) -> Iterator["Checkpoints | None"]:
    """Yield the checkpoints of the last recorded training, if the present one may extend it.

    Meanwhile no other process replaces them.

    Yields:
        ``None`` if there are none, or if both trainings have the same length.

    Raises:
        NotExtendableError: the trainings differ in more than their length. The message names the
            first difference.
    """
    finished, now = resume_dir.private / FINISHED, resume_dir.fingerprint
    if now is None or not finished.is_dir():
        yield None
        return
    with locked(finished / ".lock"):
        folder = next(finished.glob(f"{resume_dir.stage}-*"), None)
        is_longer = False
        if folder is not None:
            # A folder that was removed in part has no readable fingerprint.
            with suppress(OSError, ValueError, TypeError):
                before, machine = _fingerprint(folder), _read(folder / "machine.json")
                is_longer = _length(before) != _length(now)
                if is_longer:
                    _reject_differences(before, machine, now, machine_values(resume_dir.device))
        yield _checkpoints(folder) if folder is not None and is_longer else None


def _keep(folder: Path, private: Path) -> None:
    """Move a folder of checkpoints to the place of the one that is kept."""
    finished = private / FINISHED
    with locked(finished / ".lock"):
        if not folder.exists():  # another process has just moved it
            return
        _checkpoints(folder).delete_older()
        for old in finished.glob(f"{_KEPT_STAGE}-*"):
            shutil.rmtree(old)
        folder.rename(finished / folder.name.lstrip("."))


def _reject_differences(
    before: Fingerprint, machine_before: dict[str, Any], now: Fingerprint, machine: dict[str, Any]
) -> None:
    """Raise if trainings differ in more than their length."""
    present = Fingerprint(**json.loads(json.dumps(asdict(now), default=str)))
    for old, new in ((before.settings, present.settings), (machine_before, machine)):
        for name in _different(old, new):
            if name.startswith("train.start_from"):  # its key is train.start_from.NAME, if any
                raise NotExtendableError("train.start_from changed")
            if name not in _LENGTH:
                raise NotExtendableError(f"{name} was {old.get(name)} and is {new.get(name)}")
    for path in _different(before.contents, present.contents):
        raise NotExtendableError(f"{_file_text(path)} changed")


def _file_text(path: str) -> str:
    """Return what a file of the train stage is, in words that users know."""
    if is_code(path):
        return f"the code in {path}"
    if Path(path).parent in (START, LISTS):  # the list names nothing but these networks
        return "the networks of train.start_from"
    return path


def _different(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _length(fingerprint: Fingerprint) -> list[Any]:
    return [fingerprint.settings.get(name) for name in _LENGTH]


def _fingerprint(folder: Path) -> Fingerprint:
    return Fingerprint(**_read(folder / "fingerprint.json"))


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def _checkpoints(folder: Path) -> "Checkpoints":
    from atelier.core.checkpoints import Checkpoints  # imports torch

    return Checkpoints(folder)
