"""An interrupted stage restores the earlier outputs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ..support.project import Project
from ..support.stage_runs import wait_for_checkpoint

OUTPUTS = (
    "models",
    "samples",
    "plots/losses.csv",
    "metrics/train.json",
    "metrics/details/train.json",
)


def stage_process(dvc: subprocess.Popen[str], script: str) -> psutil.Process:
    """Wait until DVC has started the stage's process; return it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for child in psutil.Process(dvc.pid).children(recursive=True):
            if script in child.cmdline() and "python" in Path(child.cmdline()[0]).name:
                return child
        time.sleep(0.02)
    raise AssertionError(f"{script} did not start")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_training_restores_old_outputs(ready: Project, number: signal.Signals) -> None:
    before = ready.bytes(*OUTPUTS)
    ready.set(**{"train.epochs": 100_000, "runtime.checkpoint_seconds": 0.0})
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    dvc = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=ready.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    stage = stage_process(dvc, "stages/train.py")
    wait_for_checkpoint(dvc, ready)
    assert ready.bytes(*OUTPUTS) == {}
    stage.send_signal(number)
    output, _ = dvc.communicate(timeout=120)
    assert "ERROR: interrupted before the stage was done; `dvc repro` resumes it" in output
    assert "Traceback" not in output
    assert ready.bytes(*OUTPUTS) == before
    leftovers = [path.name for path in ready.folder.glob(".atelier-*")]
    assert leftovers == []
