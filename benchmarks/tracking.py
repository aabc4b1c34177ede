"""Cost of tracking: start of a stage, and share of the time of a training.

Trainings with the sample's settings, on more images, alternate in one process: without tracking
(reference) and logged to MLflow through the outbox and its worker (ours). The first epoch is
counted separately, because the worker imports MLflow and opens the store in it, once per pipeline.
Other processes on the machine affect the times. So the time that the training's thread spends on
logging and the worker's CPU time are measured directly, too.

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
from atelier.tracking.delivery_worker import flush_backlog
from atelier.tracking.environment import Process, private_folder, sampling
from atelier.tracking.outbox import Outbox
from atelier.tracking.run import Run
from atelier.tracking.stage import _start_worker
from atelier.tracking.store import quiet_environment

ROOT = Path(__file__).resolve().parents[1]
START = """
import time; begin = time.perf_counter()
from atelier.core.settings import load
from atelier.tracking.stage import _run
with _run("train", load(), None, {logged}):
    print(time.perf_counter() - begin)
"""


class TimedLogger:
    """Logs epochs to a run, and adds up the seconds that it takes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seconds = 0.0

    def __call__(self, epoch: EpochResult) -> None:
        """Log one epoch."""
        begin = time.perf_counter()
        self.run.log_steps(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
        self.run.log_images("samples", epoch.samples, epoch.number)
        self.seconds += time.perf_counter() - begin


def train(epochs: int, pictures: int, root: Path | None) -> dict[str, float]:
    """Train once and return seconds; log to the store of ``root`` unless it is ``None``."""
    settings = load(ROOT / "params.yaml").train.model_copy(update={"epochs": epochs})
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)
    trainer = Trainer(settings, pixels, torch.device("cpu"))
    outbox = None
    if root:
        process = Process.of(os.getpid())
        tags: dict[str, str] = {}
        start = {"experiment": "atelier", "pipeline": "", "parameters": {}, "tags": tags}
        outbox = Outbox(private_folder(root), process, "train", **start)
        _start_worker(root, process)
    log = TimedLogger(Run(outbox))
    times, worker = [time.perf_counter()], [0.0]
    with sampling(log.run.log_system):
        for epoch in trainer.run():
            log(epoch)
            times.append(time.perf_counter())
            worker.append(worker_cpu_seconds())
    log.run.end("FINISHED")
    for child in psutil.Process().children():
        child.kill()
        child.wait()
    if root:
        flush_backlog(root)
    return {
        "first": times[1] - times[0],
        "rest": times[-1] - times[1],
        "logging": log.seconds / (times[-1] - times[0]),
        "worker_first": worker[1],
        "worker_rest": worker[-1] - worker[1],
    }


def worker_cpu_seconds() -> float:
    """Return the CPU seconds that the worker has used."""
    return float(sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children()))


def start(logged: bool) -> float:
    """Return the seconds from a stage's first import to the start of its ``main``."""
    command = [sys.executable, "-c", START.format(logged=logged)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "params.yaml", folder)
        result = subprocess.run(
            command, cwd=folder, env=env, check=True, capture_output=True, text=True
        )
    return float(result.stdout)


def main() -> None:
    """Measure and print the result."""
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

    # Share of the CPU time of all cores.
    share = median(logged, "worker_rest") / median(logged, "rest") / (os.cpu_count() or 1)
    starts = [
        statistics.median(start(is_logged) for _ in range(arguments.starts))
        for is_logged in (False, True)
    ]
    result = {
        "name": "tracking",
        "reference": round(median(plain, "rest"), 2),
        "ours": round(median(logged, "rest"), 2),
        "ratio": round(median(logged, "rest") / median(plain, "rest"), 3),
        "limit_share": None,
        "first_epoch_without": round(median(plain, "first"), 2),
        "first_epoch_with": round(median(logged, "first"), 2),
        "share_of_training_thread": round(median(logged, "logging"), 5),
        "worker_seconds_in_first_epoch": round(median(logged, "worker_first"), 2),
        "worker_share_of_cores": round(share, 5),
        "start_without": round(starts[0], 2),
        "start_with": round(starts[1], 2),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
