"""Work that a stage did not finish, kept for the next attempt at the very same.

It lies outside DVC's outputs, which DVC deletes before every run, in a folder named by the
fingerprint of settings, inputs and code, so that another experiment's work is never taken.
"""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from atelier.tracking.fingerprint import Fingerprint
from atelier.tracking.record import read_lock
from atelier.tracking.store import locked
from atelier.tracking.workspace import Process

if TYPE_CHECKING:
    from atelier.checkpoints import Checkpoints

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LOOK_SECONDS = 1.0
_STATES = ("state-*", "picture-*")  # of a training, of a painting


def heard() -> list[signal.Signals]:
    """The signals to end that are not ignored: what nohup and a shell's & ignore stays so."""
    return [ending for ending in ENDINGS if signal.getsignal(ending) != signal.SIG_IGN]


class Unfinished:
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
        from atelier.checkpoints import Checkpoints

        with ExitStack() as held:
            if not held.enter_context(locked(self.folder / ".lock", wait=False)):
                self.folder = self.folder.with_name(f".{self.folder.name}-{time.time_ns()}")
                held.enter_context(locked(self.folder / ".lock"))
            if not self.exists:
                (self.folder / "journal").write_text(journal, "utf-8")
                if self._fingerprint:
                    told = json.dumps(asdict(self._fingerprint), default=str)
                    (self.folder / "fingerprint.json").write_text(told, "utf-8")
            before = {ending: signal.signal(ending, self._note) for ending in heard()}
            try:
                yield Checkpoints(self.folder)
            finally:
                for ending, handler in before.items():
                    signal.signal(ending, handler)
                if not self.exists:
                    # Nothing to go on from: on a full disk the old outputs need the room.
                    shutil.rmtree(self.folder, ignore_errors=True)

    def stop_asked(self) -> bool:
        """Whether the work should save itself and end: it was told to, or its dvc is dead."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._asked |= self._pipeline is not None and not self._pipeline.is_alive()
        return self._asked

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def forget_committed(private: Path) -> None:
    """Remove the work whose outputs DVC has recorded, and thus keeps."""
    with suppress(OSError):
        records = read_lock(Path("dvc.lock").read_text("utf-8"))
        for folder in (private / "unfinished").iterdir():
            stage = folder.name.lstrip(".").partition("-")[0]
            with suppress(OSError, ValueError, TypeError):
                told = json.loads((folder / "fingerprint.json").read_text("utf-8"))
                if stage in records and Fingerprint(**told).is_recorded(records[stage]):
                    shutil.rmtree(folder)


def abandoned(private: Path, days: float) -> list[Path]:
    """Work that was not touched for so many days, and that no stage is at."""
    before = time.time() - days * 86_400
    folders = [path for path in sorted((private / "unfinished").glob("*")) if path.is_dir()]
    return [folder for folder in folders if not _is_held(folder) and _touched(folder) < before]


def forget_abandoned(folder: Path) -> None:
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
