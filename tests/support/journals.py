"""What a stage writes down for MLflow."""

import os
from pathlib import Path

from atelier.tracking.environment import Process, private_folder
from atelier.tracking.outbox import Outbox

DEAD = Process(os.getpid(), "1")  # no process with this number started so early


def start(
    root: Path,
    stage: str = "train",
    process: Process = DEAD,
    pipeline: str = "p",
    **fields: str,
) -> Outbox:
    """Begin the journal of a stage, of a dvc that is dead."""
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
