"""Stages that dvc runs in the background, so that tests can interrupt them."""

import os
import subprocess
import sys
import time
from pathlib import Path

from .project import Project


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Start ``dvc repro`` in a separate process group; without arguments, of the train stage."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        ["dvc", "repro", "--no-run-cache", *(arguments or ("train",))],
        cwd=project.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def checkpoints(project: Project) -> list[Path]:
    """Return the checkpoints of unfinished stages, oldest first."""
    return sorted((project.folder / ".atelier" / "unfinished").glob("*/state-*"))


def wait_for_checkpoint(dvc: subprocess.Popen[str], project: Project) -> None:
    """Wait for the first checkpoint of a running stage."""
    end = time.monotonic() + 120
    while not checkpoints(project):
        assert dvc.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
