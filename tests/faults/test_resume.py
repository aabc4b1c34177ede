"""A training killed at any moment, and started again by dvc, ends with the very same bytes."""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from atelier.tracking.store import open_store

from ..support.project import Project
from ..support.stage_runs import start, states, wait_for_a_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
OUTPUTS = ("models", "samples", "plots/losses.csv", "metrics/train.json")
# Long enough to be hit, with a checkpoint after every step, so that many hits meet one.
LONG: dict[str, Any] = {
    "train.epochs": 30,
    "runtime.checkpoint_seconds": 0.0,
    "train.sample_every_steps": 3,
}


def kill_when(dvc: subprocess.Popen[str], moment: float, project: Project) -> bool:
    """Kill the whole group a moment after the first new state; False if it ended before."""
    before = states(project)
    end = time.monotonic() + 120
    while states(project) == before and dvc.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        dvc.wait(timeout=moment)
    except subprocess.TimeoutExpired:
        os.killpg(dvc.pid, signal.SIGKILL)
        dvc.communicate()
        return True
    dvc.communicate()
    return False


@pytest.fixture(scope="module")
def whole(_ready: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of a training that nobody disturbs."""
    project = _ready.copy(tmp_path_factory.mktemp("whole") / "project")
    project.set(**LONG)
    project.stage("train")
    return project.bytes(*OUTPUTS)


def check_killed(project: Project, whole: dict[str, bytes], kills: int, seed: int) -> None:
    """Kill the training so often, each time going on; whenever it is done, begin it anew."""
    moments = random.Random(seed)
    project.set(**LONG)
    project.commit()
    hits = 0
    while hits < kills:
        if kill_when(start(project), moments.uniform(0, 1.5), project):
            hits += 1
            continue
        assert project.bytes(*OUTPUTS) == whole
        project.run("git", "checkout", "-q", "dvc.lock")
        shutil.rmtree(project.folder / ".atelier" / "unfinished")
    project.repro("--no-run-cache", "train")
    assert project.bytes(*OUTPUTS) == whole


def test_killed_it_goes_on_to_the_same_bytes_and_its_own_run(
    tracked: Project, whole: dict[str, bytes]
) -> None:
    check_killed(tracked, whole, kills=1, seed=1)
    tracked.delivered()
    client, experiment = open_store(tracked.folder, "atelier")
    newest, *older = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    assert newest.info.status == "FINISHED"
    assert len(older) == 1, "a resumed training continues its own run"
    steps = [p.step for p in client.get_metric_history(newest.info.run_id, "loss_d")]
    assert steps == list(range(1, 121))
    assert states(tracked)
    tracked.set(**{"tracking.enabled": False})
    tracked.stage("render")
    assert states(tracked) == [], "what dvc has recorded needs no checkpoint"


def finish(dvc: subprocess.Popen[str]) -> str:
    told, _ = dvc.communicate(timeout=240)
    return told


def test_what_is_edited_while_a_stage_runs_is_refused(
    ready: Project, whole: dict[str, bytes]
) -> None:
    """In this process, and in another thread of it."""
    before = ready.bytes(*OUTPUTS)
    ready.set(**LONG)

    def edit() -> None:
        end = time.monotonic() + 120
        while not states(ready) and time.monotonic() < end:
            time.sleep(0.01)
        ready.set(**{"train.lr": 0.5})

    ready.remove_outputs("train")
    editor = threading.Thread(target=edit)
    editor.start()
    told = ready.stage("train", ok=False)
    editor.join()
    assert "train.lr was 0.0002 and is 0.5" in told
    assert ready.bytes(*OUTPUTS) == before
    ready.set(**{"train.lr": 0.0002})
    ready.stage("train")
    assert ready.bytes(*OUTPUTS) == whole


@pytest.mark.slow
def test_what_was_edited_while_it_ran_is_not_recorded_as_what_it_was(
    tracked: Project, whole: dict[str, bytes]
) -> None:
    before = tracked.bytes(*OUTPUTS)
    tracked.set(**LONG)
    dvc = start(tracked)
    wait_for_a_state(dvc, tracked)
    tracked.set(**{"train.lr": 0.5})
    told = finish(dvc)
    assert dvc.returncode != 0
    assert "while train ran, train was" not in told, "the value is named, not the whole section"
    assert "train.lr was 0.0002 and is 0.5" in told
    assert "Traceback" not in told
    assert tracked.bytes(*OUTPUTS) == before
    tracked.set(**{"train.lr": 0.0002})
    again = start(tracked)
    told = finish(again)
    assert again.returncode == 0, told
    assert tracked.bytes(*OUTPUTS) == whole
    tracked.delivered()
    client, experiment = open_store(tracked.folder, "atelier")
    newest, *_ = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    steps = [p.step for p in client.get_metric_history(newest.info.run_id, "loss_d")]
    assert steps == list(range(1, 121)), "the work was taken up, not done again"


@pytest.mark.slow
def test_edited_code_and_edited_data_are_noticed_too(ready: Project) -> None:
    ready.set(**LONG)
    for place, words in (
        ("src/atelier/gan/step.py", "src/atelier/gan/step.py was changed"),
        ("data/images.npz", "data/images.npz was changed"),
    ):
        dvc = start(ready)
        wait_for_a_state(dvc, ready)
        file = ready.folder / place
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content + b"\n")
        told = finish(dvc)
        assert dvc.returncode != 0
        assert words in told
        file.write_bytes(content)
        shutil.rmtree(ready.folder / ".atelier" / "unfinished")


@pytest.mark.slow
@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_and_ends_at_once(
    ready: Project, whole: dict[str, bytes], told: signal.Signals
) -> None:
    ready.set(**LONG | {"runtime.checkpoint_seconds": 3600.0})
    dvc = start(ready)
    wait_for_a_state(dvc, ready)
    (stage,) = [
        child
        for child in psutil.Process(dvc.pid).children(recursive=True)
        if "stages/train.py" in child.cmdline() and "python" in Path(child.cmdline()[0]).name
    ]
    newest = states(ready)[-1].name
    stage.send_signal(told)
    stage.wait(timeout=120)
    assert "`dvc repro` resumes it" in finish(dvc)
    assert states(ready)[-1].name > newest
    finish(start(ready))
    assert ready.bytes(*OUTPUTS) == whole


@pytest.mark.slow
def test_it_does_not_go_on_when_its_dvc_is_killed(ready: Project, whole: dict[str, bytes]) -> None:
    ready.set(**LONG | {"train.epochs": 100_000})
    dvc = start(ready)
    wait_for_a_state(dvc, ready)
    family = psutil.Process(dvc.pid).children(recursive=True)
    stages = [child for child in family if "stages/train.py" in child.cmdline()]
    assert stages
    dvc.kill()
    _, alive = psutil.wait_procs(stages, timeout=60)
    assert not alive
    dvc.communicate()


@pytest.mark.slow
def test_a_killed_painting_goes_on_to_the_same_bytes(ready: Project, tmp_path: Path) -> None:
    long = {
        "stylize.iterations": 400,
        "stylize.generated_count": 2,
        "runtime.checkpoint_seconds": 0.0,
    }
    seen = {"stylize.save_intermediates": 20, "stylize.gif": True}  # also what the killed ones saw
    ready.set(**long, **seen)
    undisturbed = ready.copy(tmp_path / "whole")
    undisturbed.repro("stylize")
    painted = ("styled", "plots/style_losses.csv", "metrics/stylize.json")
    for moment in (0.1, 1.0):
        assert kill_when(start(ready, "stylize"), moment, ready)
    ready.repro("stylize")
    assert ready.bytes(*painted) == undisturbed.bytes(*painted)


@pytest.mark.slow
def test_killed_a_hundred_times_at_random_moments(ready: Project, whole: dict[str, bytes]) -> None:
    check_killed(ready, whole, kills=100, seed=2)
