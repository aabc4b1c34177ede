"""The way of a painting: from coarse to fine, and how firmly it holds its content on the way."""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from atelier.core.settings import StylizeSettings

# Below so many pixels a picture shows nothing that would be worth painting.
_MIN_SIDE = 32


class Level(NamedTuple):
    """A part of the way.

    Attributes:
        height: of the canvas.
        width: of the canvas.
        content_boost: how many times its weight the content has, so that it is not lost in the first,
            far steps and found again in many short ones.
        end_iteration: evaluations after which the leg ends.
    """

    height: int
    width: int
    content_boost: float
    end_iteration: int


def levels(settings: StylizeSettings, height: int, width: int) -> list[Level]:
    """Return the way to a painting of this size.

    Each scale is the square root of 2 larger than the one before, and all get equally many
    evaluations, so that each costs as much as all before it together. Scales of fewer than 32
    pixels are left out.
    """
    sizes = _sizes(settings.pyramid_levels, height, width)
    ends = [settings.iterations * number // len(sizes) for number in range(1, len(sizes) + 1)]
    way: list[Level] = []
    if settings.optimizer == "spectral_lbfgs" and _loses_content(settings):
        first = [Level(*sizes[0], 10.0, ends[0] // 20), Level(*sizes[0], 3.0, 3 * ends[0] // 20)]
        way += [leg for leg in first if leg.end_iteration]
    return way + [Level(*size, 1.0, end) for size, end in zip(sizes, ends, strict=True)]


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """Scale pictures ``[B, C, H, W]`` with a bicubic filter that is as wide as it must be."""
    if picture.shape[2:] == (height, width):
        return picture
    size = (height, width)
    return F.interpolate(picture, size, mode="bicubic", antialias=True, align_corners=False)


def downscale(picture: Tensor, factor: float, least: int) -> Tensor:
    """Scale pictures with values from 0 to 1 by a factor of at most 1; no side gets below least."""
    height, width = (min(side, max(least, round(side * factor))) for side in picture.shape[2:])
    return picture if factor == 1 else resize(picture, height, width).clamp(0, 1)


def _sizes(scales: int, height: int, width: int) -> list[tuple[int, int]]:
    """From small to large, without those that are too small."""
    factors = [math.sqrt(2) ** -step for step in range(scales - 1, -1, -1)]
    sizes = [(round(height * factor), round(width * factor)) for factor in factors]
    return [size for size in sizes[:-1] if min(size) >= _MIN_SIDE] + sizes[-1:]


def _loses_content(settings: StylizeSettings) -> bool:
    # Random features show no content that could be lost: measured, it only costs them time.
    return settings.init == "content" and settings.weights != "random"
