"""The journal: what a stage has to say, written down before anyone is told.

A stage appends entries to a folder of its own under ``.atelier/journal/``; another process
(:mod:`atelier.tracking.deliver`) reads them and tells MLflow. So the work never waits for
MLflow, and nothing is lost with it: what could not be delivered stays in the folder.

An entry is one line of JSON in ``entries.jsonl``. Files that it speaks of are hard links
(or copies) in the same folder, so that they outlive the stage's outputs. The journals of
one pipeline execution lie together, in a folder named after the process that runs it.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atelier.files import write_json
from atelier.tracking.workspace import Process

_ENTRIES = "entries.jsonl"
_PROBLEM = "problem.txt"
_PROCESS = "process.json"


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return int(time.time() * 1000)


def executions(private: Path) -> list[tuple[Path, Process]]:
    """Every pipeline execution's folder and the process that runs it, oldest first."""
    found = []
    for file in (private / "journal").glob(f"*/{_PROCESS}"):
        with suppress(OSError, ValueError, TypeError):
            found.append((file.parent, Process(**json.loads(file.read_text("utf-8")))))
    return sorted(found, key=lambda pair: pair[1].started)


def execution_folder(private: Path, process: Process) -> Path:
    """Where the journals of the pipeline that ``process`` runs lie."""
    return private / "journal" / process.key


def journals(execution: Path) -> list[Path]:
    """The folders of an execution's journals that are not wholly delivered, oldest first."""
    return sorted(path.parent for path in execution.glob(f"*/{_ENTRIES}"))


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
            yield json.loads(line), offset


def problem(journal: Path) -> str | None:
    """Why the last attempt to deliver a journal failed, where it did."""
    with suppress(OSError):
        return (journal / _PROBLEM).read_text("utf-8")
    return None


def note_problem(journal: Path, reason: str | None) -> None:
    """Write down why delivery failed, or that it does no more."""
    if reason is None:
        (journal / _PROBLEM).unlink(missing_ok=True)
    else:
        (journal / _PROBLEM).write_text(reason, "utf-8")


class Journal:
    """Appends entries to a new journal folder."""

    def __init__(self, private: Path, process: Process, stage: str) -> None:
        """Make a folder whose name sorts by time.

        Args:
            private: the repository's folder ``.atelier/``.
            process: the process that runs the pipeline.
            stage: becomes part of the folder's name.
        """
        execution = execution_folder(private, process)
        self.folder = execution / f"{now()}-{stage}-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir(parents=True)
        if not (execution / _PROCESS).exists():
            write_json(execution / _PROCESS, asdict(process))
        self._kept = 0
        self._entries = (self.folder / _ENTRIES).open("a", encoding="utf-8")

    def write(self, kind: str, **fields: Any) -> None:
        """Append an entry of a kind, with the time."""
        line = json.dumps({"kind": kind, "time": now(), **fields}, ensure_ascii=True)
        self._entries.write(line + "\n")
        # To the operating system at once: it outlives a killed process there.
        self._entries.flush()

    def keep(self, file: Path) -> str:
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
