"""The journal: what a stage has to say, written down before anyone is told.

A stage appends entries to a folder of its own under ``.atelier/journal/``; another process
(:mod:`atelier.tracking.worker`) reads them and tells MLflow. So the work never waits for
MLflow, and nothing is lost with it: what could not be delivered stays in the folder.

An entry is one line of JSON in ``entries.jsonl``. Files that it speaks of are hard links
(or copies) in the same folder, so that they outlive the stage's outputs. The journals of
one pipeline execution lie together, in a folder named after the process that runs it.
"""

import fcntl
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.core.files import write_text
from atelier.tracking import destination
from atelier.tracking.environment import Process, private_folder

_ENTRIES = "entries.jsonl"
_PROBLEM = "problem.txt"
_START = "start.json"


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return int(time.time() * 1000)


def executions(private: Path) -> list[Path]:
    """The folders of all pipeline executions that left something to deliver, oldest first."""
    folders = [folder for folder in (private / "journal").glob("*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: [journal.name for journal in outboxes(folder)])


def execution_folder(private: Path, process: Process) -> Path:
    """Where the journals of the pipeline that ``process`` runs lie."""
    return private / "journal" / process.key


def record_start(execution: Path, start: dict[str, Any] | None) -> None:
    """Keep how a pipeline was started, for its outcome; ``None`` forgets it."""
    file = execution / _START
    if start is None:
        file.unlink(missing_ok=True)
    else:
        # Escaped: a setting may hold a character that UTF-8 cannot encode.
        write_text(file, json.dumps(start))


def recorded_start(execution: Path) -> dict[str, Any] | None:
    """What :func:`record_start` kept; the outcome of such an execution is still to be written."""
    with suppress(OSError, ValueError, TypeError):
        start = json.loads((execution / _START).read_text("utf-8"))
        return dict(start)
    return None


def outboxes(execution: Path) -> list[Path]:
    """The folders of an execution's journals that are not wholly delivered, oldest first."""
    return sorted(path.parent for path in execution.glob(f"[!.]*/{_ENTRIES}"))


def is_open(journal: Path) -> bool:
    """Whether the stage that writes a journal still lives: it holds a lock as long as it does."""
    with suppress(FileNotFoundError), (journal / _ENTRIES).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def remove(journal: Path) -> None:
    """Remove a journal; one that is killed half-way leaves nothing that looks like a journal."""
    gone = journal.with_name(f".{journal.name}")
    journal.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def entries(journal: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each entry from ``offset`` bytes on, and the offset after it.

    A line without an end is still being written, or its writer died: it is left.
    """
    with suppress(FileNotFoundError), (journal / _ENTRIES).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _read(line), offset


def _read(line: bytes) -> dict[str, Any]:
    """Return an entry; a line that a power cut spoiled is an entry of its own kind."""
    try:
        entry = json.loads(line)
        entry["kind"], entry["time"]
    except (ValueError, KeyError, TypeError):
        return {"kind": "unreadable", "time": 0, "line": repr(line[:1000])}
    return dict(entry)


def problem(execution: Path) -> str | None:
    """Why the last attempt to deliver an execution's journals failed, where it did."""
    with suppress(OSError):
        return (execution / _PROBLEM).read_text("utf-8")
    return None


def record_problem(execution: Path, reason: str | None) -> None:
    """Write down why delivery failed, or that it fails no more."""
    with suppress(OSError):
        if reason is None:
            (execution / _PROBLEM).unlink(missing_ok=True)
        else:
            (execution / _PROBLEM).write_text(reason, "utf-8")


class Outbox:
    """Appends entries to a new journal folder."""

    def __init__(
        self, private: Path, process: Process, stage: str, kind: str = "start", **start: Any
    ) -> None:
        """Make a folder, whose name sorts by time, and write its first entry.

        Args:
            private: the repository's folder ``.atelier/``.
            process: the process that runs the pipeline.
            stage: the stage that writes.
            kind: of the first entry: ``start`` of a stage, or the ``outcome`` of a pipeline.
            start: more fields of the first entry.
        """
        name = f"{time.time_ns()}-{stage}-{uuid.uuid4().hex[:8]}"
        self.folder = execution_folder(private, process) / name
        unborn = self.folder.with_name(f".{name}")
        unborn.mkdir(parents=True)
        destination.record(self.folder.parent, private.parent)
        self._kept = 0
        self._lock = threading.Lock()
        self._entries = (unborn / _ENTRIES).open("a", encoding="utf-8")
        fcntl.flock(self._entries, fcntl.LOCK_EX)
        self.write(kind, stage=stage, **start)
        # Seen by others only now, so that nobody meets a journal without an entry or a lock.
        unborn.rename(self.folder)

    def write(self, kind: str, **fields: Any) -> None:
        """Append an entry of a kind, with the time."""
        line = json.dumps({"kind": kind, "time": now(), **fields}, ensure_ascii=True)
        with self._lock:  # the work and its system metrics speak from two threads
            self._entries.write(line + "\n")
            # To the operating system at once: it outlives a killed process there.
            self._entries.flush()

    def attach(self, file: Path) -> str:
        """Keep ``file`` as it is now and return the name that an entry may speak of it by."""
        self._kept += 1
        folder = self.folder / f"file-{self._kept:06d}"
        folder.mkdir()
        target = folder / file.name
        # Outputs are replaced, never written into, so a link keeps today's content.
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
        return str(target.relative_to(self.folder))

    def close(self) -> None:
        """Close the file; the entries stay."""
        self._entries.close()


DELIVERED = "delivered.json"


@dataclass(frozen=True)
class Pending:
    """Undelivered entries of one journal.

    Attributes:
        stage: that wrote them.
        journal: their folder.
        entries: how many.
        reason: why the last attempt failed; empty if none did.
    """

    stage: str
    journal: Path
    entries: int
    reason: str


@dataclass(frozen=True)
class Unwritten:
    """An execution whose end is not recorded yet.

    Attributes:
        execution: its folder.
        reason: why the last attempt failed; empty if none did.
    """

    execution: Path
    reason: str


def pending(root: Path) -> list[Pending]:
    """Return the undelivered entries of all executions, oldest first."""
    return [
        Pending(
            journal.name.split("-", 1)[1].rpartition("-")[0],
            journal,
            count_pending(journal),
            problem(execution) or "",
        )
        for execution in executions(private_folder(root))
        for journal in outboxes(execution)
    ]


def unwritten(root: Path) -> list[Unwritten]:
    """Return the executions without journals whose end is still to be recorded."""
    return [
        Unwritten(execution, str(start.get("problem", "")))
        for execution in executions(private_folder(root))
        if not outboxes(execution) and (start := recorded_start(execution)) is not None
    ]


def count_pending(journal: Path) -> int:
    """Return how many entries of a journal are not delivered."""
    offset = 0
    with suppress(OSError, ValueError, AttributeError, TypeError):
        told = json.loads((journal / DELIVERED).read_text("utf-8"))
        offset = int(told.get("offset", 0))
    return sum(1 for _ in entries(journal, offset))
