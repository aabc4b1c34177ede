"""Live states of stages that tests describe."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atelier.tracking.environment import Process
from atelier.tracking.live_state import FOLDER, STATE, StageState, folder_name

OWN = Process.of(os.getpid()).key


def dead_key(number: int = 1) -> str:
    """Return the key of a process that has ended; other numbers give other keys."""
    return Process(2**22 + number, "1").key


def state(stage: str = "train", **fields: Any) -> StageState:
    """Return the state of a stage of this process."""
    defaults = {"process": OWN, "signal": 2, "started": 1000.0, "updated": 1060.0}
    return StageState(stage=stage, **defaults | fields)


def write_state(private: Path, stage: str = "train", **fields: Any) -> Path:
    """Write a state as a stage does; return its folder."""
    written = state(stage, **fields)
    folder = private / FOLDER / folder_name(written)
    folder.mkdir(parents=True)
    (folder / STATE).write_text(written.model_dump_json(), "utf-8")
    return folder


@contextmanager
def stoppable_process() -> Iterator[subprocess.Popen[str]]:
    """Run a process that prints a line for each SIGINT, and ends when its input is closed."""
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, lambda *_: print('stop', flush=True));"
        " print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def output_at_end(process: subprocess.Popen[str]) -> str:
    """End a process of :func:`stoppable_process`; return the rest of its output."""
    return process.communicate(timeout=60)[0]
