"""Image pyramid: the sizes of a coarse-to-fine style transfer, and resizing between them."""

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from atelier.core.settings import StylizeSettings

# Smaller pyramid levels are skipped: too little of the content is left.
_MIN_SIZE = 32


class Level(NamedTuple):
    """Stage of the optimization with a constant image size and content weight.

    Attributes:
        height: of the optimized image.
        width: of the optimized image.
        content_boost: factor on the content weights. Factors above 1 keep the content in the
            first, long steps; otherwise many short steps are needed to recover it.
        end_iteration: number of evaluations after which the level ends, counted from the start.
    """

    height: int
    width: int
    content_boost: float
    end_iteration: int


def levels(settings: StylizeSettings, height: int, width: int) -> list[Level]:
    """Return the levels of a style transfer, from the coarsest to the given size.

    Each size is larger than the previous one by the square root of 2, and all get the same number
    of evaluations. Each size therefore costs about as much as all smaller ones together. Sizes
    with a side under 32 pixels are skipped.
    """
    sizes = _sizes(settings.pyramid_levels, height, width)
    ends = [settings.iterations * number // len(sizes) for number in range(1, len(sizes) + 1)]
    boosted: list[Level] = []
    if settings.optimizer == "spectral_lbfgs" and _loses_content(settings):
        boosted = [Level(*sizes[0], 10.0, ends[0] // 20), Level(*sizes[0], 3.0, 3 * ends[0] // 20)]
        boosted = [level for level in boosted if level.end_iteration]
    return boosted + [Level(*size, 1.0, end) for size, end in zip(sizes, ends, strict=True)]


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize ``[B, C, H, W]`` with an antialiased bicubic filter; values may overshoot."""
    if images.shape[2:] == (height, width):
        return images
    size = (height, width)
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def downscale(images: Tensor, factor: float, min_size: int) -> Tensor:
    """Scale images with values from 0 to 1 by a factor of at most 1.

    No side becomes shorter than ``min_size``, unless it is shorter already.
    """
    height, width = (min(side, max(min_size, round(side * factor))) for side in images.shape[2:])
    return images if factor == 1 else resize(images, height, width).clamp(0, 1)


def _sizes(count: int, height: int, width: int) -> list[tuple[int, int]]:
    """Return up to ``count`` sizes, from the smallest to the given size."""
    factors = [math.sqrt(2) ** -step for step in range(count - 1, -1, -1)]
    sizes = [(round(height * factor), round(width * factor)) for factor in factors]
    return [size for size in sizes[:-1] if min(size) >= _MIN_SIZE] + sizes[-1:]


def _loses_content(settings: StylizeSettings) -> bool:
    """Return true if the first steps can destroy the content.

    With random features, measurements showed that boosted levels only cost time.
    """
    return settings.init == "content" and settings.weights != "random"
