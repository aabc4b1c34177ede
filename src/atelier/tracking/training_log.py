"""Logging of a training: samples to files, and results of epochs to a run."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.progress import Progress, ProgressCallback
from atelier.gan.fit import TrainingEvents
from atelier.gan.history import EpochResult
from atelier.gan.sample_files import save_augmented, save_samples
from atelier.gan.step import STATISTICS
from atelier.tracking.run import Run


class TrainingLog(TrainingEvents):
    """Writes samples to a folder, and logs samples, metrics and warnings to a run."""

    def __init__(self, run: Run, folder: Path, report: ProgressCallback) -> None:
        self._run, self._folder, self._report = run, folder, report
        self._columns = 0

    def on_progress(self, progress: Progress) -> None:
        """Show the progress."""
        self._report(progress)

    def warn(self, *warnings: str) -> None:
        """Print and log warnings."""
        self._run.warn(*warnings)

    def on_start(
        self, samples: NDArray[np.uint8], columns: int, augmented: NDArray[np.uint8] | None
    ) -> None:
        """Log noise as the samples of epoch 0, and images as the discriminator receives them."""
        self._columns = columns
        self._run.log_images("samples", samples, 0, columns)
        if augmented is not None:
            save_augmented(augmented, self._folder)
            images = augmented.reshape(-1, *augmented.shape[2:])
            self._run.log_images("augmented", images, 0, augmented.shape[1])

    def on_epoch(self, epoch: EpochResult) -> None:
        """Write the samples of an epoch, and log its samples and metrics."""
        save_samples(epoch.number, epoch.samples, epoch.step_samples, self._folder)
        self._run.log_steps(epoch.first_step, STATISTICS, epoch.statistics, epoch.images_seen)
        self._run.log_metrics(("kid",), epoch.quality_by_epoch)
        self._run.log_images("samples", epoch.samples, epoch.number, self._columns)
