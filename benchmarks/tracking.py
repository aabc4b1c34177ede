"""What tracking costs: a stage's start, and its share of the time while a GAN trains.

Trainings with the sample's settings, on more pictures, alternate in one process, told to nobody
(reference) and told to MLflow through the journal and its deliverer (ours). Besides the ratio of
their times, which other work on the machine blurs, it prints what can be measured directly: the
time that the training's own thread spends telling, and the processor time of the deliverer
beside it.

Usage: python benchmarks/tracking.py [--epochs 6] [--pictures 20000] [--rounds 3] [--json]
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

from atelier.gan.step import STATISTICS
from atelier.gan.training import Epoch, Training
from atelier.settings import load
from atelier.tracking.deliver import deliver_left_over
from atelier.tracking.journal import Journal
from atelier.tracking.run import Run
from atelier.tracking.stage import _start_deliverer
from atelier.tracking.store import quiet_environment
from atelier.tracking.system import sampled
from atelier.tracking.workspace import Process, private_folder

ROOT = Path(__file__).resolve().parents[1]
START = """
import time; begin = time.perf_counter()
from atelier.settings import load
from atelier.tracking.stage import _run
with _run("train", load(), None, {logged}):
    print(time.perf_counter() - begin)
"""


class Told:
    """Tells epochs to a run, and counts the seconds that telling takes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seconds = 0.0

    def __call__(self, epoch: Epoch) -> None:
        """Tell one epoch."""
        begin = time.perf_counter()
        self.run.curves(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
        self.run.pictures("samples", epoch.samples, epoch.number)
        self.seconds += time.perf_counter() - begin


def train(epochs: int, pictures: int, root: Path | None) -> dict[str, float]:
    """Train once, and log to the store of ``root`` if that is given."""
    settings = load(ROOT / "params.yaml").train.model_copy(update={"epochs": epochs})
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)
    training = Training(settings, pixels, torch.device("cpu"))
    journal = None
    if root:
        process = Process.of(os.getpid())
        tags: dict[str, str] = {}
        about = {"experiment": "atelier", "pipeline": "", "parameters": {}, "tags": tags}
        journal = Journal(private_folder(root), process, "train", **about)
        _start_deliverer(root, process)
    told = Told(Run(journal))
    begin = time.perf_counter()
    with sampled(told.run.usage):
        for epoch in training.run():
            told(epoch)
    seconds = time.perf_counter() - begin
    told.run.end("FINISHED")
    deliverers = psutil.Process().children()
    cpu = sum(sum(child.cpu_times()[:2]) for child in deliverers)
    for child in deliverers:
        child.kill()
        child.wait()
    if root:
        deliver_left_over(root)
    return {"seconds": seconds, "telling": told.seconds, "deliverer": cpu}


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
    arguments = options(__doc__, epochs=6, pictures=20_000, rounds=3)
    quiet_environment()
    train(1, 2000, None)  # warms up
    plain, logged = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            plain.append(train(arguments.epochs, arguments.pictures, None))
            logged.append(train(arguments.epochs, arguments.pictures, Path(folder)))
    reference = statistics.median(run["seconds"] for run in plain)
    ours = statistics.median(run["seconds"] for run in logged)
    telling = statistics.median(run["telling"] / run["seconds"] for run in logged)
    starts = [statistics.median(start(how) for _ in range(3)) for how in (False, True)]
    result = {
        "name": "tracking",
        "reference": round(reference, 2),
        "ours": round(ours, 2),
        "ratio": round(ours / reference, 3),
        "limit_share": None,
        "share_of_the_training_thread": round(telling, 5),
        "deliverer_cpu_seconds": round(statistics.median(run["deliverer"] for run in logged), 2),
        "start_without": round(starts[0], 2),
        "start_with": round(starts[1], 2),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
