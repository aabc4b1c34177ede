"""Signs that a training has gone wrong though its numbers are finite."""

import numpy as np

from atelier.gan.epoch import Epoch
from atelier.gan.length import length_warnings
from atelier.gan.step import STATISTICS

_WON = 0.01  # a mean Loss_D below this: real and generated pictures are told apart for sure
_FALLEN = 0.2  # of the widest spread so far


class Health:
    """Looks at one epoch after another."""

    def __init__(self, loss: str = "bce", epochs: int = 0, steps_per_epoch: int = 0) -> None:
        """Look at a training by ``train.loss``, of so many epochs; 0 epochs: of unknown length."""
        self._loss, self._epochs = loss, epochs
        self._steps_per_epoch = steps_per_epoch
        self._widest = 0.0

    def symptoms(self, epoch: Epoch) -> list[str]:
        """Say what is wrong with an epoch; nothing, where nothing is.

        The spread is the mean standard deviation of a pixel over the fixed latents' pictures, 0 to
        255; it falls where the generator makes one picture of all latents (mode collapse).
        """
        means = dict(zip(STATISTICS, epoch.statistics.mean(axis=0).tolist(), strict=True))
        spread = float(epoch.samples.astype(np.float32).std(axis=0).mean())
        self._widest = max(self._widest, spread)
        told = []
        # Wasserstein's is a distance with a minus: near or below 0 is as it should be.
        if self._loss != "wasserstein" and means["loss_d"] < _WON:
            remedy = "train.label_smoothing 0.1" if self._loss == "bce" else "train.r1 1.0"
            told.append(
                f"in epoch {epoch.number} the discriminator has won (Loss_D {means['loss_d']:.4f}):"
                f" the generator learns no more; try {remedy} or a smaller train.lr."
            )
        if spread < _FALLEN * self._widest:
            told.append(
                f"in epoch {epoch.number} the generated pictures have become alike (spread"
                f" {spread:.1f} after {self._widest:.1f}): the generator has collapsed; try a"
                " smaller train.lr or another train.seed."
            )
        if epoch.number == self._epochs:  # the announcement at the start has scrolled away by now
            told += length_warnings(self._epochs, self._steps_per_epoch)
        return told
