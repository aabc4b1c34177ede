"""Transactional outbox for MLflow entries.

A stage appends entries to its own folder below ``.atelier/journal/``. Another process
(:mod:`atelier.tracking.delivery_worker`) delivers them to MLflow. So a stage never waits for
MLflow while it works, and entries that cannot be delivered stay in the folder.

An entry is one line of JSON in ``entries.jsonl``. Attached files are hard links or copies in the
same folder, so that they outlive the stage's outputs. The outboxes of one pipeline execution share
a folder, which is named after the process that runs the pipeline.
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

DELIVERED = "delivered.json"
_ENTRIES = "entries.jsonl"
_PROBLEM = "problem.txt"
_START = "start.json"


def now() -> int:
    """Return milliseconds since 1970, the unit of MLflow's times."""
    return int(time.time() * 1000)


def executions(private: Path) -> list[Path]:
    """Return the folders of all executions that are not completely delivered, oldest first."""
    folders = [folder for folder in (private / "journal").glob("*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: [outbox.name for outbox in outboxes(folder)])


def execution_folder(private: Path, process: Process) -> Path:
    """Return the folder for the outboxes of the pipeline that ``process`` runs."""
    return private / "journal" / process.key


def record_start(execution: Path, start: dict[str, Any] | None) -> None:
    """Save how an execution was started, which its outcome needs; ``None`` deletes the record."""
    file = execution / _START
    if start is None:
        file.unlink(missing_ok=True)
    else:
        # ASCII, because a setting may contain a character that UTF-8 cannot encode.
        write_text(file, json.dumps(start))


def recorded_start(execution: Path) -> dict[str, Any] | None:
    """Return the record of :func:`record_start`; it exists until the outcome is written."""
    with suppress(OSError, ValueError, TypeError):
        start = json.loads((execution / _START).read_text("utf-8"))
        return dict(start)
    return None


def outboxes(execution: Path) -> list[Path]:
    """Return the outboxes of an execution that are not completely delivered, oldest first."""
    return sorted(path.parent for path in execution.glob(f"[!.]*/{_ENTRIES}"))


def is_open(outbox: Path) -> bool:
    """Return True while the stage that writes an outbox runs; it holds a file lock."""
    with suppress(FileNotFoundError), (outbox / _ENTRIES).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def has_earlier_attempt(private: Path, outbox: Path, stage: str) -> bool:
    """Return True if an older, closed outbox of a stage waits for delivery to the same store."""
    store = destination.recorded(outbox.parent)
    return any(
        other.name < outbox.name and other.name.split("-")[1] == stage and not is_open(other)
        for execution in executions(private)
        if destination.recorded(execution) in (None, store)
        for other in outboxes(execution)
    )


def remove(outbox: Path) -> None:
    """Remove an outbox; it is renamed first, so that no partly removed one is found."""
    hidden = outbox.with_name(f".{outbox.name}")
    outbox.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def entries(outbox: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each entry from byte ``offset`` on, and the offset after it.

    A last line without a newline is ignored: it is still being written, or its writer was killed.
    """
    with suppress(FileNotFoundError), (outbox / _ENTRIES).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield _parse(line), offset


def _parse(line: bytes) -> dict[str, Any]:
    """Return an entry; a damaged line becomes an entry of the kind ``unreadable``."""
    try:
        entry = json.loads(line)
        entry["kind"], entry["time"]
    except (ValueError, KeyError, TypeError):
        return {"kind": "unreadable", "time": 0, "line": repr(line[:1000])}
    return dict(entry)


def problem(execution: Path) -> str | None:
    """Return why the last delivery of an execution failed; ``None`` if it did not fail."""
    with suppress(OSError):
        return (execution / _PROBLEM).read_text("utf-8")
    return None


def record_problem(execution: Path, reason: str | None) -> None:
    """Save why delivery failed; ``None`` deletes the record."""
    with suppress(OSError):
        if reason is None:
            (execution / _PROBLEM).unlink(missing_ok=True)
        else:
            (execution / _PROBLEM).write_text(reason, "utf-8")


class Outbox:
    """Appends entries to a new outbox folder."""

    def __init__(
        self, private: Path, process: Process, stage: str, kind: str = "start", **start: Any
    ) -> None:
        """Create a folder, whose name sorts by time, and write the first entry.

        Args:
            private: the repository's folder ``.atelier/``.
            process: the process that runs the pipeline.
            stage: name of the stage that writes.
            kind: kind of the first entry: ``start`` of a stage, or a pipeline's ``outcome``.
            start: more fields of the first entry.
        """
        name = f"{time.time_ns()}-{stage}-{uuid.uuid4().hex[:8]}"
        self.folder = execution_folder(private, process) / name
        hidden = self.folder.with_name(f".{name}")
        hidden.mkdir(parents=True)
        destination.record(self.folder.parent, private.parent)
        self._attached = 0
        self._lock = threading.Lock()
        self._entries = (hidden / _ENTRIES).open("a", encoding="utf-8")
        fcntl.flock(self._entries, fcntl.LOCK_EX)
        self.write(kind, stage=stage, **start)
        # Renamed last, so that no process finds an outbox without an entry or a lock.
        hidden.rename(self.folder)

    def write(self, kind: str, **fields: Any) -> None:
        """Append an entry of a kind; the present time is added."""
        line = json.dumps({"kind": kind, "time": now(), **fields}, ensure_ascii=True)
        with self._lock:  # the stage and its sampler of system metrics write from two threads
            self._entries.write(line + "\n")
            # Once the operating system has the line, it outlives a killed process.
            self._entries.flush()

    def attach(self, file: Path) -> str:
        """Link or copy a file into the folder; return its path for an entry."""
        self._attached += 1
        folder = self.folder / f"file-{self._attached:06d}"
        folder.mkdir()
        target = folder / file.name
        # Outputs are replaced, never changed in place, so a link keeps the present content.
        try:
            os.link(file, target)
        except OSError:
            shutil.copyfile(file, target)
        return str(target.relative_to(self.folder))

    def close(self) -> None:
        """Close the file and release its lock; the entries stay."""
        self._entries.close()


@dataclass(frozen=True)
class Pending:
    """Undelivered entries of one outbox.

    Attributes:
        stage: name of the stage that wrote them.
        outbox: their folder.
        entries: their number.
        reason: why the last delivery failed; empty if it did not fail.
    """

    stage: str
    outbox: Path
    entries: int
    reason: str


@dataclass(frozen=True)
class Unwritten:
    """An execution whose outcome is not written yet.

    Attributes:
        execution: its folder.
        reason: why the last attempt failed; empty if it did not fail.
    """

    execution: Path
    reason: str


def pending(root: Path) -> list[Pending]:
    """Return the undelivered entries of all executions, oldest first."""
    return [
        Pending(
            outbox.name.split("-", 1)[1].rpartition("-")[0],
            outbox,
            count_pending(outbox),
            problem(execution) or "",
        )
        for execution in executions(private_folder(root))
        for outbox in outboxes(execution)
    ]


def unwritten(root: Path) -> list[Unwritten]:
    """Return the executions without outboxes whose outcome is not written yet."""
    return [
        Unwritten(execution, str(start.get("problem", "")))
        for execution in executions(private_folder(root))
        if not outboxes(execution) and (start := recorded_start(execution)) is not None
    ]


def count_pending(outbox: Path) -> int:
    """Return the number of undelivered entries of an outbox."""
    offset = 0
    with suppress(OSError, ValueError, AttributeError, TypeError):
        progress = json.loads((outbox / DELIVERED).read_text("utf-8"))
        offset = int(progress.get("offset", 0))
    return sum(1 for _ in entries(outbox, offset))
