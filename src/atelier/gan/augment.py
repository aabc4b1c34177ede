"""Differentiable augmentation of the discriminator's inputs, for small training sets.

Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training" (DiffAugment).
Real and generated images are augmented alike, and the generator's gradient passes through the
augmentation. Generated images therefore do not look augmented. The strengths are the paper's.

All random numbers are arguments, uniform in [0, 1): :data:`UNIFORMS_PER_IMAGE` per image and step.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.arrays import to_tensor, to_uint8
from atelier.core.random_streams import torch_generator
from atelier.core.settings import TrainSettings

Kind = Literal["color", "translation", "cutout"]
VIEWS = ("real", "fake", "fake_g", "real_g")
"""The discriminator's inputs in a step: real and generated images in its own update, then generated
and real images in the generator's update. Each has random numbers of its own."""
_UNIFORMS_PER_VIEW = 7  # 3 for color, 2 for translation, 2 for cutout
UNIFORMS_PER_IMAGE = 2 + _UNIFORMS_PER_VIEW * len(VIEWS)
"""Random numbers per image and step: flip, interpolation weight, then those of each view."""
_MAX_SHIFT_DIVISOR = 8  # shifts by up to an eighth of the size
_CUTOUT_DIVISOR = 2  # cuts out a square of half the size
_PREVIEW_IMAGES, _PREVIEW_REPEATS = 6, 7


def random_hflip(images: Tensor, uniforms: Tensor) -> Tensor:
    """Flip images [B, C, H, W] horizontally with a probability of one half.

    Only applied to real images: faces have no preferred side. Karras et al. 2020, "Training
    generative adversarial networks with limited data", enlarge their data in the same way.
    """
    return torch.where(uniforms[:, 0, None, None, None] < 0.5, images.flip(3), images)


def interpolation_weights(uniforms: Tensor) -> Tensor:
    """Return the weights of the real images in the gradient penalty's interpolation, [B]."""
    return uniforms[:, 1]


def diff_augment(images: Tensor, kinds: Sequence[Kind], uniforms: Tensor, view: str) -> Tensor:
    """Apply differentiable augmentation to the discriminator's inputs.

    Args:
        images: [B, C, H, W] float, in [-1, 1].
        kinds: augmentations to apply; if empty, ``images`` is returned.
        uniforms: [B, UNIFORMS_PER_IMAGE].
        view: one of :data:`VIEWS`.

    Returns:
        float32 [B, C, H, W], channels last in memory; values may leave [-1, 1], as in the paper.
    """
    if not kinds:
        return images
    start = 2 + _UNIFORMS_PER_VIEW * VIEWS.index(view)
    uniforms = uniforms[:, start : start + _UNIFORMS_PER_VIEW]
    with torch.autocast(images.device.type, enabled=False):
        images = images.float()
        if "color" in kinds:
            images = _color(images, uniforms[:, :3])
        if "translation" in kinds:
            images = _translation(images, uniforms[:, 3:5])
        if "cutout" in kinds:
            images = _cutout(images, uniforms[:, 5:])
    return images.contiguous(memory_format=torch.channels_last)


def augmentation_preview(
    settings: TrainSettings, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """Return some training images, each followed by several augmented versions.

    Args:
        settings: the ``train`` section.
        pixels: uint8 [N, H, W, C].

    Returns:
        uint8 [rows, columns, H, W, C]; ``None`` if ``train.augment`` is empty.
    """
    if not settings.augment:
        return None
    indices = np.linspace(0, len(pixels) - 1, min(_PREVIEW_IMAGES, len(pixels))).astype(np.int64)
    real = to_tensor(torch.from_numpy(pixels[indices]), signed=True)
    stream = torch_generator(settings.seed, "train.augmented")
    columns = [to_uint8(real, signed=True)]
    for _ in range(_PREVIEW_REPEATS):
        uniforms = torch.rand(len(real), UNIFORMS_PER_IMAGE, generator=stream)
        flipped = random_hflip(real, uniforms) if settings.horizontal_flip else real
        augmented = diff_augment(flipped, settings.augment, uniforms, "real")
        columns.append(to_uint8(augmented, signed=True))
    return torch.stack(columns, 1).numpy()


def _color(images: Tensor, uniforms: Tensor) -> Tensor:
    """Shift brightness by -0.5 to 0.5; scale saturation by 0 to 2 and contrast by 0.5 to 1.5."""
    brightness, saturation, contrast = (u[:, None, None, None] for u in uniforms.unbind(1))
    images = images + (brightness - 0.5)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * (contrast + 0.5)


def _translation(images: Tensor, uniforms: Tensor) -> Tensor:
    """Shift by whole pixels and fill with gray (0).

    Two products with shifted identity matrices are exact, except for rounding in TF32. Unlike
    indexing on a GPU, their gradient does not depend on the order of a sum.
    """
    vertical, horizontal = (
        _shift_matrix(size, u) for size, u in zip(images.shape[2:], uniforms.unbind(1), strict=True)
    )
    return vertical[:, None] @ images @ horizontal.mT[:, None]


def _shift_matrix(size: int, uniforms: Tensor) -> Tensor:
    """Return matrices [B, size, size] that shift a column of pixels by a random amount."""
    max_shift = (size + _MAX_SHIFT_DIVISOR // 2) // _MAX_SHIFT_DIVISOR
    shifts = (uniforms * (2 * max_shift + 1)).floor() - max_shift
    pixels = torch.arange(size, device=uniforms.device)
    return (pixels[:, None] - pixels == shifts[:, None, None]).float()


def _cutout(images: Tensor, uniforms: Tensor) -> Tensor:
    """Set a square to gray (0); its center may be any pixel."""
    rows, columns = (
        _cutout_mask(size, u) for size, u in zip(images.shape[2:], uniforms.unbind(1), strict=True)
    )
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _cutout_mask(size: int, uniforms: Tensor) -> Tensor:
    """Return the mask of the pixels to cut out along one axis, bool [B, size]."""
    length = size // _CUTOUT_DIVISOR
    first = (uniforms * (size + 1)).floor()[:, None] - length // 2
    pixels = torch.arange(size, device=uniforms.device)
    return (first <= pixels) & (pixels < first + length)
