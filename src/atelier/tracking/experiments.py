"""DVC experiments that another command runs: start, observation, stop, results.

Each runs by ``dvc exp run --temp`` in a temporary copy of the commit that is checked out, so the
workspace does not change. An experiment has the same name in every attempt. An attempt that was
interrupted leaves a saved training, which the next one resumes.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from atelier.core.errors import AtelierError
from atelier.core.yaml_files import parse_yaml
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.environment import STUDY_VARIABLE, Process, git, private_folder
from atelier.tracking.epoch_reports import FILE_VARIABLE, EpochReport, read_reports
from atelier.tracking.execution import Commit
from atelier.tracking.live_state import StageState, read_states
from atelier.tracking.live_stop import request_stop
from atelier.tracking.metric_names import pipeline_metrics
from atelier.tracking.redact import flat, numbers

_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2}/[0-9a-f]{38})/(.+)")
_POLL_SECONDS = 0.2
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = {"null", "true", "false", "nan", "inf"}
_METRICS = "metrics"
_MAX_REASON = 300


@dataclass(frozen=True)
class Attempt:
    """One execution of ``dvc exp run``.

    Attributes:
        name: of the experiment.
        changes: settings by dotted key that differ from ``params.yaml``.
        stage: the last stage to run; earlier ones run if they are not up to date.
        folder: receives ``NAME.log``, the output of the command, and ``NAME.epochs``.
        study: name of the study that the runs in MLflow belong to; empty for none.
        descriptors: open files that the command inherits, e.g. a lock that it holds with us.
    """

    name: str
    changes: Mapping[str, Any]
    stage: str
    folder: Path
    study: str = ""
    descriptors: tuple[int, ...] = ()

    @property
    def log(self) -> Path:
        """Output of the command."""
        return self.folder / f"{self.name}.log"

    @property
    def reports(self) -> Path:
        """File of the epochs that the training has measured, in this and earlier attempts."""
        return self.folder / f"{self.name}.epochs"


@dataclass(frozen=True)
class Outcome:
    """End of an attempt.

    Attributes:
        status: ``stopped`` if the observer wanted it, otherwise how the command ended.
        commit: of the finished experiment; else empty.
        reason: why it failed, a sentence; else empty.
        seconds: duration of the train stage in this attempt; 0 if DVC restored its outputs.
        steps: training steps done at the end of the stage, also those of earlier attempts.
    """

    status: Literal["finished", "stopped", "failed"]
    commit: str = ""
    reason: str = ""
    seconds: float = 0.0
    steps: int = 0


@dataclass
class Progress:
    """Progress of an attempt, for its observer.

    Attributes:
        reports: epochs that the training has measured, in this and earlier attempts.
        seconds: of the train stage so far, in this attempt.
        steps: training steps so far.
    """

    reports: list[EpochReport] = field(default_factory=list)
    seconds: float = 0.0
    steps: int = 0


def find_experiment(name: str, cwd: Path | None = None) -> str | None:
    """Return the commit of the newest experiment with a name; ``None`` if there is none.

    Only those that started from the commit that is checked out are found.
    """
    return experiments(cwd).get(name)


def finished_experiment(
    root: Path, name: str, changes: Mapping[str, Any], stage: str
) -> str | None:
    """Return the commit of an experiment that has finished; ``None`` if it has to run.

    One that only records the settings of a stopped training is removed, since DVC replaces no
    experiment.

    Args:
        root: the project.
        name: of the experiment.
        changes: settings that it must have, by dotted key.
        stage: that it must have run.

    Raises:
        AtelierError: it has other settings.
    """
    commit = find_experiment(name, root)
    if commit is None:
        return None
    tree = Commit.open(root, commit)
    values = flat(parse_yaml((tree.read("params.yaml") or b"{}").decode("utf-8", "replace")))
    for key, value in flat(changes).items():
        if values.get(key) != value:
            raise AtelierError(
                f"there is an experiment {name} in which {key} is {values.get(key)} instead of"
                f" {value}; remove it: dvc exp remove {name}"
            )
    if stage in read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace")):
        return commit
    git("update-ref", "-d", _reference(name, root), cwd=root)
    return None


def _reference(name: str, root: Path) -> str:
    baseline = (git("rev-parse", "HEAD", cwd=root) or "").strip()
    return f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"


def all_experiments(cwd: Path | None = None) -> list[str]:
    """Return the names of the experiments of all commits."""
    listed = git("for-each-ref", "--format=%(refname)", "refs/exps", cwd=cwd)
    found = map(_EXPERIMENT.fullmatch, (listed or "").splitlines())
    return [match[2] for match in found if match]


def experiments(cwd: Path | None = None) -> dict[str, str]:
    """Return the commits of the experiments of the present commit, by name."""
    baseline = (git("rev-parse", "HEAD", cwd=cwd) or "").strip()
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps", cwd=cwd)
    found = {}
    for line in (listed or "").splitlines():
        commit, _, reference = line.partition(" ")
        match = _EXPERIMENT.fullmatch(reference)
        if match and match[1].replace("/", "") == baseline:
            found[match[2]] = commit
    return found


def experiment_metrics(root: Path, commit: str) -> dict[str, float]:
    """Return the metrics of an experiment by their names in a pipeline's run of MLflow.

    Metrics of stages that did not run in the experiment, and are out of date, are left out only
    if they have no record in its ``dvc.lock``.

    Raises:
        AtelierError: a file of metrics is not in DVC's cache.
    """
    tree = Commit.open(root, commit)
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))
    stages = {}
    for stage in records:
        path = f"{_METRICS}/{stage}.json"
        if path not in records[stage].outputs:
            continue
        content = tree.read(path)
        if content is None:
            raise AtelierError(f"{path} of the experiment is not in DVC's cache; run it again.")
        stages[stage] = {"metrics": numbers(json.loads(content))}
    return pipeline_metrics(stages)


def experiment_file(root: Path, commit: str, path: str) -> bytes | None:
    """Return a file of an experiment, also an output of DVC; ``None`` if it is not there."""
    return Commit.open(root, commit).read(path)


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
    environment = os.environ | {
        FILE_VARIABLE: str(attempt.reports.resolve()),
        STUDY_VARIABLE: attempt.study,
    }
    # Later, the report says which stages ran; a result list after each trial would be noise.
    environment["ATELIER_RESULTS_LATER"] = "1"
    with attempt.log.open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - no shell; settings are quoted
            _command(attempt),
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=attempt.descriptors,
            preexec_fn=_ignore_interrupt,
        )
        return _wait(root, attempt, child, observe)


def _ignore_interrupt() -> None:
    """Let the terminal's Ctrl-C reach this program only, which then stops the stage.

    A stage that receives two signals ends without saving its training.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _command(attempt: Attempt) -> list[str]:
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", attempt.name]
    for key, value in attempt.changes.items():
        command += ["--set-param", f"{key}={override(value)}"]
    return [*command, attempt.stage]


def override(value: Any) -> str:
    """Return a value in the syntax of ``dvc exp run --set-param``, which is Hydra's."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(override, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{override(one)}" for key, one in value.items()) + "}"
    if isinstance(value, str) and (not _PLAIN.fullmatch(value) or value.lower() in _RESERVED):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def _wait(
    root: Path,
    attempt: Attempt,
    child: "subprocess.Popen[bytes]",
    observe: Callable[[Progress], bool],
) -> Outcome:
    private, progress = private_folder(root), Progress()
    is_wanted, interrupted = True, False
    state: StageState | None = None
    while True:
        try:
            code = child.poll()
            state = _state(private, child.pid) or state
            if state and state.stage == "train":
                progress.seconds = state.updated - state.started
                progress.steps = state.done or progress.steps
            progress.reports = read_reports(attempt.reports)
            if is_wanted and not observe(progress):
                is_wanted = False
            if code is not None:
                break
            if interrupted or not is_wanted:
                _stop(private, child.pid)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_SECONDS)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:  # also after a finished experiment, which the next attempt finds
        raise KeyboardInterrupt
    commit = find_experiment(attempt.name, root) if code == 0 else None
    ended = Outcome("finished", commit or "", "", progress.seconds, progress.steps)
    if commit is not None:
        return ended
    if is_wanted and state and state.status == "interrupted":  # by `atelier stop`
        raise KeyboardInterrupt
    if not is_wanted:
        return Outcome("stopped", "", "", progress.seconds, progress.steps)
    reason = _reason(state, attempt.log)
    return Outcome("failed", "", reason, progress.seconds, progress.steps)


def _state(private: Path, pid: int) -> StageState | None:
    """Return the newest state of a stage that a ``dvc`` process has started."""
    states = [s for s in read_states(private).values() if _pid(s.pipeline) == pid]
    return states[-1] if states else None


def _pid(key: str) -> int:
    """Return the number of a process of this machine by its key; -1 for another one."""
    process = Process.from_key(key) if key else None
    return process.pid if process else -1


def _stop(private: Path, pid: int) -> None:
    """Stop the stages of a ``dvc`` process as Ctrl-C does."""
    for name, state in read_states(private).items():
        if _pid(state.pipeline) == pid and state.status == "running":
            with suppress(AtelierError, psutil.Error):
                request_stop(private, name, state)


def _reason(state: StageState | None, log: Path) -> str:
    """Return why an attempt failed: the stage's own message, or else DVC's."""
    if state and state.status == "failed" and state.message:
        return state.message[:_MAX_REASON]
    with suppress(OSError):
        lines = log.read_text("utf-8", "replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR")]
        own = [line for line in errors if "failed to reproduce" not in line]
        for line in reversed(own or errors):
            return line.removeprefix("ERROR:").strip()[:_MAX_REASON]
    return f"dvc failed; {log} has its output"
