"""A study that is killed again and again: no trial is lost or repeated."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from atelier.tracking.experiments import experiment_metrics, experiments
from atelier.tracking.pipeline_run import PARENT_KEY
from atelier.tracking.store import existing_store
from atelier.tracking.study_run import STUDY_KEY

from ..support.project import Project
from .test_search_command import FIXED, read_json, trials
from .test_search_settings import write

pytestmark = pytest.mark.slow
TRIALS, KILLS = 20, 5


def start(project: Project) -> "subprocess.Popen[bytes]":
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (project.folder / "search.log").open("ab") as log:
        return subprocess.Popen(
            ["atelier", "search"],
            cwd=project.folder,
            env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_during_trial(project: Project, number: int, seconds: float, whole_group: bool) -> None:
    """Start the search, and kill it some time after a trial has started.

    Args:
        project: with the study.
        number: the search is killed in the first trial with at least this number.
        seconds: after the start of that trial.
        whole_group: kill its ``dvc`` and stages too; otherwise they go on without it.
    """
    search = start(project)
    try:
        end = time.monotonic() + 600
        while not any(t.number >= number and not t.state.is_finished() for t in trials(project)):
            assert search.poll() is None, (project.folder / "search.log").read_text("utf-8")
            assert time.monotonic() < end
            time.sleep(0.5)
        time.sleep(seconds)
    finally:
        if whole_group:
            os.killpg(search.pid, signal.SIGKILL)
        else:
            search.kill()
        search.wait()


def test_twenty_trials_survive_five_kills(tracked: Project) -> None:
    tracked.commit()
    write(tracked.folder, study="tiny", fixed=FIXED, pruner="none", trials=TRIALS)
    tracked.run("atelier", "search", "--apply", "0", ok=False)
    rng = random.Random(20261128)
    tracked_trials: list[FrozenTrial] = []
    number = 0
    create_storage(tracked)
    for kill in range(KILLS):
        number = max(number + 1, rng.randrange(4 * kill, 4 * kill + 4))
        kill_during_trial(tracked, number - 1, rng.uniform(0, 8), whole_group=kill % 2 == 0)
    tracked.run("atelier", "search")
    tracked.run("atelier", "sync")

    tracked_trials = trials(tracked)
    assert [t.number for t in tracked_trials] == list(range(TRIALS))
    assert {t.state for t in tracked_trials} == {TrialState.COMPLETE}
    names = [f"tiny-trial-{number:03d}" for number in range(TRIALS)]
    found = experiments(tracked.folder)
    assert sorted(found) == names
    listed = tracked.run("dvc", "exp", "list", "--name-only").split()
    assert sorted(listed) == names
    for trial, name in zip(tracked_trials, names, strict=True):
        metrics = experiment_metrics(tracked.folder, found[name])
        assert trial.value == metrics["quality/validation_kid"]
    assert pipelines_of_study(tracked) == names
    check_best(tracked, tracked_trials)


def create_storage(project: Project) -> None:
    """Let the first search create its database, which the test reads."""
    search = start(project)
    end = time.monotonic() + 120
    while not (project.folder / ".atelier/search.db").exists() or not has_trial(project):
        assert time.monotonic() < end
        time.sleep(0.5)
    os.killpg(search.pid, signal.SIGKILL)
    search.wait()


def has_trial(project: Project) -> bool:
    try:
        return bool(trials(project))
    except Exception:  # its tables are being created
        return False


def pipelines_of_study(project: Project) -> list[str]:
    """Return the experiments of finished pipeline runs below the run of the study in MLflow."""
    client = existing_store(project.folder)
    assert client is not None
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], max_results=1000)
    ]
    (study,) = [run for run in runs if run.data.tags.get(STUDY_KEY, "").startswith("tiny-")]
    assert study.info.status == "FINISHED"
    below = [
        run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == study.info.run_id
        and run.info.status == "FINISHED"
    ]
    assert all(PARENT_KEY in run.data.tags for run in below)
    return sorted(run.data.tags["dvc.experiment"] for run in below)


def check_best(project: Project, finished: list[FrozenTrial]) -> None:
    """Apply the best trial by the printed command, and train it again without DVC's cache."""
    best = min(finished, key=lambda trial: (trial.value or 0.0, trial.number))
    output = project.run("atelier", "search")
    (line,) = [line for line in output.splitlines() if "dvc exp apply" in line]
    project.run(*line.split("   ")[0].split())
    assert read_json(project, "metrics/train.json")["validation_kid"] == best.value
    details = read_json(project, "metrics/details/train.json")
    project.run("dvc", "repro", "--force", "--single-item", "--no-run-cache", "train")
    assert read_json(project, "metrics/train.json")["validation_kid"] == best.value
    assert read_json(project, "metrics/details/train.json") == details


def test_two_searches_in_one_clone_share_the_trials(ready: Project) -> None:
    ready.commit()
    write(ready.folder, study="tiny", fixed=FIXED, pruner="none", trials=6)
    searches = [start(ready), start(ready)]
    assert [search.wait(900) for search in searches] == [0, 0]
    finished = trials(ready)
    assert [(t.number, t.state) for t in finished] == [(n, TrialState.COMPLETE) for n in range(6)]
    found = experiments(ready.folder)
    assert sorted(found) == [f"tiny-trial-{number:03d}" for number in range(6)]
    for trial, name in zip(finished, sorted(found), strict=True):
        metrics = experiment_metrics(ready.folder, found[name])
        assert trial.value == metrics["quality/validation_kid"]
    output = (ready.folder / "search.log").read_text("utf-8")
    assert output.count("trial 5 (the last is 5)") == 1
    assert "another process runs" in output
    assert ready.run("git", "status", "--porcelain", "-uno") == ""
