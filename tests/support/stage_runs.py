"""Stages that the real dvc runs in the background, to be interrupted."""

import os
import subprocess
import sys
import time
from pathlib import Path

from .project import Project


def start(project: Project, stage: str = "train") -> subprocess.Popen[str]:
    """Start ``dvc repro`` of a stage in a process group of its own."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        ["dvc", "repro", "--no-run-cache", stage],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def states(project: Project) -> list[Path]:
    """The checkpoints of unfinished work, oldest first."""
    return sorted((project.folder / ".atelier" / "unfinished").glob("*/state-*"))


def wait_for_a_state(dvc: subprocess.Popen[str], project: Project) -> None:
    """Wait for the first checkpoint of a stage that runs."""
    end = time.monotonic() + 120
    while not states(project):
        assert dvc.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
