"""Cost of the live page: share of the processor time of a training.

Trainings with the sample's settings alternate in one process: without the live state (reference)
and with it, including its page (ours). Other processes affect elapsed times, so processor time is
compared. The processor time of the live state's own calls is measured directly, too, because it
is smaller than the noise of the comparison.

Usage: python benchmarks/live.py [--epochs 6] [--pictures 4000] [--side 64] [--rounds 3] [--json]
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import options, show

from atelier.core.progress import Progress
from atelier.core.settings import load
from atelier.gan.fit import TrainingEvents
from atelier.gan.step import STATISTICS
from atelier.gan.trainer import Trainer
from atelier.sample_faces.portrait import random_portrait
from atelier.tracking.environment import Process
from atelier.tracking.live_page import PageWriter
from atelier.tracking.live_state import LiveState, StageState

ROOT = Path(__file__).resolve().parents[1]


class Measured(TrainingEvents):
    """Passes progress to a live state, and adds up the processor time of all its calls."""

    def __init__(self, live: LiveState | None) -> None:
        self.live, self.seconds, self.steps = live, 0.0, 0

    def call(self, method: Callable[..., Any], *arguments: Any) -> None:
        """Call a method of the live state."""
        began = time.thread_time()
        method(*arguments)
        self.seconds += time.thread_time() - began

    def on_progress(self, progress: Progress) -> None:
        """Receive the work done so far."""
        self.steps += 1
        if self.live:
            self.call(self.live.on_progress, "steps", progress)


def train(epochs: int, pixels: np.ndarray, folder: Path | None) -> dict[str, float]:
    """Train once, with a live state in ``folder`` unless it is ``None``; return seconds."""
    settings = load(ROOT / "params.yaml").train.model_copy(update={"epochs": epochs})
    process = Process.of(os.getpid()).key
    began, elapsed = time.process_time(), time.perf_counter()
    live = None
    if folder:
        start = StageState(stage="train", process=process, signal=2, started=1.0, updated=1.0)
        live = LiveState(folder, start, show=PageWriter(is_early=True))
    events = Measured(live)
    trainer = Trainer(settings, pixels, torch.device("cpu"), events=events)
    for epoch in trainer.run():
        if live:
            events.call(live.add_steps, epoch.first_step, STATISTICS, epoch.statistics)
            events.call(live.set_images, "samples", epoch.samples, epoch.number, 8)
    if live:
        events.call(live.end, "finished")
    return {
        "cpu": time.process_time() - began,
        "elapsed": time.perf_counter() - elapsed,
        "live": events.seconds,
        "steps": events.steps,
    }


def main() -> None:
    """Measure and print the result."""
    arguments = options(__doc__, epochs=6, pictures=4000, side=64, rounds=3)
    rng = np.random.default_rng(0)
    faces = np.stack([random_portrait(arguments.side, arguments.side, rng) for _ in range(64)])
    pixels = np.resize(faces, (arguments.pictures, *faces.shape[1:]))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    train(1, pixels[:640], None)  # warms up
    plain, shown = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            plain.append(train(arguments.epochs, pixels, None))
            shown.append(train(arguments.epochs, pixels, Path(folder, str(number))))

    def median(runs: list[dict[str, float]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    result = {
        "name": "live",
        "reference": round(median(plain, "cpu"), 2),
        "ours": round(median(shown, "cpu"), 2),
        "ratio": round(median(shown, "cpu") / median(plain, "cpu"), 4),
        "limit_share": None,
        "pairs": [round(b["cpu"] / a["cpu"], 4) for a, b in zip(plain, shown, strict=True)],
        "elapsed_without": round(median(plain, "elapsed"), 2),
        "elapsed_with": round(median(shown, "elapsed"), 2),
        "share_of_live_calls": round(
            statistics.median(run["live"] / run["cpu"] for run in shown), 5
        ),
        "steps": int(median(shown, "steps")),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
