"""Execution of a DVC experiment by another command: start, observation, stop.

It runs by ``dvc exp run --temp`` in a temporary copy of a commit. An experiment has the same name
in every attempt. An attempt that was interrupted leaves a saved training, which the next one
resumes.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from atelier.core.errors import AtelierError
from atelier.core.progress import duration_text
from atelier.tracking.environment import (
    STORAGE_VARIABLE,
    STUDY_VARIABLE,
    Process,
    private_folder,
)
from atelier.tracking.epoch_reports import FILE_VARIABLE, EpochReport, read_reports
from atelier.tracking.experiment_process import NOT_PUSHED
from atelier.tracking.experiment_worktree import open_worktree, worktree_environment
from atelier.tracking.experiments import find_experiment
from atelier.tracking.live_state import StageState, read_states
from atelier.tracking.live_stop import request_stop

_POLL_SECONDS = 0.2
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"null", "true", "false", "nan", "inf"}
_MAX_REASON = 300


class KilledError(AtelierError):
    """Raised if a stage was killed, for example because memory ran out."""


def epochs_file(folder: Path, name: str) -> Path:
    """Return the file of what the training of an experiment reports, in all attempts."""
    return folder / f"{name}.epochs"


@dataclass(frozen=True)
class Attempt:
    """One execution of ``dvc exp run``.

    Attributes:
        name: of the experiment.
        changes: settings by dotted key that differ from ``params.yaml``.
        stage: the last stage to run; earlier ones run if they are not up to date.
        folder: receives ``NAME.log``, the output of the command, and ``NAME.epochs``.
        study: name of the study that the runs in MLflow belong to; empty for none.
        commit: that a worktree of its own starts from, so that the user's workspace is neither read
            nor changed; if empty, the workspace is used, with its uncommitted changes.
        descriptors: open files that the command inherits, e.g. a lock that it holds with us.
        git_remote: where the experiment is pushed when it has finished; empty for none.
    """

    name: str
    changes: Mapping[str, Any]
    stage: str
    folder: Path
    study: str = ""
    commit: str = ""
    descriptors: tuple[int, ...] = ()
    git_remote: str = ""

    @property
    def log(self) -> Path:
        """Output of the command."""
        return self.folder / f"{self.name}.log"

    @property
    def reports(self) -> Path:
        """File of what the training reports."""
        return epochs_file(self.folder, self.name)


@dataclass(frozen=True)
class Outcome:
    """End of an attempt.

    Attributes:
        status: ``stopped`` if the observer stopped it, otherwise how the command ended.
        commit: of the finished experiment; else empty.
        reason: why it failed, a sentence; else empty.
        seconds: duration of the train stage in this attempt; 0 if DVC restored its outputs.
        steps: training steps done at the end of the stage, also those of earlier attempts.
        is_pushed: True if the finished experiment is on the git remote.
    """

    status: Literal["finished", "stopped", "failed"]
    commit: str = ""
    reason: str = ""
    seconds: float = 0.0
    steps: int = 0
    is_pushed: bool = False


@dataclass
class Progress:
    """Progress of an attempt, for its observer.

    Attributes:
        reports: epochs that the training has measured, in this and earlier attempts.
        seconds: of the train stage so far, in this attempt.
        steps: training steps so far.
        total: training steps in all; 0 if not known yet.
        remaining: estimated seconds until the end of the training; ``None`` if not known yet.
        is_training: True while the train stage runs, and can be stopped.
    """

    reports: list[EpochReport] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0
    total: int = 0
    remaining: float | None = None
    is_training: bool = False

    def __str__(self) -> str:
        """Return the progress of the training in words; empty if it does not run."""
        if not self.is_training or not self.steps:
            return ""
        parts = [f"step {self.steps:,}" + (f" of {self.total:,}" if self.total else "")]
        if self.remaining:
            parts.append(f"about {duration_text(self.remaining)} left")
        if self.reports:
            parts.append(f"KID {self.reports[-1].kid:.3g} (epoch {self.reports[-1].epoch})")
        return ", ".join(parts)


def run_experiment(
    root: Path,
    attempt: Attempt,
    observe: Callable[[Progress], bool] = lambda progress: True,
) -> Outcome:
    """Run an experiment, and wait until it has ended.

    Args:
        root: the project.
        attempt: what to run.
        observe: called every 0.2 seconds; if it returns False, the stage is stopped as by Ctrl-C,
            which saves a training.

    Raises:
        KeyboardInterrupt: the user stopped it, by Ctrl-C or `atelier stop`; the command has ended,
            and an unfinished training is saved.
    """
    attempt.folder.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if name != STORAGE_VARIABLE}
    environment = inherited | {
        FILE_VARIABLE: str(attempt.reports.resolve()),
        STUDY_VARIABLE: attempt.study,
    }
    # Later, the report says which stages ran; a result list after each trial would be noise.
    environment["ATELIER_RESULTS_LATER"] = "1"
    offset = attempt.log.stat().st_size if attempt.log.exists() else 0
    with attempt.log.open("ab") as log, _place(root, attempt) as (folder, variables, descriptors):
        child = subprocess.Popen(  # noqa: S603 - no shell; settings are quoted
            _command(attempt),
            cwd=folder,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(*attempt.descriptors, *descriptors),
            preexec_fn=_ignore_interrupt,
        )
        with _ending(root, child, attempt):
            return _wait(root, attempt, child, observe, offset)


@contextmanager
def _place(root: Path, attempt: Attempt) -> Iterator[tuple[Path, dict[str, str], tuple[int, ...]]]:
    """Yield the folder in which an attempt starts, its variables, and a lock for it to inherit."""
    if not attempt.commit:
        yield root, {}, ()
        return
    with open_worktree(root, attempt.commit) as (folder, descriptor):
        yield folder, worktree_environment(root), (descriptor,)


def _new_text(log: Path, offset: int) -> str:
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode("utf-8", "replace")


@contextmanager
def _ending(root: Path, child: "subprocess.Popen[bytes]", attempt: Attempt) -> Iterator[None]:
    """If the body raises, stop the attempt, and wait until it has ended."""
    try:
        yield
    except BaseException:
        while child.poll() is None:
            with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                _stop(private_folder(root), _pids(child, attempt))
                child.wait(_POLL_SECONDS)
        raise


def _ignore_interrupt() -> None:
    """Let the terminal's Ctrl-C reach this program only, which then stops the stage.

    A stage that receives two signals ends without saving its training.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _command(attempt: Attempt) -> list[str]:
    command = [
        sys.executable,
        "-m",
        "dvc",
        "--wait-for-lock",
        "exp",
        "run",
        "--temp",
        "--name",
        attempt.name,
    ]
    for key, value in attempt.changes.items():
        command += ["--set-param", f"{key}={override(value)}"]
    command.append(attempt.stage)
    if not attempt.git_remote:
        return command
    program = [sys.executable, "-m", "atelier.tracking.experiment_process"]
    return [*program, attempt.git_remote, attempt.name, *command]


def override(value: Any) -> str:
    """Return a value in the syntax of ``dvc exp run --set-param``, which is Hydra's."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(override, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{override(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or value.lower() in _RESERVED):
        # Hydra keeps backslashes, except before a quote and at the end.
        doubled = re.sub(r"(\\+)(?='|$)", r"\1\1", value)
        escaped = doubled.replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def _wait(
    root: Path,
    attempt: Attempt,
    child: "subprocess.Popen[bytes]",
    observe: Callable[[Progress], bool],
    offset: int,
) -> Outcome:
    """Observe an attempt until it has ended, and return how; ``offset`` is where its log begins."""
    private, progress = private_folder(root), Progress()
    is_stopped, interrupted = False, False
    state: StageState | None = None
    while True:
        try:
            code = child.poll()
            pids = _pids(child, attempt)
            state = _state(private, pids) or state
            _update(progress, state, attempt)
            if not is_stopped and not interrupted:
                is_stopped = not observe(progress)
            if code is not None:
                break
            if interrupted or is_stopped:
                _stop(private, pids)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_SECONDS)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:  # a finished experiment is found by its name later
        raise KeyboardInterrupt
    commit = None
    if code in (0, NOT_PUSHED):
        commit = find_experiment(attempt.name, root, attempt.commit)
    measured = (progress.seconds, progress.steps)
    if commit is not None:
        return Outcome("finished", commit, "", *measured, bool(attempt.git_remote) and code == 0)
    if is_stopped:
        return Outcome("stopped", "", "", *measured)
    if state and state.status == "interrupted":  # by `atelier stop`
        raise KeyboardInterrupt
    if state and state.status == "running":
        raise KilledError(
            f"the stage {state.stage} of {attempt.name} was killed, for example because the memory"
            f" ran out; repeat the command to continue it. Its output is in {attempt.log}."
        )
    return Outcome("failed", "", _reason(state, attempt.log, offset), *measured)


def _update(progress: Progress, state: StageState | None, attempt: Attempt) -> None:
    """Set the progress from a stage's live state and the reports of its epochs."""
    progress.is_training = bool(state and state.stage == "train" and state.status == "running")
    if state and state.stage == "train":
        progress.seconds = state.updated - state.started
        progress.steps = state.done or progress.steps
        progress.total = state.total or progress.total
        progress.remaining = state.remaining
    progress.reports = read_reports(attempt.reports)


def _pids(child: "subprocess.Popen[bytes]", attempt: Attempt) -> set[int]:
    """Return the processes that may be ``dvc``: the child, or its children."""
    if not attempt.git_remote:
        return {child.pid}
    return {child.pid} | _children(child.pid)


def _children(pid: int) -> set[int]:
    """Return the children of a process: ``dvc``, if another program runs it."""
    with suppress(psutil.Error):
        return {child.pid for child in psutil.Process(pid).children()}
    return set()


def _state(private: Path, pids: set[int]) -> StageState | None:
    """Return the newest state of a stage that one of some ``dvc`` processes has started."""
    states = [s for s in read_states(private).values() if _pid(s.pipeline) in pids]
    return states[-1] if states else None


def _pid(key: str) -> int:
    """Return the number of a process of this machine by its key; -1 for another one."""
    process = Process.from_key(key) if key else None
    return process.pid if process else -1


def _stop(private: Path, pids: set[int]) -> None:
    """Stop the stages of some ``dvc`` processes as Ctrl-C does."""
    for name, state in read_states(private).items():
        if _pid(state.pipeline) in pids and state.status == "running":
            with suppress(AtelierError, psutil.Error):
                request_stop(private, name, state)


def _reason(state: StageState | None, log: Path, offset: int) -> str:
    """Return why an attempt failed: the stage's own message, or else DVC's."""
    if state and state.status == "failed" and state.message:
        return state.message[:_MAX_REASON]
    with suppress(OSError):
        errors = [line for line in _new_text(log, offset).splitlines() if line.startswith("ERROR")]
        # DVC adds that it failed to reproduce the stage, after the stage's own sentence.
        own = [line for line in errors if "failed to reproduce" not in line.lower()]
        for line in reversed(own or errors):
            return line.removeprefix("ERROR:").strip()[:_MAX_REASON]
    return f"dvc failed; {log} has its output"
