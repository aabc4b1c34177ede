"""Telling MLflow what the journals hold, beside the work.

One deliverer serves a pipeline execution: the first stage starts it, it reads the journals
as they grow, and it ends when the execution has. So MLflow is imported once a pipeline, and
beside the work. It also delivers what earlier executions could not.
"""

import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from atelier.tracking.delivery import Delivery, client_of
from atelier.tracking.journal import (
    execution_folder,
    executions,
    is_open,
    journals,
    note_problem,
    note_start,
    noted_start,
)
from atelier.tracking.outcome import LockWatch, write_outcome
from atelier.tracking.store import in_short, locked, quiet_environment
from atelier.tracking.workspace import Process, private_folder

_POLL_SECONDS = 0.25
# What a stage says is told in bursts, which cost the work beside less than a trickle does.
_FLUSH_SECONDS = 5.0
_RETRY_SECONDS = 5.0


def serve(root: Path, process: Process) -> None:
    """Deliver the journals of the execution that ``process`` runs, until it ends.

    Returns at once where another deliverer serves it already. A stage may outlive the dvc
    that started it; its journal is then followed to its own end.
    """
    execution = execution_folder(private_folder(root), process)
    with locked(_served(execution), wait=False) as mine:
        if not mine:
            return
        # In a thread of its own: however slow MLflow is, the outcome is read when it is there.
        watch = threading.Thread(target=_watch, args=(root, process), daemon=True)
        watch.start()
        more_may_come = trouble = True
        while more_may_come:
            # Asked before reading, so that nothing written before the end is missed.
            more_may_come = watch.is_alive()
            if trouble:
                # What is older comes first, also what another deliverer is at.
                deliver_left_over(root, wait=True)
            trouble = _deliver_all(root, execution)
            if trouble:
                watch.join(_RETRY_SECONDS)
            else:
                _pause(execution, watch)
    _remove_if_done(execution)


def _pause(execution: Path, watch: threading.Thread) -> None:
    """Let the stages say more; one that has ended waits to be delivered, so it ends the pause."""
    end = time.monotonic() + _FLUSH_SECONDS
    while watch.is_alive() and time.monotonic() < end and all(map(is_open, journals(execution))):
        watch.join(_POLL_SECONDS)


def deliver_now(root: Path) -> int:
    """Deliver all that can be delivered; return how many journals remain.

    Deliverers of executions that have ended are at their last words, and are waited for; what
    they could not deliver is tried again.
    """
    for execution in executions(private_folder(root)):
        if _has_ended(execution):
            with locked(_served(execution)):
                pass
    return deliver_left_over(root, wait=True)


def deliver_left_over(root: Path, wait: bool = False) -> int:
    """Deliver what earlier executions left behind; return how many journals remain.

    Those still written to are delivered as far as they go. An execution that ended unseen, since
    its deliverer was killed, gets its outcome now.
    """
    remaining = 0
    for execution in executions(private_folder(root)):
        process = Process.from_key(execution.name)
        if process and _has_ended(execution):
            with locked(_served(execution), wait=False) as unserved:
                if unserved:
                    _write_outcome(root, process, None)
        _deliver_all(root, execution, wait)
        _remove_if_done(execution)
        remaining += len(journals(execution))
    return remaining


def outcome_problem(root: Path) -> Path:
    """The file that says why the outcome of an execution could not be read, where it could not."""
    return private_folder(root) / "outcome-problem.txt"


def _deliver_all(root: Path, execution: Path, wait: bool = True) -> bool:
    """Deliver in order as far as it goes; return whether there was trouble, and note it.

    One deliverer at a time does; without ``wait``, what another is at is left to it.
    """
    if not execution.exists():
        return False
    with locked(execution / ".lock", wait) as mine:
        if not mine:
            return False
        for journal in journals(execution):
            try:
                Delivery(root, execution.name, journal).advance()
            except Exception as error:  # whatever MLflow raises, the journal stays
                note_problem(execution, in_short(error))
                client_of.cache_clear()
                return True
        note_problem(execution, None)
    return False


def _watch(root: Path, process: Process) -> None:
    """Wait for the end of an execution, and write its outcome at once."""
    execution = execution_folder(private_folder(root), process)
    lock = LockWatch(noted_start(execution))
    while process.is_alive() or any(map(is_open, journals(execution))):
        lock.look()
        time.sleep(_POLL_SECONDS)
    _write_outcome(root, process, lock)


def _write_outcome(root: Path, process: Process, lock: LockWatch | None) -> None:
    """Write an execution's outcome, once; the stages' own runs must not suffer if that fails."""
    execution = execution_folder(private_folder(root), process)
    start = noted_start(execution)
    if start is None:
        return
    try:
        write_outcome(root, process, start, lock)
    except Exception as error:  # of DVC, of a full disk: told by `atelier sync`
        with suppress(OSError):
            outcome_problem(root).write_text(f"{type(error).__name__}: {error}\n", "utf-8")
    note_start(execution, None)


def _has_ended(execution: Path) -> bool:
    """Whether the process that ran an execution of this machine is dead, and all its stages are."""
    process = Process.from_key(execution.name)
    alive = process is None or process.is_alive()
    return not alive and not any(map(is_open, journals(execution)))


def _served(execution: Path) -> Path:
    """The lock of the one deliverer that serves an execution while it runs."""
    return execution / ".served"


def _remove_if_done(execution: Path) -> None:
    """Remove the folder of an execution that has ended and is wholly delivered."""
    process = Process.from_key(execution.name)
    if not execution.exists() or (process and process.is_alive()):
        return
    with locked(_served(execution), wait=False) as unserved:
        if unserved and not journals(execution) and noted_start(execution) is None:
            shutil.rmtree(execution, ignore_errors=True)


def _stand_back() -> None:
    """Take processor time only where the work leaves some.

    Linux weighs sessions against one another before it weighs their processes (autogroup), so
    that in a session of its own, which a stage gives the deliverer, being nice does nothing.
    """
    with suppress(OSError):
        os.nice(19)
        if os.getsid(0) == os.getpid():
            Path("/proc/self/autogroup").write_text("19")


if __name__ == "__main__":
    quiet_environment()
    _stand_back()
    serve(Path(sys.argv[1]), Process(int(sys.argv[2]), sys.argv[3]))
