"""Signs that a training has gone wrong though its numbers are finite."""

import numpy as np

from atelier.gan.history import EpochResult
from atelier.gan.step import STATISTICS

# Measured with `best32` on 400 drawn faces: docs/quality.md.
MIN_STEPS = 2000


def training_warnings(epochs: int, batch_size: int, images: int, steps: int = 0) -> list[str]:
    """Return the warnings about the length and the batches of a training on so many images."""
    steps_per_epoch = -(-images // batch_size)
    return batch_warnings(batch_size, images) + length_warnings(epochs, steps_per_epoch, steps)


def length_warnings(epochs: int, steps_per_epoch: int, steps: int = 0) -> list[str]:
    """Return a warning if the training has too few steps, else an empty list.

    Args:
        epochs: ``train.epochs``.
        steps_per_epoch: batches in a full epoch.
        steps: ``train.steps``, which replaces ``epochs`` if it is not 0.
    """
    if steps:
        return (
            []
            if steps >= MIN_STEPS
            else [
                f"the training has {steps:,} {'step' if steps == 1 else 'steps'}, but good images"
                f" usually need {MIN_STEPS:,} or more; set train.steps to {MIN_STEPS}."
            ]
        )
    steps = epochs * steps_per_epoch
    if steps >= MIN_STEPS or not steps:
        return []
    enough = -(-MIN_STEPS // steps_per_epoch)
    return [
        f"the training has {steps:,} steps ({epochs} {'epoch' if epochs == 1 else 'epochs'} of"
        f" {steps_per_epoch}), but good"
        f" images usually need {MIN_STEPS:,} or more; set train.epochs to {enough}."
    ]


def batch_warnings(batch_size: int, images: int) -> list[str]:
    """Return a warning if there are fewer training images than a batch has, else an empty list."""
    if images >= batch_size:
        return []
    return [
        f"the training set has {images:,} {'image' if images == 1 else 'images'}, fewer than"
        f" train.batch_size ({batch_size:,}), so that every step uses all of them; add images."
    ]


_LOSS_D_NEAR_ZERO = (
    0.01  # a mean Loss_D below this: real and generated pictures are told apart for sure
)
_KID_WORSE_BY = 0.2  # of the widest spread so far


class TrainingMonitor:
    """Looks at one epoch after another."""

    def __init__(
        self, loss: str = "bce", epochs: int = 0, steps_per_epoch: int = 0, steps: int = 0
    ) -> None:
        """Prepare for a training.

        Args:
            loss: ``train.loss``.
            epochs: ``train.epochs``; 0 if the length is unknown.
            steps_per_epoch: batches in a full epoch.
            steps: ``train.steps``, which replaces ``epochs`` if it is not 0.
        """
        self._loss = loss
        self._last_epoch = -(-steps // steps_per_epoch) if steps else epochs
        self._length_warnings = length_warnings(epochs, steps_per_epoch, steps)
        self._widest = 0.0

    def check(self, epoch: EpochResult) -> list[str]:
        """Say what is wrong with an epoch; nothing, where nothing is.

        The spread is the mean standard deviation of a pixel over the fixed latents' pictures, 0 to
        255; it falls where the generator makes one picture of all latents (mode collapse).
        """
        means = dict(zip(STATISTICS, epoch.statistics.mean(axis=0).tolist(), strict=True))
        spread = float(epoch.samples.astype(np.float32).std(axis=0).mean())
        self._widest = max(self._widest, spread)
        told = []
        # Wasserstein's is a distance with a minus: near or below 0 is as it should be.
        if self._loss != "wgan" and means["loss_d"] < _LOSS_D_NEAR_ZERO:
            remedy = "train.label_smoothing 0.1" if self._loss == "bce" else "train.r1 1.0"
            told.append(
                f"in epoch {epoch.number} the discriminator has won (Loss_D {means['loss_d']:.4f}):"
                f" the generator learns no more; try {remedy} or a smaller train.lr."
            )
        if spread < _KID_WORSE_BY * self._widest:
            told.append(
                f"in epoch {epoch.number} the generated pictures have become alike (spread"
                f" {spread:.1f} after {self._widest:.1f}): the generator has collapsed; try a"
                " smaller train.lr or another train.seed."
            )
        if epoch.number == self._last_epoch:  # repeated: the one at the start has scrolled away
            told += self._length_warnings
        return told
