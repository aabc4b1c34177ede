"""Warnings about a training whose losses are finite, but whose images will not be good."""

import math

import numpy as np

from atelier.gan.history import EpochResult
from atelier.gan.length import length_warnings
from atelier.gan.step import STATISTICS

_MIN_LOSS_D = 0.01  # mean loss below which the discriminator separates real and generated images
_MIN_SPREAD_RATIO = 0.2  # of the largest spread so far


class TrainingMonitor:
    """Check of each epoch for a perfect discriminator and for mode collapse."""

    def __init__(
        self, loss: str = "bce", epochs: int = 0, steps_per_epoch: int = 0, steps: int = 0
    ) -> None:
        """Set the training to monitor.

        Args:
            loss: ``train.loss``.
            epochs: ``train.epochs``; 0 if unknown.
            steps_per_epoch: steps of a full epoch.
            steps: ``train.steps``, which replaces ``epochs`` if it is not 0.
        """
        self._loss = loss
        self._last_epoch = -(-steps // steps_per_epoch) if steps else epochs
        self._length_warnings = length_warnings(epochs, steps_per_epoch, steps)
        self._max_spread = 0.0

    def check(self, epoch: EpochResult) -> list[str]:
        """Return warnings about an epoch.

        The spread is the mean standard deviation of a pixel over the images of the fixed latents,
        0 to 255. It falls if the generator maps all latents to one image (mode collapse).
        """
        means = dict(zip(STATISTICS, epoch.statistics.mean(axis=0).tolist(), strict=True))
        spread = math.inf  # of an epoch without samples
        if len(epoch.samples):
            spread = float(epoch.samples.astype(np.float32).std(axis=0).mean())
            self._max_spread = max(self._max_spread, spread)
        warnings = []
        # The Wasserstein loss is a negative distance, so values near or below 0 are normal.
        if self._loss != "wgan" and means["loss_d"] < _MIN_LOSS_D:
            remedy = "train.label_smoothing 0.1" if self._loss == "bce" else "train.r1 1.0"
            warnings.append(
                f"in epoch {epoch.number} the discriminator loss is near zero"
                f" ({means['loss_d']:.4f}), so the generator has stopped learning; try {remedy} or"
                " a smaller train.lr."
            )
        if spread < _MIN_SPREAD_RATIO * self._max_spread:
            warnings.append(
                f"in epoch {epoch.number} the generated images are nearly equal (spread"
                f" {spread:.1f} after {self._max_spread:.1f}), so the generator has collapsed; try"
                " a smaller train.lr or another train.seed."
            )
        if epoch.number == self._last_epoch:  # repeated: the first one has scrolled out of view
            warnings += self._length_warnings
        return warnings
