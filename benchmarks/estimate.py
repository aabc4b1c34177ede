"""Accuracy of the estimated duration of a training.

Trains a preset on random images for some epochs, and compares the duration with the estimate that
the train stage prints. Checkpoints and measured epochs are part of both.

Usage: python benchmarks/estimate.py [--preset sample] [--images 1600] [--epochs 6] [--json]
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from command import options, show

from atelier.core.checkpoints import Checkpoints
from atelier.core.device import disable_malloc_trim
from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.gan.fit import TrainingEvents, train
from atelier.gan.resume_rollback import Resumption
from atelier.gan.trainer import Trainer
from atelier.gan.training_plan import estimate_seconds

ROOT = Path(__file__).resolve().parents[1]


class Timer(TrainingEvents):
    """Measures the estimate, and the time from there to the end of the last epoch."""

    estimate: float | None = None
    start = measurement = 0.0

    def on_ready(self, trainer: Trainer) -> None:
        """Estimate the duration."""
        begin = time.perf_counter()
        self.estimate = estimate_seconds(trainer)
        self.start = time.perf_counter()
        self.measurement = self.start - begin


def main() -> None:
    """Measure and print the result."""
    arguments = options(__doc__, preset="sample", images=1600, epochs=6)
    disable_malloc_trim()
    values = preset_values(arguments.preset, ROOT / "presets")
    settings = TrainSettings(**values["train"] | {"epochs": arguments.epochs, "steps": 0})
    side, channels = (
        values["convert"]["image_size"],
        3 if values["convert"]["color"] == "rgb" else 1,
    )
    shape = (arguments.images, side, side, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    timer = Timer()
    with tempfile.TemporaryDirectory() as folder:
        resumption = Resumption(Checkpoints(Path(folder)))
        train(settings, pixels, held_out=pixels[:200], resumption=resumption, events=timer)
    seconds = time.perf_counter() - timer.start
    result = {
        "name": f"estimate of {arguments.preset}",
        "reference": round(timer.estimate or 0.0, 1),
        "ours": round(seconds, 1),
        "ratio": round(seconds / timer.estimate, 2) if timer.estimate else None,
        "limit_share": None,
        "measurement": round(timer.measurement, 2),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
