"""Telling MLflow what the journals hold, beside the work.

One deliverer serves a pipeline execution: the first stage starts it, it reads the journals
as they grow, and it ends when the execution has. So MLflow is imported once a pipeline, and
beside the work. It also delivers what earlier executions could not.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from atelier.tracking.delivery import Delivery, client_of
from atelier.tracking.journal import (
    entries,
    execution_folder,
    executions,
    is_open,
    journals,
    note_problem,
)
from atelier.tracking.outcome import write_outcome
from atelier.tracking.store import in_short, locked, quiet_environment
from atelier.tracking.workspace import Process, private_folder

_POLL_SECONDS = 0.25
_RETRY_SECONDS = 5.0


def serve(root: Path, process: Process) -> None:
    """Deliver the journals of the execution that ``process`` runs, until it ends.

    Returns at once where another deliverer serves it already. A stage may outlive the dvc
    that started it; its journal is then followed to its own end.
    """
    execution = execution_folder(private_folder(root), process)
    with locked(execution / ".lock", wait=False) as mine:
        if not mine:
            return
        deliver_left_over(root)
        start: Mapping[str, Any] = {}
        more_may_come = True
        while more_may_come:
            # Asked before reading, so that nothing written before the end is missed.
            more_may_come = process.is_alive() or any(map(is_open, journals(execution)))
            start = _latest_start(execution) or start
            if not more_may_come and start.get("pipeline"):
                # Before anything else: what the next execution does is not this one's outcome.
                _try_outcome(root, process, start)
            trouble = _deliver_all(root, execution)
            if more_may_come:
                time.sleep(_RETRY_SECONDS if trouble else _POLL_SECONDS)
        _remove_if_empty(execution)


def deliver_left_over(root: Path) -> int:
    """Deliver what earlier executions left behind; return how many journals remain.

    Those that another deliverer serves are left to it, and those still written to are
    delivered as far as they go.
    """
    remaining = 0
    for execution in executions(private_folder(root)):
        with locked(execution / ".lock", wait=False) as mine:
            if mine:
                _deliver_all(root, execution)
                _remove_if_empty(execution)
        remaining += len(journals(execution))
    return remaining


def _deliver_all(root: Path, execution: Path) -> bool:
    """Deliver in order as far as it goes; return whether there was trouble, and note it."""
    for journal in journals(execution):
        try:
            Delivery(root, execution.name, journal).advance()
        except Exception as error:  # whatever MLflow raises, the journal stays
            note_problem(execution, in_short(error))
            client_of.cache_clear()
            return True
    note_problem(execution, None)
    return False


def _latest_start(execution: Path) -> Mapping[str, Any]:
    """The first entry of the newest journal of a stage, where there is one."""
    for journal in reversed(journals(execution)):
        first = next(entries(journal), None)
        if first and first[0]["kind"] == "start":
            return first[0]
    return {}


def _try_outcome(root: Path, process: Process, start: Mapping[str, Any]) -> None:
    """Write the outcome; the stages' own runs must not suffer where that fails."""
    try:
        write_outcome(root, process, start)
    except Exception as error:  # of DVC, of a full disk: told, and the rest is delivered
        note = private_folder(root) / "outcome-problem.txt"
        with suppress(OSError):
            note.write_text(f"{type(error).__name__}: {error}\n", "utf-8")


def _remove_if_empty(execution: Path) -> None:
    if not journals(execution):
        shutil.rmtree(execution, ignore_errors=True)


if __name__ == "__main__":
    quiet_environment()
    with suppress(OSError):
        os.nice(10)  # the work goes first
    serve(Path(sys.argv[1]), Process(int(sys.argv[2]), sys.argv[3]))
