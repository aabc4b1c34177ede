"""Stop of a running stage, as Ctrl-C does."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from atelier.core.errors import AtelierError
from atelier.tracking import live_stop
from atelier.tracking.environment import Process
from atelier.tracking.live_state import STOP, read_states, running
from atelier.tracking.live_view import executions

from ..support.live import OWN, dead_key, output_at_end, state, stoppable_process, write_state
from ..support.project import Project
from ..support.stage_runs import wait_for_checkpoint

OUTPUTS = ("models", "samples", "plots/losses.csv", "metrics/train.json")
OWN_PID = OWN.split("-")[-2]


def start_training(project: Project) -> "subprocess.Popen[str]":
    """Start the stage without DVC, which takes seconds."""
    return subprocess.Popen(
        [sys.executable, "stages/train.py"],
        cwd=project.folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": "src"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_stopped_training_resumes_to_the_same_bytes(ready: Project, tmp_path: Path) -> None:
    ready.set(**{"train.epochs": 30})
    whole = ready.copy(tmp_path / "whole")
    whole.stage("train")
    before = ready.bytes(*OUTPUTS)
    # A checkpoint after each step makes it slow enough to be stopped.
    ready.set(**{"runtime.checkpoint_seconds": 0.0})
    with start_training(ready) as training:
        wait_for_checkpoint(training, ready)
        output = ready.atelier("stop")
        printed, _ = training.communicate(timeout=60)
    assert "The stage train is stopped after " in output
    assert output.endswith("A checkpoint is saved. To continue from it, type: dvc repro\n")
    assert training.returncode == 130
    assert "`dvc repro` resumes it" in printed
    assert ready.bytes(*OUTPUTS) == before
    ready.set(**{"runtime.checkpoint_seconds": 3600.0})
    ready.stage("train")
    assert ready.bytes(*OUTPUTS) == whole.bytes(*OUTPUTS)


def test_nothing_runs(ready: Project) -> None:
    assert ready.atelier("stop") == "Nothing is running.\n"
    write_state(ready.folder / ".atelier", process=dead_key())
    assert ready.atelier("stop", "--all") == "Nothing is running.\n"
    assert "train-7 is not running; nothing is running." in ready.atelier(
        "stop", "train-7", ok=False
    )


def test_signal_is_sent_once(tmp_path: Path) -> None:
    with stoppable_process() as process:
        key = Process.of(process.pid).key
        folder = write_state(tmp_path, process=key)
        found = read_states(tmp_path)[folder.name]
        assert live_stop.request_stop(tmp_path, folder.name, found)
        assert live_stop.request_stop(tmp_path, folder.name, found)
        assert process.stdout is not None
        assert process.stdout.readline() == "stop\n"
        assert output_at_end(process) == ""
    assert not live_stop.request_stop(tmp_path, folder.name, found), "it has ended"


def test_other_process_with_the_same_number_gets_no_signal(tmp_path: Path) -> None:
    with stoppable_process() as process:
        key = Process(process.pid, "1").key
        folder = write_state(tmp_path, process=key)
        assert running(read_states(tmp_path)) == []
        assert not live_stop.request_stop(tmp_path, folder.name, state(process=key))
        assert output_at_end(process) == ""
    assert not (folder / STOP).exists()


def test_process_of_another_user_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_state(tmp_path)

    def deny(*_: object) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "send_signal", deny)
    with pytest.raises(AtelierError, match="was started by another user"):
        live_stop.request_stop(tmp_path, folder.name, state())
    assert not (folder / STOP).exists(), "the owner can still stop it"


def test_process_of_another_machine_is_reported(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="train runs on big-host; type `atelier stop` on that"):
        live_stop.request_stop(tmp_path, "train", state(process="big-host-12-34"))


def test_one_of_several_pipelines_is_chosen(tmp_path: Path) -> None:
    parent = Process.of(os.getppid()).key
    write_state(tmp_path, "train", pipeline=parent, title="best32")
    write_state(tmp_path, "stylize", process=OWN, started=2000.0)
    write_state(tmp_path, "render", process=dead_key())
    found = executions(tmp_path)
    with pytest.raises(AtelierError) as error:
        live_stop.choose(found, "", False)
    expected = f"2 pipelines are running: train-{OWN_PID} (best32), stylize-{OWN_PID} (stylize); "
    assert str(error.value).startswith(expected)
    assert "type `atelier stop NAME`" in str(error.value)
    (chosen,) = live_stop.choose(found, f"train-{OWN_PID}", False)
    assert chosen.newest.stage == "train"
    assert len(live_stop.choose(found, "", True)) == 2
    with pytest.raises(AtelierError, match=f"render-1 is not running; there are: train-{OWN_PID}"):
        live_stop.choose(found, "render-1", False)


def test_stage_that_does_not_end_is_reported(tmp_path: Path) -> None:
    with stoppable_process() as process:
        write_state(tmp_path, process=Process.of(process.pid).key)
        (execution,) = executions(tmp_path)
        with pytest.raises(AtelierError, match=f"has not ended .* `kill -9 {process.pid}`. To res"):
            live_stop.stop(tmp_path, execution, seconds=0.0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "The stage train was killed. To resume its last checkpoint, type: dvc repro"),
        ({"experiment": "fox"}, "checkpoint, repeat the command that started the experiment fox:"),
        ({"status": "failed", "message": "no disk"}, "failed before it was stopped: no disk"),
        ({"status": "finished"}, "The pipeline ended with the stage train before it was stopped."),
        (
            {"status": "interrupted", "done": 1200, "unit": "steps"},
            "is stopped after 1,200 steps. It had no checkpoint yet.",
        ),
    ],
)
def test_end_is_described(tmp_path: Path, fields: dict[str, Any], text: str) -> None:
    write_state(tmp_path, process=dead_key(), **fields)
    (execution,) = executions(tmp_path)
    assert text in live_stop.stop(tmp_path, execution)


def test_next_stage_is_stopped_if_one_finishes_first(tmp_path: Path) -> None:
    with stoppable_process() as dvc:
        pipeline = Process.of(dvc.pid).key
        write_state(tmp_path, "convert", process=dead_key(), status="finished", pipeline=pipeline)
        (between,) = executions(tmp_path)
        assert between.is_running
        train = write_state(tmp_path, "train", process=pipeline, pipeline=pipeline, started=2000.0)
        with pytest.raises(AtelierError, match="train-"):
            live_stop.stop(tmp_path, between, seconds=0.2)
        assert dvc.stdout is not None
        assert dvc.stdout.readline() == "stop\n"
        assert (train / STOP).exists()


def test_stop_waits_for_dvc_and_names_the_process_that_runs(tmp_path: Path) -> None:
    with stoppable_process() as dvc:
        fields = {"process": dead_key(), "status": "interrupted", "is_saved": True}
        write_state(tmp_path, pipeline=Process.of(dvc.pid).key, **fields)
        (execution,) = executions(tmp_path)
        with pytest.raises(AtelierError, match=f"has not ended .* `kill -9 {dvc.pid}`"):
            live_stop.stop(tmp_path, execution, seconds=0.0)
        assert output_at_end(dvc) == ""
    assert "The stage train is stopped" in live_stop.stop(tmp_path, execution)


def test_all_stops_are_requested_before_the_first_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_stop, "_WAIT_SECONDS", 0.0)
    reports: list[str] = []
    with stoppable_process() as first, stoppable_process() as second:
        processes = (first, second)
        for process in processes:
            write_state(tmp_path, process=Process.of(process.pid).key)
        write_state(tmp_path, "render", process="elsewhere-77-1", updated=time.time())
        write_state(tmp_path, "convert", process=dead_key(), started=1.0)
        found = executions(tmp_path)
        ended = next(each for each in found if each.newest.stage == "convert")
        remote = next(each for each in found if each.newest.stage == "render")
        chosen = live_stop.choose(found, "", True)
        assert {each.newest.stage for each in chosen} == {"train"}, "of this machine"
        assert live_stop.choose([remote], "", True) == [remote]
        with pytest.raises(AtelierError) as error:
            live_stop.stop_all(tmp_path, [remote, *chosen, ended], reports.append)
        for process in processes:
            assert f"train-{process.pid} has not ended" in str(error.value)
            assert output_at_end(process) == "stop\n"
    assert "render runs on elsewhere" in str(error.value)
    assert len(reports) == 1
    assert "The stage convert was killed" in reports[0]


def test_signal_is_sent_once_if_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with stoppable_process() as process:
        folder = write_state(tmp_path, process=Process.of(process.pid).key)
        found = read_states(tmp_path)[folder.name]
        monkeypatch.setattr(Path, "touch", fail)
        for _ in range(2):
            assert live_stop.request_stop(tmp_path, folder.name, found)
        assert output_at_end(process) == "stop\n"


def test_signal_that_was_not_sent_is_sent_after_a_minute(tmp_path: Path) -> None:
    with stoppable_process() as process:
        folder = write_state(tmp_path, process=Process.of(process.pid).key)
        found = read_states(tmp_path)[folder.name]
        claim = folder / f".{STOP}"
        claim.touch()  # of a process that was killed before it sent the signal
        assert live_stop.request_stop(tmp_path, folder.name, found)
        assert not (folder / STOP).exists(), "another process may be about to send it"
        os.utime(claim, (time.time() - 90, time.time() - 90))
        assert live_stop.request_stop(tmp_path, folder.name, found)
        assert (folder / STOP).exists()
        assert output_at_end(process) == "stop\n"
