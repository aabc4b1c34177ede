"""Warnings before a training: its length and its batches."""

from atelier.core.errors import count_text
from atelier.core.settings import TrainSettings

# Measured with `best32` on 400 drawn faces: docs/measurements/sample.md.
MIN_STEPS = 2000
FEW_IMAGES = 1000
"""Below this number, a discriminator soon memorizes images that are not augmented."""


def training_warnings(settings: TrainSettings, images: int) -> list[str]:
    """Return warnings about the length and the batches of a training on ``images`` images."""
    if settings.start_from:  # the number of steps is that of a training from random weights
        return batch_warnings(settings.batch_size, images)
    steps_per_epoch = -(-images // settings.batch_size)
    length = length_warnings(settings.epochs, steps_per_epoch, settings.steps)
    return batch_warnings(settings.batch_size, images) + length


def length_warnings(epochs: int, steps_per_epoch: int, steps: int = 0) -> list[str]:
    """Return a warning if the training has too few steps, else an empty list.

    Args:
        epochs: ``train.epochs``.
        steps_per_epoch: batches in a full epoch.
        steps: ``train.steps``, which replaces ``epochs`` if it is not 0.
    """
    total = steps or epochs * steps_per_epoch
    if total >= MIN_STEPS or not total:
        return []
    if steps:
        length = count_text(steps, "step")
        advice = f"train.steps to {MIN_STEPS}"
    else:
        length = f"{count_text(total, 'step')} ({count_text(epochs, 'epoch')} of {steps_per_epoch})"
        advice = f"train.epochs to {-(-MIN_STEPS // steps_per_epoch)}"
    return [
        f"the training has {length}, but good images usually need {MIN_STEPS:,} or more; set"
        f" {advice}."
    ]


def few_images_advice(settings: TrainSettings, images: int) -> list[str]:
    """Return a sentence if there are few images and none is augmented, else an empty list."""
    if images >= FEW_IMAGES or settings.augment:
        return []
    return [
        f"{count_text(images, 'image')} are few for a training without train.augment;"
        " `atelier preset few64` has settings for 100 to 2,000 images."
    ]


def batch_warnings(batch_size: int, images: int) -> list[str]:
    """Return a warning if there are fewer training images than a batch has, else an empty list."""
    if images >= batch_size:
        return []
    return [
        f"the training set has {count_text(images, 'image')}, fewer than"
        f" train.batch_size ({batch_size:,}), so that every step uses all of them; add images."
    ]
