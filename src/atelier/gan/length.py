"""Warnings before a training: its length and its batches."""

from atelier.core.settings import TrainSettings

# Measured with `best32` on 400 drawn faces: docs/measurements/sample.md.
MIN_STEPS = 2000


def training_warnings(settings: TrainSettings, images: int) -> list[str]:
    """Return warnings about the length and the batches of a training on ``images`` images."""
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
    min_epochs = -(-MIN_STEPS // steps_per_epoch)
    return [
        f"the training has {steps:,} steps ({epochs} {'epoch' if epochs == 1 else 'epochs'} of"
        f" {steps_per_epoch}), but good"
        f" images usually need {MIN_STEPS:,} or more; set train.epochs to {min_epochs}."
    ]


def batch_warnings(batch_size: int, images: int) -> list[str]:
    """Return a warning if there are fewer training images than a batch has, else an empty list."""
    if images >= batch_size:
        return []
    return [
        f"the training set has {images:,} {'image' if images == 1 else 'images'}, fewer than"
        f" train.batch_size ({batch_size:,}), so that every step uses all of them; add images."
    ]
