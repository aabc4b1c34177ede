"""Stored sums of pixels, with which tests detect a change of any constant of a drawing program.

Unlike a hash of all pixels, sums over blocks tolerate a pixel that another processor rounds
differently. A change of a color or a length by one percent exceeds the tolerance.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.floating]
_BLOCKS = 12  # per side
_TOLERANCE = 3


def block_sums(pixels: Pixels) -> NDArray[np.int64]:
    """Return the sums of each channel over 12 x 12 blocks, int64 [12, 12, C]."""
    height, width, channels = pixels.shape
    rows, columns = height // _BLOCKS, width // _BLOCKS
    blocks = pixels.reshape(_BLOCKS, rows, _BLOCKS, columns, channels)
    return np.rint(blocks.sum(axis=(1, 3), dtype=np.float64)).astype(np.int64)


def store(file: Path, images: Mapping[str, Pixels]) -> None:
    """Write the sums of images, after an intended change of the drawing."""
    sums = {name: block_sums(pixels).astype(np.int32) for name, pixels in images.items()}
    np.savez_compressed(file, **sums)


def differences(file: Path, images: Mapping[str, Pixels]) -> list[str]:
    """Return a sentence for each image whose sums differ from the stored ones."""
    with np.load(file, allow_pickle=False) as stored:
        assert sorted(stored.files) == sorted(images)
        sentences = []
        for name, pixels in images.items():
            difference = np.abs(block_sums(pixels) - stored[name])
            if difference.max() > _TOLERANCE:
                where = np.unravel_index(difference.argmax(), difference.shape)
                sentences.append(f"{name} differs by {difference.max()} in block {where[:2]}")
        return sentences
