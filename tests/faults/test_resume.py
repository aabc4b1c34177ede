"""Stages that are killed at any moment resume and give the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from atelier.tracking.store import open_store

from ..support.project import Project
from ..support.stage_runs import checkpoints, start, wait_for_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
OUTPUTS = (
    "models",
    "samples",
    "plots/losses.csv",
    "metrics/train.json",
    "metrics/details/train.json",
)
# Long enough to be killed; a checkpoint after each step, so that many kills interrupt a write.
LONG: dict[str, Any] = {
    "train.epochs": 20,
    "runtime.checkpoint_seconds": 0.0,
    "train.sample_every_steps": 3,
}


def kill_after_checkpoint(dvc: subprocess.Popen[str], seconds: float, project: Project) -> bool:
    """Kill dvc and its stage after the next checkpoint; return False if they end before."""
    before = checkpoints(project)
    end = time.monotonic() + 120
    while checkpoints(project) == before and dvc.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    try:
        dvc.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(dvc.pid, signal.SIGKILL)
        dvc.communicate()
        return True
    dvc.communicate()
    return False


@pytest.fixture(scope="module")
def expected(_ready: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Outputs of an uninterrupted training."""
    project = _ready.copy(tmp_path_factory.mktemp("uninterrupted") / "project")
    project.set(**LONG)
    output = project.stage("train")
    assert "64 images: 80 steps are 20 epochs; the time is not estimated for fewer than" in output
    return project.bytes(*OUTPUTS)


def check_killed(project: Project, expected: dict[str, bytes], kills: int, seed: int) -> None:
    """Kill and resume the training ``kills`` times; start a new one when it has finished."""
    rng = random.Random(seed)
    project.set(**LONG)
    project.commit()
    killed = 0
    while killed < kills:
        if kill_after_checkpoint(start(project), rng.uniform(0, 1.5), project):
            killed += 1
            continue
        assert project.bytes(*OUTPUTS) == expected
        project.run("git", "checkout", "-q", "dvc.lock")
        shutil.rmtree(project.folder / ".atelier" / "unfinished")
    project.repro("--no-run-cache", "train")
    assert project.bytes(*OUTPUTS) == expected


def test_killed_stage_resumes_bit_exactly(ready: Project, expected: dict[str, bytes]) -> None:
    """Kill the stage's own process, without DVC and MLflow, and run it again in this one."""
    ready.set(**LONG)
    ready.remove_outputs("train")
    stage = subprocess.Popen(
        [sys.executable, "stages/train.py"],
        cwd=ready.folder,
        env=os.environ | {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for_checkpoint(stage, ready)
    os.killpg(stage.pid, signal.SIGKILL)
    stage.communicate()
    assert not (ready.folder / "models").exists()
    ready.stage("train")
    assert ready.bytes(*OUTPUTS) == expected


@pytest.mark.slow
def test_killed_training_resumes_bit_exactly_in_the_same_run(
    tracked: Project, expected: dict[str, bytes]
) -> None:
    check_killed(tracked, expected, kills=1, seed=1)
    tracked.delivered()
    client, experiment = open_store(tracked.folder, "atelier")
    newest, *older = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    assert newest.info.status == "FINISHED"
    assert len(older) == 1, "a resumed training continues its own run"
    steps = [p.step for p in client.get_metric_history(newest.info.run_id, "loss/d")]
    assert steps == list(range(1, 81))
    assert checkpoints(tracked)
    tracked.set(**{"tracking.enabled": False})
    tracked.stage("render")
    assert checkpoints(tracked) == [], "checkpoints of a finished stage are deleted"


def finish(dvc: subprocess.Popen[str]) -> str:
    """Wait until dvc exits; return its output."""
    output, _ = dvc.communicate(timeout=240)
    return output


def test_stage_fails_if_a_setting_changes_during_the_run(
    ready: Project, expected: dict[str, bytes]
) -> None:
    """Run the stage in this process; another thread edits the settings."""
    before = ready.bytes(*OUTPUTS)
    ready.set(**LONG)

    def edit() -> None:
        end = time.monotonic() + 120
        while not checkpoints(ready) and time.monotonic() < end:
            time.sleep(0.01)
        ready.set(**{"train.lr": 0.5})

    ready.remove_outputs("train")
    editor = threading.Thread(target=edit)
    editor.start()
    output = ready.stage("train", ok=False)
    editor.join()
    assert "train.lr was 0.0002 and is 0.5" in output
    assert ready.bytes(*OUTPUTS) == before
    ready.set(**{"train.lr": 0.0002})
    ready.stage("train")
    assert ready.bytes(*OUTPUTS) == expected


@pytest.mark.slow
def test_dvc_records_no_result_of_settings_edited_during_the_run(
    tracked: Project, expected: dict[str, bytes]
) -> None:
    before = tracked.bytes(*OUTPUTS)
    tracked.set(**LONG)
    dvc = start(tracked)
    wait_for_checkpoint(dvc, tracked)
    tracked.set(**{"train.lr": 0.5})
    output = finish(dvc)
    assert dvc.returncode != 0
    assert "while train ran, train was" not in output, (
        "the sentence names the value, not the section"
    )
    assert "train.lr was 0.0002 and is 0.5" in output
    assert "Traceback" not in output
    assert tracked.bytes(*OUTPUTS) == before
    tracked.set(**{"train.lr": 0.0002})
    resumed = start(tracked)
    output = finish(resumed)
    assert resumed.returncode == 0, output
    assert tracked.bytes(*OUTPUTS) == expected
    tracked.delivered()
    client, experiment = open_store(tracked.folder, "atelier")
    newest, *_ = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    steps = [p.step for p in client.get_metric_history(newest.info.run_id, "loss/d")]
    assert steps == list(range(1, 81)), "the training was resumed, not repeated"


@pytest.mark.slow
def test_stage_fails_if_code_or_data_change_during_the_run(ready: Project) -> None:
    ready.set(**LONG)
    for path, sentence in (
        ("src/atelier/gan/step.py", "src/atelier/gan was changed"),
        ("data/images.npz", "data/images.npz was changed"),
    ):
        dvc = start(ready)
        wait_for_checkpoint(dvc, ready)
        file = ready.folder / path
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content + b"\n")
        output = finish(dvc)
        assert dvc.returncode != 0
        assert sentence in output
        file.write_bytes(content)
        shutil.rmtree(ready.folder / ".atelier" / "unfinished")


def test_signal_before_the_first_step_ends_the_stage_at_once(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preparations can take minutes, and there is nothing to save yet."""
    before = ready.bytes(*OUTPUTS)

    def measure_for_long(*_arguments: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was deferred")

    monkeypatch.setattr("atelier.gan.fit.build_validation", measure_for_long)
    output = ready.stage("train", ok=False)
    assert "interrupted before the stage was done; `dvc repro -f -s train` restarts it" in output
    assert ready.bytes(*OUTPUTS) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_a_checkpoint_and_ends_the_stage(
    ready: Project, expected: dict[str, bytes], number: signal.Signals
) -> None:
    ready.set(**LONG | {"runtime.checkpoint_seconds": 0.1})
    dvc = start(ready)
    wait_for_checkpoint(dvc, ready)
    (stage,) = [
        child
        for child in psutil.Process(dvc.pid).children(recursive=True)
        if "stages/train.py" in child.cmdline() and "python" in Path(child.cmdline()[0]).name
    ]
    newest = checkpoints(ready)[-1].name
    stage.send_signal(number)
    stage.wait(timeout=120)
    assert "`dvc repro` resumes it" in finish(dvc)
    assert checkpoints(ready)[-1].name > newest
    finish(start(ready))
    assert ready.bytes(*OUTPUTS) == expected


@pytest.mark.slow
def test_stage_ends_when_dvc_is_killed(ready: Project, expected: dict[str, bytes]) -> None:
    ready.set(**LONG | {"train.epochs": 100_000})
    dvc = start(ready)
    wait_for_checkpoint(dvc, ready)
    children = psutil.Process(dvc.pid).children(recursive=True)
    stages = [child for child in children if "stages/train.py" in child.cmdline()]
    assert stages
    dvc.kill()
    _, alive = psutil.wait_procs(stages, timeout=60)
    assert not alive
    dvc.communicate()


@pytest.mark.slow
def test_killed_style_transfer_resumes_bit_exactly(ready: Project, tmp_path: Path) -> None:
    long = {
        "stylize.iterations": 400,
        "stylize.generated_count": 2,
        "runtime.checkpoint_seconds": 0.0,
    }
    # Intermediate images of the killed attempts are part of the result.
    intermediates = {"stylize.save_intermediates": 20, "stylize.gif": True}
    ready.set(**long, **intermediates)
    uninterrupted = ready.copy(tmp_path / "uninterrupted")
    uninterrupted.repro("stylize")
    outputs = (
        "styled",
        "plots/style_losses.csv",
        "metrics/stylize.json",
        "metrics/details/stylize.json",
    )
    for seconds in (0.1, 1.0):
        assert kill_after_checkpoint(start(ready, "stylize"), seconds, ready)
    ready.repro("stylize")
    assert ready.bytes(*outputs) == uninterrupted.bytes(*outputs)


@pytest.mark.slow
def test_training_killed_a_hundred_times_resumes_bit_exactly(
    ready: Project, expected: dict[str, bytes]
) -> None:
    check_killed(ready, expected, kills=100, seed=2)
