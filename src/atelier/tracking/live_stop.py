"""Stop of a running pipeline, as Ctrl-C does."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from atelier.core.errors import AtelierError
from atelier.tracking.environment import Process
from atelier.tracking.live_state import FOLDER, STOP, StageState, running
from atelier.tracking.live_view import (
    Execution,
    executions,
    interrupted_message,
    repeated_command,
)

_POLL_SECONDS = 0.1
_WAIT_SECONDS = 600.0
_CLAIM_SECONDS = 60.0
# Keys of the processes that this one has sent the signal, if no file can be written.
_sent: set[str] = set()


def request_stop(private: Path, name: str, state: StageState) -> bool:
    """Send a stage the signal that Ctrl-C sends it, once; return false if it has ended.

    ``dvc`` ignores Ctrl-C while a stage runs, and ends because the stage fails; so it needs no
    signal. A second signal would end the stage before it has saved a checkpoint, so none is sent.

    Args:
        private: the repository's folder ``.atelier/``.
        name: folder of the stage's state.
        state: of a stage.

    Raises:
        AtelierError: the stage runs on another machine or for another user.
    """
    process = Process.from_key(state.process)
    if process is None:
        host = state.process.rpartition("-")[0].rpartition("-")[0]
        raise AtelierError(f"{state.stage} runs on {host}; type `atelier stop` on that machine.")
    requested = private / FOLDER / name / STOP
    try:
        # psutil sends no signal if the number belongs to another process by then.
        found = psutil.Process(process.pid)
        if not process.is_alive():
            return False
        if state.process in _sent or not _claim(requested):
            return True
        found.send_signal(state.signal)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        with suppress(OSError):
            _claim_file(requested).unlink()
        raise AtelierError(
            f"{state.stage} was started by another user, and only that user can stop it."
        ) from None
    _sent.add(state.process)
    with suppress(OSError):
        _claim_file(requested).replace(requested)
    return True


def _claim_file(requested: Path) -> Path:
    return requested.with_name(f".{requested.name}")


def _claim(requested: Path) -> bool:
    """Return true if this process must send the signal: no other one sends it or has sent it.

    The claim becomes the mark of a stop after the signal. A claim that is older than a minute is
    of a process that was killed before it sent the signal.
    """
    claim = _claim_file(requested)
    with suppress(OSError):
        if time.time() - claim.lstat().st_mtime > _CLAIM_SECONDS:
            claim.unlink()
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:  # the disk is full or read-only; the signal needs no file
        return True
    if requested.exists():
        claim.unlink(missing_ok=True)
        return False
    return True


def choose(found: list[Execution], name: str, everything: bool) -> list[Execution]:
    """Return the running executions that a user wants to stop.

    Args:
        found: all executions.
        name: name of a running one, as ``Execution.short_name``; empty if there is only one.
        everything: return all of this machine, or if there are none, those of others.

    Raises:
        AtelierError: there are several, or there is none of this name.
    """
    active = [each for each in found if each.is_running]
    names = ", ".join(f"{each.short_name} ({each.title or each.newest.stage})" for each in active)
    if name:
        chosen = [each for each in active if each.short_name == name]
        if not chosen:
            found_names = f"there are: {names}" if names else "nothing is running"
            raise AtelierError(f"{name} is not running; {found_names}.")
        return chosen
    if len(active) > 1 and not everything:
        raise AtelierError(
            f"{len(active)} pipelines are running: {names}; type `atelier stop NAME` with the name"
            " of one, or `atelier stop --all`."
        )
    return [each for each in active if Process.from_key(each.newest.process)] or active


def stop_all(private: Path, chosen: Iterable[Execution], report: Callable[[str], object]) -> None:
    """Stop pipelines: request all stops, then wait until all have ended.

    Args:
        private: the repository's folder ``.atelier/``.
        chosen: the pipelines.
        report: receives sentences about the end of each.

    Raises:
        AtelierError: some have not ended; the others are stopped.
    """
    requested, errors = [], []
    for execution in chosen:
        try:
            for name in running(execution.states):
                request_stop(private, name, execution.states[name])
            requested.append(execution)
        except AtelierError as error:
            errors.append(str(error))
    for execution in requested:
        try:
            report(stop(private, execution))
        except AtelierError as error:
            errors.append(str(error))
    if errors:
        raise AtelierError(" ".join(errors))


def stop(private: Path, execution: Execution, seconds: float | None = None) -> str:
    """Stop a pipeline, and wait until its stage and ``dvc`` have ended.

    If the stage finishes before it receives the signal, the next one is stopped.

    Args:
        private: the repository's folder ``.atelier/``.
        execution: the pipeline.
        seconds: to wait at most; by default ten minutes.

    Returns:
        Sentences about how it ended.

    Raises:
        AtelierError: it has not ended in time, or as for :func:`request_stop`.
    """
    seconds = _WAIT_SECONDS if seconds is None else seconds
    current, end = execution, time.monotonic() + seconds
    while True:
        alive = _processes(current)
        # Read after the processes were checked: then it is their final state.
        current = _present(private, current)
        if not alive and not current.is_running:
            return _outcome(current.newest)
        if time.monotonic() > end:
            pids = " ".join(str(process.pid) for process in alive or _processes(current))
            command = repeated_command(current.newest)
            kill = f"end it with `kill -9 {pids}`" if pids else "type `atelier stop` again"
            raise AtelierError(
                f"{current.short_name} has not ended within {seconds:g} seconds; if it does not"
                f" respond, {kill}. To resume its last checkpoint, {command}"
            )
        for name in running(current.states):
            request_stop(private, name, current.states[name])
        time.sleep(_POLL_SECONDS)


def _present(private: Path, execution: Execution) -> Execution:
    """Return the present state of an execution; the last known one if its files are removed."""
    return next((e for e in executions(private) if e.key == execution.key), execution)


def _processes(execution: Execution) -> list[Process]:
    """Return those of the newest stage and ``dvc`` that are running on this machine."""
    keys = (execution.newest.process, execution.newest.pipeline)
    processes = [Process.from_key(key) for key in dict.fromkeys(keys) if key]
    return [process for process in processes if process and process.is_alive()]


def _outcome(state: StageState) -> str:
    """Return sentences about how a pipeline ended."""
    if state.status == "interrupted":
        done = f" after {state.done:,} {state.unit}" if state.done and state.unit else ""
        return f"The stage {state.stage} is stopped{done}. {interrupted_message(state)}"
    if state.status == "failed":
        return f"The stage {state.stage} failed before it was stopped: {state.message}"
    if state.status == "finished":
        return f"The pipeline ended with the stage {state.stage} before it was stopped."
    command = repeated_command(state)
    return f"The stage {state.stage} was killed. To resume its last checkpoint, {command}"
