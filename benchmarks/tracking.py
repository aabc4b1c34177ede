"""What tracking costs: a stage's start, and its share of the time while a GAN trains.

Trainings with the sample's settings, on more pictures, alternate in one process, told to nobody
(reference) and told to MLflow through the journal and its deliverer (ours). The first epoch is
counted apart: beside it the deliverer imports MLflow and opens its store, once a pipeline. Besides
times, which other work on the machine blurs, it prints what can be measured directly: the time
that the training's own thread spends telling, and the processor time of the deliverer beside it.

Usage: python benchmarks/tracking.py [--epochs 6] [--pictures 20000] [--rounds 3] [--starts 3]
[--json]
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from command import options, show

from atelier.core.settings import load
from atelier.gan.history import EpochResult
from atelier.gan.step import STATISTICS
from atelier.gan.trainer import Trainer
from atelier.tracking.environment import Process, private_folder, sampling
from atelier.tracking.outbox import Outbox
from atelier.tracking.run import Run
from atelier.tracking.stage import _start_worker
from atelier.tracking.store import quiet_environment
from atelier.tracking.worker import flush_backlog

ROOT = Path(__file__).resolve().parents[1]
START = """
import time; begin = time.perf_counter()
from atelier.core.settings import load
from atelier.tracking.stage import _run
with _run("train", load(), None, {logged}):
    print(time.perf_counter() - begin)
"""


class Told:
    """Tells epochs to a run, and counts the seconds that telling takes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seconds = 0.0

    def __call__(self, epoch: EpochResult) -> None:
        """Tell one epoch."""
        begin = time.perf_counter()
        self.run.log_steps(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
        self.run.log_images("samples", epoch.samples, epoch.number)
        self.seconds += time.perf_counter() - begin


def train(epochs: int, pictures: int, root: Path | None) -> dict[str, float]:
    """Train once, and log to the store of ``root`` if that is given."""
    settings = load(ROOT / "params.yaml").train.model_copy(update={"epochs": epochs})
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)
    training = Trainer(settings, pixels, torch.device("cpu"))
    journal = None
    if root:
        process = Process.of(os.getpid())
        tags: dict[str, str] = {}
        about = {"experiment": "atelier", "pipeline": "", "parameters": {}, "tags": tags}
        journal = Outbox(private_folder(root), process, "train", **about)
        _start_worker(root, process)
    told = Told(Run(journal))
    marks, deliverer = [time.perf_counter()], [0.0]
    with sampling(told.run.log_system):
        for epoch in training.run():
            told(epoch)
            marks.append(time.perf_counter())
            deliverer.append(processor_seconds())
    told.run.end("FINISHED")
    for child in psutil.Process().children():
        child.kill()
        child.wait()
    if root:
        flush_backlog(root)
    return {
        "first": marks[1] - marks[0],
        "rest": marks[-1] - marks[1],
        "telling": told.seconds / (marks[-1] - marks[0]),
        "deliverer_first": deliverer[1],
        "deliverer_rest": deliverer[-1] - deliverer[1],
    }


def processor_seconds() -> float:
    """Of the processor, that the deliverer took so far."""
    return float(sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children()))


def start(logged: bool) -> float:
    """Seconds from a stage's first import to the begin of its work."""
    command = [sys.executable, "-c", START.format(logged=logged)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "params.yaml", folder)
        answer = subprocess.run(
            command, cwd=folder, env=env, check=True, capture_output=True, text=True
        )
    return float(answer.stdout)


def main() -> None:
    """Measure and print."""
    arguments = options(__doc__, epochs=6, pictures=20_000, rounds=3, starts=3)
    quiet_environment()
    train(1, min(2000, arguments.pictures), None)  # warms up
    plain, logged = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            plain.append(train(arguments.epochs, arguments.pictures, None))
            logged.append(train(arguments.epochs, arguments.pictures, Path(folder)))

    def median(runs: list[dict[str, float]], name: str) -> float:
        return statistics.median(run[name] for run in runs)

    # Of all cores' time: what the work beside could have used, and at its lowest priority.
    beside = median(logged, "deliverer_rest") / median(logged, "rest") / (os.cpu_count() or 1)
    starts = [
        statistics.median(start(how) for _ in range(arguments.starts)) for how in (False, True)
    ]
    result = {
        "name": "tracking",
        "reference": round(median(plain, "rest"), 2),
        "ours": round(median(logged, "rest"), 2),
        "ratio": round(median(logged, "rest") / median(plain, "rest"), 3),
        "limit_share": None,
        "first_epoch_untold": round(median(plain, "first"), 2),
        "first_epoch_told": round(median(logged, "first"), 2),
        "share_of_the_training_thread": round(median(logged, "telling"), 5),
        "deliverer_seconds_in_first_epoch": round(median(logged, "deliverer_first"), 2),
        "deliverer_share_of_the_cores": round(beside, 5),
        "start_without": round(starts[0], 2),
        "start_with": round(starts[1], 2),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
