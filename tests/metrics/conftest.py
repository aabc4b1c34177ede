"""Drawn pictures of four kinds, for the tests of numbers."""

import numpy as np
import pytest
from numpy.typing import NDArray

SHAPES = 4


@pytest.fixture(scope="session")
def shapes() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Discs, squares, rings and crosses light on dark, of varied size and place: 1,200 of 32x32.

    Pictures uint8 [1200, 32, 32, 3], and which of the four each is, int64 [1200].
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    kinds = rng.integers(0, SHAPES, 1200)
    pictures = []
    for kind in kinds:
        (a, b), radius = rng.uniform(11, 21, 2), rng.uniform(5, 10)
        down, right = np.abs(y - a), np.abs(x - b)
        away = (
            np.hypot(down, right),
            np.maximum(down, right),
            4 * np.abs(np.hypot(down, right) - radius) + radius - 8,
            3 * np.minimum(down, right) + np.maximum(0, np.maximum(down, right) - radius),
        )[kind]
        ink = 1 / (1 + np.exp(away - (radius, radius, radius, 5)[kind]))
        colour, ground = rng.uniform(160, 255, 3), rng.uniform(0, 60, 3)
        pictures.append(ink[..., None] * colour + (1 - ink[..., None]) * ground)
    return np.stack(pictures).astype(np.uint8), kinds
