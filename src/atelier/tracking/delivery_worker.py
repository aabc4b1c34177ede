"""Worker process that delivers outboxes to MLflow while stages run.

Each pipeline execution has one worker. The first stage starts it; it delivers entries as stages
write them, and exits after the execution. So MLflow is imported once per pipeline, and outside of
the stages. The worker also delivers pending entries of earlier executions.
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.tracking import destination
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.execution import LockFileSnapshot, NoTreeError, write_outcome
from atelier.tracking.mlflow_writer import Delivery
from atelier.tracking.outbox import (
    execution_folder,
    executions,
    is_open,
    outboxes,
    pending,
    problem,
    record_problem,
    record_start,
    recorded_start,
)
from atelier.tracking.store import (
    client_of,
    is_remote,
    locked,
    locked_soon,
    quiet_environment,
    short_message,
)

_POLL_SECONDS = 0.25
# Delivery in bursts slows a running stage less than continuous delivery.
_FLUSH_SECONDS = 5.0
_RETRY_SECONDS = 5.0
# File that a worker touches: other hosts and containers cannot see its process.
_ALIVE = ".alive"
_ALIVE_SECONDS = 600.0
# Time that `atelier sync` waits for another worker that makes no progress.
_GRACE_SECONDS = 60.0
# Attempts to write an outcome, and seconds between them. Most errors are temporary, but an
# experiment that failed in a temporary copy never has a commit.
_OUTCOME_ATTEMPTS = 20
_TREE_ATTEMPTS = 3
_ATTEMPT_SECONDS = 60.0
# Time in which DVC fetches the commit of an experiment.
_COMMIT_SECONDS = 30.0


@dataclass(frozen=True)
class _NamedProcess(Process):
    """Process of an execution on another host, of which only the execution's name is known."""

    name: str = ""

    @property
    def key(self) -> str:
        """Name of the execution's folder."""
        return self.name

    def is_alive(self) -> bool:
        """Return ``False``: instances exist only for executions that have ended."""
        return False


def run_worker(root: Path, process: Process) -> None:
    """Deliver the outboxes of the execution that ``process`` runs, until it ends.

    Return at once if the execution has another worker. If a stage outlives its dvc, its outbox is
    delivered to its end.
    """
    execution = execution_folder(private_folder(root), process)
    with locked(_worker_lock(execution), wait=False) as is_only_worker:
        if not is_only_worker:
            return
        # In its own thread, so that a slow MLflow does not delay reading the outcome.
        watch = threading.Thread(target=_watch, args=(root, process), daemon=True)
        watch.start()
        more_may_come = failed = True
        while more_may_come:
            # Checked before reading, so that entries written before the end are included.
            more_may_come = watch.is_alive()
            if failed:
                # Older executions come first, also those that another process delivers.
                flush_backlog(root, wait=True)
            failed = _deliver_all(root, execution)
            if failed:
                watch.join(_RETRY_SECONDS)
            else:
                _pause(execution, watch)
    _remove_if_done(execution)


def _pause(execution: Path, watch: threading.Thread) -> None:
    """Wait for more entries, until the next burst or until a stage ends."""
    end = time.monotonic() + _FLUSH_SECONDS
    while watch.is_alive() and time.monotonic() < end and all(map(is_open, outboxes(execution))):
        watch.join(_POLL_SECONDS)


@dataclass
class DeliveryCount:
    """Result of an attempt to deliver.

    Attributes:
        delivered: number of delivered entries.
        busy: True if another process was still delivering when the wait ended.
    """

    delivered: int = 0
    busy: bool = False


def flush(
    root: Path,
    everything: bool = False,
    here: bool = False,
    tally: DeliveryCount | None = None,
    show: Callable[[str], None] = lambda message: None,
) -> int:
    """Deliver all pending entries; return the number of outboxes that remain.

    Workers of executions that have ended are waited for. What they could not deliver is tried
    again.

    Args:
        root: the main project.
        everything: end executions of other hosts that show no activity at once.
        here: deliver entries for another store to the present one.
        tally: counts delivered entries.
        show: called with a message before a wait that may be long.
    """
    for execution in executions(private_folder(root)):
        if here:
            destination.replace(execution, root)
            record_problem(execution, None)
        if _has_ended(execution, everything):
            _wait_for_worker(root, execution, show)
    return flush_backlog(root, wait=True, everything=everything, tally=tally)


def _wait_for_worker(root: Path, execution: Path, show: Callable[[str], None]) -> None:
    """Wait while another worker delivers an execution and makes progress."""
    before, end, is_announced = -1, 0.0, False
    start = time.monotonic()
    while True:
        with locked(_worker_lock(execution), wait=False) as has_no_worker:
            if has_no_worker:
                return
        waiting = sum(each.entries for each in pending(root))
        if waiting != before:
            before, end = waiting, time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > end:
            return
        if not is_announced and time.monotonic() - start > 3:
            is_announced = True
            show("Another process delivers already; waiting for it (Ctrl-C ends the wait).")
        time.sleep(_POLL_SECONDS)


def flush_backlog(
    root: Path, wait: bool = False, everything: bool = False, tally: DeliveryCount | None = None
) -> int:
    """Deliver entries of all executions; return the number of outboxes that remain.

    Of open outboxes, the present entries are delivered. If an execution ended after its worker was
    killed, its outcome is written now.
    """
    unreachable = ""
    for execution in executions(private_folder(root)):
        if _has_ended(execution, everything):
            with locked(_worker_lock(execution), wait=False) as has_no_worker:
                if has_no_worker:
                    _write_outcome(root, _process(execution), None)
        if unreachable and outboxes(execution) and not _is_for_other_store(root, execution):
            # A server that does not respond is not tried again for each execution.
            record_problem(execution, unreachable)
            continue
        failed = _deliver_all(root, execution, wait, tally)
        if failed and is_remote() and not _is_for_other_store(root, execution):
            reason = problem(execution) or ""
            unreachable = reason if "no answer" in reason else ""
        _remove_if_done(execution)
    return sum(len(outboxes(execution)) for execution in executions(private_folder(root)))


def _is_for_other_store(root: Path, execution: Path) -> bool:
    """Return True if an execution's entries are for another store, and record that problem."""
    try:
        destination.require_same_store(execution, root)
    except destination.OtherStoreError as error:
        record_problem(execution, str(error))
        return True
    return False


def outcome_problem(root: Path) -> Path:
    """Return the file with the reason why an execution's outcome could not be read."""
    return private_folder(root) / "outcome-problem.txt"


def _deliver_all(
    root: Path, execution: Path, wait: bool = True, tally: DeliveryCount | None = None
) -> bool:
    """Deliver an execution's outboxes in order; return True and record the reason if one fails.

    Only one process delivers at a time. Without ``wait``, an execution that another process
    delivers is skipped.
    """
    if not execution.exists():
        return False
    if outboxes(execution) and _is_for_other_store(root, execution):
        return True
    with locked_soon(execution / ".lock", _GRACE_SECONDS if wait else 0) as is_locked:
        if not is_locked:
            if tally:
                tally.busy = True
            return wait
        for outbox in outboxes(execution):
            delivery = Delivery(root, execution.name, outbox)
            try:
                delivery.deliver_pending()
            except Exception as error:  # any error of MLflow; the outbox stays
                record_problem(execution, short_message(error))
                client_of.cache_clear()
                return True
            finally:
                if tally:
                    tally.delivered += delivery.delivered
        record_problem(execution, None)
    return False


def _watch(root: Path, process: Process) -> None:
    """Wait for the end of an execution, and write its outcome."""
    execution = execution_folder(private_folder(root), process)
    lock = LockFileSnapshot(recorded_start(execution))
    while process.is_alive() or any(map(is_open, outboxes(execution))):
        lock.refresh()
        with suppress(OSError):
            (execution / _ALIVE).touch()
        time.sleep(_POLL_SECONDS)
    _write_outcome(root, process, lock)


def _write_outcome(root: Path, process: Process, lock: LockFileSnapshot | None) -> None:
    """Write an execution's outcome once; an error does not affect the runs of its stages."""
    execution = execution_folder(private_folder(root), process)
    start = recorded_start(execution)
    if start is None:
        return
    try:
        # This machine or container may know the folder by another path.
        here = {"workspace": str(root.resolve())} if _in_main_folder(start) else {}
        patience = 0 if start.get("attempts") else _COMMIT_SECONDS
        write_outcome(root, process, start | here, lock, patience)
    except Exception as error:  # e.g. of DVC or a full disk; `atelier sync` reports it
        reason = short_message(error)
        if _is_last_attempt(execution, start, error, reason):
            with suppress(OSError):
                outcome_problem(root).write_text(f"{reason}\n", "utf-8")
            record_start(execution, None)
    else:
        record_start(execution, None)


def _is_last_attempt(execution: Path, start: dict[str, Any], error: Exception, reason: str) -> bool:
    """Count a failed attempt to write an outcome; return True if it was the last one."""
    attempts, now = int(start.get("attempts", 0)), time.time()
    if attempts and abs(now - float(start.get("attempted", 0))) < _ATTEMPT_SECONDS:
        return False
    if attempts + 1 >= (_TREE_ATTEMPTS if isinstance(error, NoTreeError) else _OUTCOME_ATTEMPTS):
        return True
    with suppress(OSError):
        counted = {"attempts": attempts + 1, "attempted": now, "problem": reason}
        record_start(execution, start | counted)
    return False


def _in_main_folder(start: dict[str, Any]) -> bool:
    """Return True if an execution ran in the main project's folder, by any path."""
    return bool(start.get("root")) and start.get("workspace") == start["root"]


def _has_ended(execution: Path, everything: bool = False) -> bool:
    """Return True if the process that ran an execution and all its stages have exited.

    Processes of another host or container are not visible. Such an execution has ended if its
    outboxes are closed, it has no worker, and no file was touched for some minutes.

    Args:
        execution: its folder.
        everything: do not wait for these minutes.
    """
    if any(map(is_open, outboxes(execution))):
        return False
    process = Process.from_key(execution.name)
    if process:
        return not process.is_alive()
    with locked(_worker_lock(execution), wait=False) as has_no_worker:
        is_silent = time.time() - _last_activity(execution) > _ALIVE_SECONDS
        return has_no_worker and (everything or is_silent)


def _last_activity(execution: Path) -> float:
    """Return when an execution last touched a file, in seconds since 1970."""
    files = (execution / _ALIVE, execution, *execution.glob("[!.]*/entries.jsonl"))
    times = [0.0]
    for file in files:
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def _process(execution: Path) -> Process:
    """Return the process that ran an execution, possibly on another host."""
    return Process.from_key(execution.name) or _NamedProcess(0, "", execution.name)


def _worker_lock(execution: Path) -> Path:
    """Return the lock file of an execution's worker."""
    return execution / ".served"


def _remove_if_done(execution: Path) -> None:
    """Remove the folder of an execution that has ended and is completely delivered."""
    process = Process.from_key(execution.name)
    if not execution.exists() or (process and process.is_alive()):
        return
    if process is None and recorded_start(execution) is not None:
        return
    with locked(_worker_lock(execution), wait=False) as has_no_worker:
        if has_no_worker and not outboxes(execution) and recorded_start(execution) is None:
            shutil.rmtree(execution, ignore_errors=True)


if __name__ == "__main__":
    # At normal priority, because stages wait for it at their end. A lowered priority can only be
    # raised again by root. Pauses between bursts keep its CPU usage small.
    quiet_environment()
    run_worker(Path(sys.argv[1]), Process(int(sys.argv[2]), sys.argv[3]))
