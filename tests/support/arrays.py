"""Random and uniform images, and random tensors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def random_images(count: int, size: int, channels: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 ``[count, size, size, channels]``."""
    shape = (count, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def random_image(seed: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """Return uint8 ``[height, width, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def uniform_image(height: int, width: int, color: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """Return uint8 ``[height, width, 3]`` of one gray level or color."""
    return np.full((height, width, 3), color, np.uint8)


def normal_tensor(seed: int, *shape: int) -> Tensor:
    """Return standard normal values, float32 of this shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
