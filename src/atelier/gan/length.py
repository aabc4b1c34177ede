"""Warnings before a training: its length and its batches."""

from atelier.core.errors import count_text
from atelier.core.settings import TrainSettings

# Measured with `best32` on 400 drawn faces: docs/measurements/sample.md.
RECOMMENDED_STEPS = 2000
FEW_IMAGES = 1000
"""Below this number, a discriminator soon memorizes images that are not augmented."""

# As in the preset few64, which is for 100 photographs or more and validates with a fifth of them.
_FEW_IMAGES_BATCH = 16
_FEWEST_FOR_PRESET = 80


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
    if total >= RECOMMENDED_STEPS or not total:
        return []
    if steps:
        length = count_text(steps, "step")
        advice = f"train.steps to {RECOMMENDED_STEPS}"
    else:
        length = f"{count_text(total, 'step')} ({count_text(epochs, 'epoch')} of {steps_per_epoch})"
        advice = f"train.epochs to {-(-RECOMMENDED_STEPS // steps_per_epoch)}"
    return [
        f"the training has {length}, but good images usually need {RECOMMENDED_STEPS:,} or more;"
        f" set {advice}."
    ]


def few_images_advice(settings: TrainSettings, images: int) -> list[str]:
    """Return advice if there are few images and none is augmented, else an empty list.

    A fine-tuning gets no advice: it needs fewer images, and a preset would reset its settings.
    """
    if images >= FEW_IMAGES or settings.augment or settings.start_from:
        return []
    advice = "set train.augment to [translation]"
    if settings.batch_size > _FEW_IMAGES_BATCH:
        advice += f" and train.batch_size to {_FEW_IMAGES_BATCH}"
    sentence = (
        f"{count_text(images, 'image')} are few for a training without augmentation; {advice}"
    )
    if images >= _FEWEST_FOR_PRESET:
        sentence += (
            "; if they are photographs of people, you can also use `atelier preset few64`, which"
            " replaces your other settings"
        )
    return [f"{sentence}."]


def batch_warnings(batch_size: int, images: int) -> list[str]:
    """Return a warning if there are fewer training images than a batch has, else an empty list."""
    if images >= batch_size:
        return []
    return [
        f"the training set has {count_text(images, 'image')}, fewer than"
        f" train.batch_size ({batch_size:,}), so that every step uses all of them; add images."
    ]
