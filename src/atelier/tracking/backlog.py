"""Entries that are not delivered yet: how many, of which stages, and why."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from atelier.tracking.journal import entries, executions, journals, noted_start, problem
from atelier.tracking.workspace import private_folder

DELIVERED = "delivered.json"


@dataclass(frozen=True)
class Waiting:
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


def waiting(root: Path) -> list[Waiting]:
    """Return the undelivered entries of all executions, oldest first."""
    return [
        Waiting(
            journal.name.split("-", 1)[1].rpartition("-")[0],
            journal,
            undelivered(journal),
            problem(execution) or "",
        )
        for execution in executions(private_folder(root))
        for journal in journals(execution)
    ]


def unwritten(root: Path) -> list[Unwritten]:
    """Return the executions without journals whose end is still to be recorded."""
    return [
        Unwritten(execution, str(start.get("problem", "")))
        for execution in executions(private_folder(root))
        if not journals(execution) and (start := noted_start(execution)) is not None
    ]


def undelivered(journal: Path) -> int:
    """Return how many entries of a journal are not delivered."""
    offset = 0
    with suppress(OSError, ValueError, AttributeError, TypeError):
        told = json.loads((journal / DELIVERED).read_text("utf-8"))
        offset = int(told.get("offset", 0))
    return sum(1 for _ in entries(journal, offset))
