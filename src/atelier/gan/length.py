"""Warnings before a training: its length and its batches."""

# Measured with `best32` on 400 drawn faces: docs/quality.md.
MIN_STEPS = 2000


def training_warnings(epochs: int, batch_size: int, images: int) -> list[str]:
    """Return the warnings about the length and the batches of a training on so many images."""
    return batch_warnings(batch_size, images) + length_warnings(epochs, -(-images // batch_size))


def length_warnings(epochs: int, steps_per_epoch: int) -> list[str]:
    """Return a warning if the training has too few steps, else an empty list."""
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
