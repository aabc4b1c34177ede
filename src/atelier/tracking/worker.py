"""Telling MLflow what the journals hold, beside the work.

One deliverer serves a pipeline execution: the first stage starts it, it reads the journals
as they grow, and it ends when the execution has. So MLflow is imported once a pipeline, and
beside the work. It also delivers what earlier executions could not.
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
# What a stage says is told in bursts, which cost the work beside less than a trickle does.
_FLUSH_SECONDS = 5.0
_RETRY_SECONDS = 5.0
# An execution on another machine, or in another container, shows that it lives by touching a file.
_ALIVE = ".alive"
_ALIVE_SECONDS = 600.0
# So long `atelier sync` waits for another deliverer that makes no progress.
_GRACE_SECONDS = 60.0
# So often reading an outcome is tried, at least so far apart: what fails for another reason than
# the content passes, but an experiment that failed in a temporary copy never has a commit.
_OUTCOME_ATTEMPTS = 20
_TREE_ATTEMPTS = 3
_ATTEMPT_SECONDS = 60.0


@dataclass(frozen=True)
class _NamedProcess(Process):
    """The process of an execution on another host, known by the execution's name only."""

    name: str = ""

    @property
    def key(self) -> str:
        """The name of the execution's folder."""
        return self.name

    def is_alive(self) -> bool:
        """Return ``False``: it is asked only once the execution has ended."""
        return False


def run_worker(root: Path, process: Process) -> None:
    """Deliver the journals of the execution that ``process`` runs, until it ends.

    Returns at once where another deliverer serves it already. A stage may outlive the dvc
    that started it; its journal is then followed to its own end.
    """
    execution = execution_folder(private_folder(root), process)
    with locked(_lock_worker(execution), wait=False) as mine:
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
                flush_backlog(root, wait=True)
            trouble = _deliver_all(root, execution)
            if trouble:
                watch.join(_RETRY_SECONDS)
            else:
                _pause(execution, watch)
    _remove_if_done(execution)


def _pause(execution: Path, watch: threading.Thread) -> None:
    """Let the stages say more; one that has ended waits to be delivered, so it ends the pause."""
    end = time.monotonic() + _FLUSH_SECONDS
    while watch.is_alive() and time.monotonic() < end and all(map(is_open, outboxes(execution))):
        watch.join(_POLL_SECONDS)


@dataclass
class DeliveryCount:
    """What an attempt to deliver came to.

    Attributes:
        delivered: number of entries that were delivered.
        busy: whether another process was delivering entries until the end of the wait.
    """

    delivered: int = 0
    busy: bool = False


def flush(
    root: Path,
    everything: bool = False,
    here: bool = False,
    tally: DeliveryCount | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> int:
    """Deliver all that can be delivered; return how many journals remain.

    Deliverers of executions that have ended are at their last words, and are waited for; what
    they could not deliver is tried again.

    Args:
        root: the main project.
        everything: end executions of other hosts at once, which show no sign of life.
        here: deliver to the present store also what was written for another.
        tally: counts what is delivered.
        say: shows a message before a wait that may be long.
    """
    for execution in executions(private_folder(root)):
        if here:
            destination.replace(execution, root)
            record_problem(execution, None)
        if _has_ended(execution, everything):
            _wait_for_worker(root, execution, say)
    return flush_backlog(root, wait=True, everything=everything, tally=tally)


def _wait_for_worker(root: Path, execution: Path, say: Callable[[str], None]) -> None:
    """Wait while another deliverer serves an execution and makes progress."""
    before, end, said = -1, 0.0, False
    began = time.monotonic()
    while True:
        with locked(_lock_worker(execution), wait=False) as unserved:
            if unserved:
                return
        left = sum(each.entries for each in pending(root))
        if left != before:
            before, end = left, time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > end:
            return
        if not said and time.monotonic() - began > 3:
            said = True
            say("Another process delivers already; waiting for it (Ctrl-C ends the wait).")
        time.sleep(_POLL_SECONDS)


def flush_backlog(
    root: Path, wait: bool = False, everything: bool = False, tally: DeliveryCount | None = None
) -> int:
    """Deliver what earlier executions left behind; return how many journals remain.

    Those still written to are delivered as far as they go. An execution that ended unseen, since
    its deliverer was killed, gets its outcome now.
    """
    unreachable = ""
    for execution in executions(private_folder(root)):
        if _has_ended(execution, everything):
            with locked(_lock_worker(execution), wait=False) as unserved:
                if unserved:
                    _write_outcome(root, _process(execution), None)
        if unreachable and outboxes(execution) and not _other_store(root, execution):
            # A server that does not answer is not asked again for every execution.
            record_problem(execution, unreachable)
            continue
        trouble = _deliver_all(root, execution, wait, tally)
        if trouble and is_remote() and not _other_store(root, execution):
            reason = problem(execution) or ""
            unreachable = reason if "no answer" in reason else ""
        _remove_if_done(execution)
    return sum(len(outboxes(execution)) for execution in executions(private_folder(root)))


def _other_store(root: Path, execution: Path) -> bool:
    """Return whether an execution's entries are for another store, and note that."""
    try:
        destination.require_same_store(execution, root)
    except destination.OtherStoreError as error:
        record_problem(execution, str(error))
        return True
    return False


def outcome_problem(root: Path) -> Path:
    """The file that says why the outcome of an execution could not be read, where it could not."""
    return private_folder(root) / "outcome-problem.txt"


def _deliver_all(
    root: Path, execution: Path, wait: bool = True, tally: DeliveryCount | None = None
) -> bool:
    """Deliver in order as far as it goes; return whether there was trouble, and note it.

    One deliverer at a time does; without ``wait``, what another is at is left to it.
    """
    if not execution.exists():
        return False
    if outboxes(execution) and _other_store(root, execution):
        return True
    with locked_soon(execution / ".lock", _GRACE_SECONDS if wait else 0) as mine:
        if not mine:
            if tally:
                tally.busy = True
            return wait
        for journal in outboxes(execution):
            delivery = Delivery(root, execution.name, journal)
            try:
                delivery.deliver_pending()
            except Exception as error:  # whatever MLflow raises, the journal stays
                record_problem(execution, short_message(error))
                client_of.cache_clear()
                return True
            finally:
                if tally:
                    tally.delivered += delivery.delivered
        record_problem(execution, None)
    return False


def _watch(root: Path, process: Process) -> None:
    """Wait for the end of an execution, and write its outcome at once."""
    execution = execution_folder(private_folder(root), process)
    lock = LockFileSnapshot(recorded_start(execution))
    while process.is_alive() or any(map(is_open, outboxes(execution))):
        lock.refresh()
        with suppress(OSError):
            (execution / _ALIVE).touch()
        time.sleep(_POLL_SECONDS)
    _write_outcome(root, process, lock)


def _write_outcome(root: Path, process: Process, lock: LockFileSnapshot | None) -> None:
    """Write an execution's outcome, once; the stages' own runs must not suffer if that fails."""
    execution = execution_folder(private_folder(root), process)
    start = recorded_start(execution)
    if start is None:
        return
    again = bool(start.get("attempts"))
    try:
        here = {"workspace": str(root.resolve())} if _in_main_folder(start) else {}
        # As this machine or container calls it; the other may have had another path.
        if again:
            write_outcome(root, process, start | here, lock, patience=0)
        else:
            write_outcome(root, process, start | here, lock)
    except Exception as error:  # of DVC, of a full disk: told by `atelier sync`
        reason = short_message(error)
        if _is_last_attempt(execution, start, error, reason):
            with suppress(OSError):
                outcome_problem(root).write_text(f"{reason}\n", "utf-8")
            record_start(execution, None)
    else:
        record_start(execution, None)


def _is_last_attempt(execution: Path, start: dict[str, Any], error: Exception, reason: str) -> bool:
    """Count a failed attempt to write an outcome; return whether it was the last one."""
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
    """Return whether an execution ran in the main project's folder, by whatever path."""
    return bool(start.get("root")) and start.get("workspace") == start["root"]


def _has_ended(execution: Path, everything: bool = False) -> bool:
    """Return whether the process that ran an execution is dead, and all its stages are.

    That of another host, or of a container with another name, cannot be looked at. It has ended
    if no stage holds its journal's lock and no deliverer shows that it lives.

    Args:
        execution: its folder.
        everything: take an execution of another host for dead at once.
    """
    if any(map(is_open, outboxes(execution))):
        return False
    process = Process.from_key(execution.name)
    if process:
        return not process.is_alive()
    with locked(_lock_worker(execution), wait=False) as unserved:
        return unserved and (everything or time.time() - _last_sign(execution) > _ALIVE_SECONDS)


def _last_sign(execution: Path) -> float:
    """Return when an execution last showed that it lives, in seconds since 1970."""
    files = (execution / _ALIVE, execution, *execution.glob("[!.]*/entries.jsonl"))
    times = [0.0]
    for file in files:
        with suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def _process(execution: Path) -> Process:
    """Return the process that ran an execution, also one of another host."""
    return Process.from_key(execution.name) or _NamedProcess(0, "", execution.name)


def _lock_worker(execution: Path) -> Path:
    """The lock of the one deliverer that serves an execution while it runs."""
    return execution / ".served"


def _remove_if_done(execution: Path) -> None:
    """Remove the folder of an execution that has ended and is wholly delivered."""
    process = Process.from_key(execution.name)
    if not execution.exists() or (process and process.is_alive()):
        return
    if process is None and recorded_start(execution) is not None:
        return
    with locked(_lock_worker(execution), wait=False) as unserved:
        if unserved and not outboxes(execution) and recorded_start(execution) is None:
            shutil.rmtree(execution, ignore_errors=True)


if __name__ == "__main__":
    # At the work's own priority: a stage waits for it at its end, and what was lowered once only
    # root can raise again. Bursts with pauses between keep its share small.
    quiet_environment()
    run_worker(Path(sys.argv[1]), Process(int(sys.argv[2]), sys.argv[3]))
