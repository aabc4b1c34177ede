"""Images for tests, as arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

# Transposition of an upright image that is stored with each EXIF orientation.
_TRANSPOSITIONS: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def stored_pixels(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a file with this EXIF orientation stores, [H, W, C]."""
    return np.ascontiguousarray(_TRANSPOSITIONS[orientation](upright))
