"""Outboxes of stages for tests."""

import os
from pathlib import Path

from atelier.tracking.environment import Process, private_folder
from atelier.tracking.outbox import Outbox

DEAD = Process(os.getpid(), "1")  # exited: no process with this number started that early


def start(
    root: Path,
    stage: str = "train",
    process: Process = DEAD,
    pipeline: str = "p",
    **fields: str,
) -> Outbox:
    """Create the outbox of a stage; by default, the process of dvc has exited."""
    return Outbox(
        private_folder(root),
        process,
        stage,
        experiment="atelier",
        pipeline=pipeline,
        parameters={"train.lr": "0.1", "render.fps": "4"},
        tags={"git.dirty": "false"},
        **fields,
    )
