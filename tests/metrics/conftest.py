"""Drawn images of four kinds."""

import numpy as np
import pytest
from numpy.typing import NDArray

SHAPES = 4


@pytest.fixture(scope="session")
def shapes() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return 1,200 light discs, squares, rings and crosses on dark backgrounds, and their kinds.

    Sizes and positions vary. The images are uint8 [1200, 32, 32, 3]; the kinds are int64 [1200].
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    kinds = rng.integers(0, SHAPES, 1200)
    images = []
    for kind in kinds:
        (a, b), radius = rng.uniform(11, 21, 2), rng.uniform(5, 10)
        vertical, horizontal = np.abs(y - a), np.abs(x - b)
        distance = (
            np.hypot(vertical, horizontal),
            np.maximum(vertical, horizontal),
            4 * np.abs(np.hypot(vertical, horizontal) - radius) + radius - 8,
            3 * np.minimum(vertical, horizontal)
            + np.maximum(0, np.maximum(vertical, horizontal) - radius),
        )[kind]
        alpha = 1 / (1 + np.exp(distance - (radius, radius, radius, 5)[kind]))
        foreground, background = rng.uniform(160, 255, 3), rng.uniform(0, 60, 3)
        images.append(alpha[..., None] * foreground + (1 - alpha[..., None]) * background)
    return np.stack(images).astype(np.uint8), kinds
