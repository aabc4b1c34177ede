"""Logging of a training: samples to files, and results of epochs to a run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.progress import Progress, ProgressCallback
from atelier.gan.fit import TrainingEvents
from atelier.gan.history import EpochResult
from atelier.gan.sample_files import save_augmented, save_samples
from atelier.tracking.run import Run

# Metrics of the columns of ``atelier.gan.step.STATISTICS``.
CURVES = ("loss/d", "loss/g", "scores/d_x", "scores/d_g_z1", "scores/d_g_z2")


class TrainingLog(TrainingEvents):
    """Writes samples to a folder, and logs samples, metrics and warnings to a run."""

    def __init__(self, run: Run, folder: Path, report: ProgressCallback) -> None:
        self._run, self._folder, self._report = run, folder, report
        self._columns = 0
        self._last: NDArray[np.uint8] | None = None

    def on_progress(self, progress: Progress) -> None:
        """Show the progress."""
        self._report(progress)

    def warn(self, *warnings: str) -> None:
        """Print and log warnings."""
        self._run.warn(*warnings)

    def on_start(
        self, samples: NDArray[np.uint8], columns: int, augmented: NDArray[np.uint8] | None
    ) -> None:
        """Log images as the discriminator receives them."""
        self._columns = columns
        if augmented is not None:
            save_augmented(augmented, self._folder)
            images = augmented.reshape(-1, *augmented.shape[2:])
            self._run.log_images("augmented", images, columns=augmented.shape[1])

    def on_epoch(self, epoch: EpochResult) -> None:
        """Write the samples of an epoch, and log its samples and metrics."""
        save_samples(epoch.number, epoch.samples, epoch.step_samples, self._folder)
        self._run.log_steps(epoch.first_step, CURVES, epoch.statistics, epoch.images_seen)
        self._run.log_metrics(("quality/validation_kid",), epoch.quality_by_epoch)
        self._run.log_images("samples", epoch.samples, epoch.number, self._columns)
        self._last = epoch.samples

    def log_final_samples(self) -> None:
        """Log the samples of the last epoch at step 0, where MLflow opens the series."""
        if self._last is not None:
            self._run.log_images("samples", self._last, columns=self._columns)
