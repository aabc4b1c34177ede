"""Pictures changed at random on their way to the discriminator, so that few go further.

Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training" (DiffAugment):
real and generated pictures alike are changed, and the generator learns through the change, so
that it need not draw what the changes look like. Strengths are the paper's.

All random numbers come from outside, uniform in [0, 1): :data:`UNIFORMS_PER_IMAGE` of each picture and step.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.random_streams import torch_generator
from atelier.core.settings import TrainSettings
from atelier.gan.generate import to_uint8
from atelier.gan.loader import to_unit_range

Kind = Literal["color", "translation", "cutout"]
_UNIFORMS = 7  # numbers for one look at a picture: 3 for its color, 2 for its shift, 2 for its hole
_SHIFT, _HOLE = 8, 2  # at most an eighth of the side; half of the side
VIEWS = ("real", "fake", "fooled", "rival")
"""What the discriminator looks at in a step: the batches of its own, then of the generator's."""
UNIFORMS_PER_IMAGE = 2 + _UNIFORMS * len(VIEWS)
"""Random numbers of a picture and step: for its mirroring, for its mixing, for each look."""


def random_hflip(pictures: Tensor, chances: Tensor) -> Tensor:
    """Mirror every second picture [B, C, H, W] left to right, by chance [B, CHANCES].

    For real pictures alone: faces have no side. Karras et al. 2020, "Training generative
    adversarial networks with limited data", double their data so.
    """
    return torch.where(chances[:, 0, None, None, None] < 0.5, pictures.flip(3), pictures)


def interpolation_weights(chances: Tensor) -> Tensor:
    """Where between a real and a generated picture to look, [B]."""
    return chances[:, 1]


def diff_augment(pictures: Tensor, kinds: Sequence[Kind], chances: Tensor, look: str) -> Tensor:
    """Change pictures as the discriminator shall see them.

    Args:
        pictures: [B, C, H, W] float, in [-1, 1].
        kinds: what to change; with none, ``pictures`` themselves come back.
        chances: [B, CHANCES].
        look: one of :data:`VIEWS`; each has numbers of its own.

    Returns:
        float32 [B, C, H, W], channels last in memory; values may leave [-1, 1], as in the paper.
    """
    if not kinds:
        return pictures
    start = 2 + _UNIFORMS * VIEWS.index(look)
    numbers = chances[:, start : start + _UNIFORMS]
    with torch.autocast(pictures.device.type, enabled=False):
        pictures = pictures.float()
        if "color" in kinds:
            pictures = _color(pictures, numbers[:, :3])
        if "translation" in kinds:
            pictures = _translation(pictures, numbers[:, 3:5])
        if "cutout" in kinds:
            pictures = _cutout(pictures, numbers[:, 5:])
    return pictures.contiguous(memory_format=torch.channels_last)


def _color(pictures: Tensor, chances: Tensor) -> Tensor:
    """Brightness by up to a quarter of the range, saturation times 0 to 2, contrast 0.5 to 1.5."""
    bright, colorful, contrast = (column[:, None, None, None] for column in chances.unbind(1))
    pictures = pictures + (bright - 0.5)
    grey = pictures.mean(1, keepdim=True)
    pictures = grey + (pictures - grey) * (2 * colorful)
    middle = pictures.mean((1, 2, 3), keepdim=True)
    return middle + (pictures - middle) * (contrast + 0.5)


def _translation(pictures: Tensor, chances: Tensor) -> Tensor:
    """Shift by whole pixels; what comes in is grey (0).

    As two products with shifted unit matrices: exact (but for tf32, which rounds), and with a
    gradient that does not hang on the order of sums, which that of indexing does on a GPU.
    """
    down, right = (
        _shift_matrix(side, column)
        for side, column in zip(pictures.shape[2:], chances.unbind(1), strict=True)
    )
    return down[:, None] @ pictures @ right.mT[:, None]


def _shift_matrix(side: int, chances: Tensor) -> Tensor:
    """Matrices [B, side, side] that shift a column of pixels by chance [B]."""
    most = (side + _SHIFT // 2) // _SHIFT
    shifts = (chances * (2 * most + 1)).floor() - most
    pixels = torch.arange(side, device=chances.device)
    return (pixels[:, None] - pixels == shifts[:, None, None]).float()


def _cutout(pictures: Tensor, chances: Tensor) -> Tensor:
    """Make a square grey (0) whose middle may lie anywhere."""
    rows, columns = (
        _inside(side, column)
        for side, column in zip(pictures.shape[2:], chances.unbind(1), strict=True)
    )
    return pictures * ~(rows[:, None, :, None] & columns[:, None, None, :])


def _inside(side: int, chances: Tensor) -> Tensor:
    """Which of ``side`` pixels lie in the hole, bool [B, side]."""
    hole = side // _HOLE
    first = (chances * (side + 1)).floor()[:, None] - hole // 2
    pixels = torch.arange(side, device=chances.device)
    return (first <= pixels) & (pixels < first + hole)


_PREVIEW_IMAGES, _PREVIEW_REPEATS = 6, 7


def augmentation_preview(
    settings: TrainSettings, pixels: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """Some pictures, each as it is and then several times as the discriminator may see it.

    Args:
        settings: the ``train`` section.
        pixels: uint8 [N, H, W, C].

    Returns:
        uint8 [rows, columns, H, W, C]; ``None`` without ``train.augment``: mirrored pictures alone
        show nothing.
    """
    if not settings.augment:
        return None
    chosen = np.linspace(0, len(pixels) - 1, min(_PREVIEW_IMAGES, len(pixels))).astype(np.int64)
    real = to_unit_range(torch.from_numpy(pixels[chosen]))
    stream = torch_generator(settings.seed, "train.augmented")
    views = [to_uint8(real)]
    for _ in range(_PREVIEW_REPEATS):
        chances = torch.rand(len(real), UNIFORMS_PER_IMAGE, generator=stream)
        flipped = random_hflip(real, chances) if settings.horizontal_flip else real
        views.append(to_uint8(diff_augment(flipped, settings.augment, chances, "real")))
    return torch.stack(views, 1).numpy()
