"""What a stage was started with: its settings, its inputs and its code.

DVC records ``params.yaml``, the code and the inputs as they stand when a stage *ends*. So the
stage takes their fingerprint at the start, keeps unfinished work under it, and at the end
refuses to be recorded as what it was not.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.core.paths import LISTS, read_list
from atelier.core.yaml_files import read_yaml
from atelier.tracking.dvc_lock import StageRecord, is_code, read_lock
from atelier.tracking.environment import Process, gpu_names
from atelier.tracking.redact import flat, redact_urls
from atelier.tracking.store import locked

# Another number of threads rounds differently.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Fingerprint:
    """A stage's settings, inputs and code at a moment.

    Attributes:
        settings: the values that ``dvc.yaml`` names for the stage, by dotted key.
        files: what tells each dependency's content: of code its hash, of data the place, size
            and time of every file, which no edit leaves alike.
        contents: a hash of every dependency, which holds for other copies too.
    """

    settings: dict[str, Any]
    files: dict[str, str]
    contents: dict[str, str]

    def key(self, device: str) -> str:
        """A name for work that goes on only from the very same start, on a machine like this.

        Args:
            device: ``runtime.device``, as the settings have it.
        """
        machine = [version("torch"), os.cpu_count(), device, *gpu_names()]
        machine += [os.environ.get(name) for name in _THREADS]
        told = json.dumps([self.settings, self.contents, machine], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def is_recorded(self, record: StageRecord) -> bool:
        """Whether DVC's record of the stage is of this very start."""
        settings = {key: redact_urls(value) for key, value in self.settings.items()}
        return settings == record.parameters and all(
            self.contents.get(path) == hash_ for path, hash_ in record.inputs.items()
        )

    def changes(self, settings: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
        """What is no more as it was, in words."""
        words = [
            f"{key} was {self.settings.get(key)} and is {settings.get(key)}"
            for key in sorted({*self.settings, *settings})
            if self.settings.get(key) != settings.get(key)
        ]
        paths = sorted({*self.files, *files})
        return words + [
            f"{path} was changed" for path in paths if self.files.get(path) != files.get(path)
        ]


def capture(stage: str) -> Fingerprint | None:
    """Take the fingerprint of a stage of ``dvc.yaml``; nothing for one that it does not have.

    Raises:
        AtelierError: ``params.yaml`` or ``dvc.yaml`` is no YAML (any more).
    """
    seen = _snapshot(stage)
    if seen is None:
        return None
    settings, files = seen
    recorded = _recorded()
    contents = {path: recorded.get(path) or _content(Path(path)) for path in files}
    _reject_stale(contents)
    return Fingerprint(settings, files, contents)


def verify_unchanged(before: Fingerprint | None, stage: str) -> None:
    """See that a stage ends as it began.

    Raises:
        AtelierError: settings, inputs or code were changed meanwhile; the sentence says which.
    """
    later = _snapshot(stage) if before else None
    changes = before.changes(*later) if before and later else []
    if changes:
        told = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
        raise AtelierError(
            f"while {stage} ran, {told}. DVC would record the result as made from what stands"
            " there now, so it is not taken; put back what was, and `dvc repro` takes up the work"
            " of this run, or run it as it is now to start anew."
        )


def _snapshot(stage: str) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The settings and files that ``dvc.yaml`` names for a stage, as they are now."""
    chain = read_yaml(Path("dvc.yaml")) if Path("dvc.yaml").exists() else None
    described = ((chain or {}).get("stages") or {}).get(stage)
    if not isinstance(described, dict) or "deps" not in described:
        return None
    values = read_yaml(Path("params.yaml"))
    names = [name for name in described.get("params", []) if isinstance(name, str)]
    settings = flat({name: _value(values, name) for name in names})
    paths = [*described["deps"], *_listed_inputs(described["deps"])]
    return settings, {path: _stat(Path(path)) for path in paths}


def _listed_inputs(dependencies: Iterable[str]) -> dict[str, str]:
    """Return the hashes of files that dependencies list, by path: the stage reads these files."""
    lists = (Path(path) for path in dependencies if Path(path).parent == LISTS)
    return {path: hash_ for file in lists for path, hash_ in read_list(file).items()}


def _reject_stale(contents: Mapping[str, str]) -> None:
    """Raise if a file was changed after its hash was listed for DVC."""
    if "DVC_STAGE" not in os.environ:
        return
    for path, hash_ in _listed_inputs(contents).items():
        if contents[path] != hash_:
            raise AtelierError(
                f"{path} was changed after {LISTS} listed it; run `dvc repro` again, without -s."
            )


def _recorded() -> dict[str, str]:
    """The hashes of all stages' outputs; DVC saw to it that they are what lies there."""
    if not os.environ.get("DVC_STAGE") or not Path("dvc.lock").exists():
        return {}
    records = read_lock(Path("dvc.lock").read_text("utf-8")).values()
    return {path: hash_ for record in records for path, hash_ in record.outputs.items()}


def _value(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _stat(path: Path) -> str:
    """Code by its content, data by where, how large and when written, so that none is read."""
    if is_code(path.as_posix()):
        return _content(path)
    told = [
        f"{file} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
        for file in _files(path)
        for stat in (file.stat(),)
    ]
    return hashlib.md5("\n".join(told).encode()).hexdigest()  # noqa: S324 - as DVC does


def _content(path: Path) -> str:
    """Return the hash of a file or folder, as DVC computes it."""
    if path.is_dir():
        entries = [
            {"md5": _content(file), "relpath": file.relative_to(path).as_posix()}
            for file in _files(path)
        ]
        entries.sort(key=itemgetter("relpath"))
        listing = json.dumps(entries, sort_keys=True).encode()
        return f"{hashlib.md5(listing).hexdigest()}.dir"  # noqa: S324
    if not path.exists():
        return "missing"
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files of a folder in a fixed order, but for Python's own caches."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return (f for f in found if f.is_file() and "__pycache__" not in f.parts)


if TYPE_CHECKING:
    from atelier.core.checkpoints import Checkpoints

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS = 1.0
_STATES = ("state-*", "picture-*")  # of a training, of a painting


def handled_signals() -> list[signal.Signals]:
    """The signals to end that are not ignored: what nohup and a shell's & ignore stays so."""
    return [ending for ending in STOP_SIGNALS if signal.getsignal(ending) != signal.SIG_IGN]


class ResumeDir:
    """The unfinished work of one stage from one start."""

    def __init__(
        self,
        private: Path,
        stage: str,
        fingerprint: Fingerprint | None,
        device: str,
        pipeline: Process | None,
    ) -> None:
        """Name the place; nothing is made yet.

        Args:
            private: the repository's folder ``.atelier/``.
            stage: whose work.
            fingerprint: what it was started with; ``None`` keeps nothing.
            device: ``runtime.device``.
            pipeline: the ``dvc`` that runs the stage; the work stops when that dies.
        """
        self._stage = stage
        self._fingerprint = fingerprint
        self._pipeline = pipeline
        key = fingerprint.key(device) if fingerprint else "unknown"
        self.folder = private / "unfinished" / f"{stage}-{key}"
        self._asked = False
        self._looked = 0.0

    @property
    def exists(self) -> bool:
        """Whether an earlier attempt left a state to go on from."""
        return any(path for kind in _STATES for path in self.folder.glob(kind))

    @property
    def journal(self) -> str:
        """The journal that the first attempt wrote, which finds its MLflow run; or nothing."""
        with suppress(OSError):
            return (self.folder / "journal").read_text("utf-8") if self.exists else ""
        return ""

    @contextmanager
    def checkpoints(self, journal: str) -> Iterator["Checkpoints"]:
        """Hold the folder, and have a first signal to end only set :meth:`stop_asked`.

        A second one ends the work at once. Where another process does the very same work, this
        one does it without checkpoints of its own.

        Args:
            journal: the name of this attempt's journal.
        """
        from atelier.core.checkpoints import Checkpoints

        with ExitStack() as held:
            if not held.enter_context(locked(self.folder / ".lock", wait=False)):
                self.folder = self.folder.with_name(f".{self.folder.name}-{time.time_ns()}")
                held.enter_context(locked(self.folder / ".lock"))
            if not self.exists:
                (self.folder / "journal").write_text(journal, "utf-8")
                if self._fingerprint:
                    told = json.dumps(asdict(self._fingerprint), default=str)
                    (self.folder / "fingerprint.json").write_text(told, "utf-8")
            before = {ending: signal.signal(ending, self._note) for ending in handled_signals()}
            try:
                yield Checkpoints(self.folder)
            finally:
                for ending, handler in before.items():
                    signal.signal(ending, handler)
                if not self.exists:
                    # Nothing to go on from: on a full disk the old outputs need the room.
                    shutil.rmtree(self.folder, ignore_errors=True)

    def stop_requested(self) -> bool:
        """Whether the work should save itself and end: it was told to, or its dvc is dead."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._asked |= self._pipeline is not None and not self._pipeline.is_alive()
        return self._asked

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def remove_committed(private: Path) -> None:
    """Remove the work whose outputs DVC has recorded, and thus keeps."""
    with suppress(OSError):
        records = read_lock(Path("dvc.lock").read_text("utf-8"))
        for folder in (private / "unfinished").iterdir():
            stage = folder.name.lstrip(".").partition("-")[0]
            with suppress(OSError, ValueError, TypeError):
                told = json.loads((folder / "fingerprint.json").read_text("utf-8"))
                if stage in records and Fingerprint(**told).is_recorded(records[stage]):
                    shutil.rmtree(folder)


def stale(private: Path, days: float) -> list[Path]:
    """Work that was not touched for so many days, and that no stage is at."""
    before = time.time() - days * 86_400
    folders = [path for path in sorted((private / "unfinished").glob("*")) if path.is_dir()]
    return [folder for folder in folders if not _is_held(folder) and _touched(folder) < before]


def remove_stale(folder: Path) -> None:
    """Remove such work, unless a stage has taken it up meanwhile."""
    with locked(folder / ".lock", wait=False) as free:
        if free:
            shutil.rmtree(folder)


def _touched(folder: Path) -> float:
    """When anything in a folder was last written; now, where a file went while it was looked at."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _is_held(folder: Path) -> bool:
    lock = folder / ".lock"
    if not lock.exists():
        return False
    with locked(lock, wait=False) as free:
        return not free
