"""Sliced Wasserstein distance between patches of two sets of images."""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.streams import numpy_stream

Floats = NDArray[np.float32]

_SMALLEST = 16
_PATCH = 7
_PATCHES_PER_IMAGE = 128
_REPETITIONS = 4
_DIRECTIONS = 128  # of each repetition
_MOST_IMAGES = 16_384  # as many as the paper compares; bounds the memory
_PROJECTED = 2**22  # numbers projected together; bounds the memory


def sliced_wasserstein(
    real: NDArray[np.uint8], generated: NDArray[np.uint8], seed: int
) -> dict[int, float]:
    """Return the distance of Karras et al. 2018 at each level of a Laplacian pyramid.

    "Progressive growing of GANs for improved quality, stability, and variation", section 5,
    as its published ``metrics/sliced_wasserstein.py`` computes it: 128 patches of 7x7 pixels of
    each image and level, each channel standardised over all patches of its set, projected on 4
    times 128 random directions and compared as sorted lists. Large levels measure layout, the
    finest texture. That code takes images of three channels; one channel gives the distances of
    the same image repeated in three.

    Args:
        real: uint8 [N, H, W, C], N at least 1, H and W at least 16, and even down to the coarsest
            level.
        generated: uint8 [N, H, W, C], as many as ``real``. Of more than 16,384 images of each
            set, the first are compared.
        seed: of the patches and the directions.

    Returns:
        The distance times 1,000 for each level's size in pixels, finest first. It is 0 for sets
        with the same patches, and small for other patches of the same images.
    """
    rng = numpy_stream(seed, "sliced_wasserstein")
    levels = zip(_pyramid(real[:_MOST_IMAGES]), _pyramid(generated[:_MOST_IMAGES]), strict=True)
    return {
        of_real.shape[2]: 1e3
        * _distance(_descriptors(of_real, rng), _descriptors(of_generated, rng), rng)
        for of_real, of_generated in levels
    }


def _pyramid(images: NDArray[np.uint8]) -> Iterator[Floats]:
    """Yield the levels of the Laplacian pyramids, float32 [N, H, W, C], finest first."""
    level = images.astype(np.float32)
    while level.shape[2] // 2 >= _SMALLEST:
        # OpenCV drops a single channel.
        coarse = np.stack([cv2.pyrDown(image) for image in level]).reshape(
            len(level), level.shape[1] // 2, level.shape[2] // 2, level.shape[3]
        )
        enlarged = np.stack([cv2.pyrUp(image) for image in coarse]).reshape(level.shape)
        yield level - enlarged
        level = coarse
    yield level


def _descriptors(level: Floats, rng: np.random.Generator) -> Floats:
    """Draw patches of a level [N, H, W, C] and standardise each channel: [N * 128, C * 49]."""
    count, height, width, channels = level.shape
    shape = (count * _PATCHES_PER_IMAGE,)
    left = rng.integers(width - _PATCH + 1, size=shape)
    top = rng.integers(height - _PATCH + 1, size=shape)
    image = np.repeat(np.arange(count), _PATCHES_PER_IMAGE)
    windows = np.lib.stride_tricks.sliding_window_view(level, (_PATCH, _PATCH), axis=(1, 2))
    patches = windows[image, top, left].reshape(len(image), channels, _PATCH * _PATCH)
    mean = patches.mean(axis=(0, 2), keepdims=True, dtype=np.float64)
    deviation = patches.std(axis=(0, 2), keepdims=True, dtype=np.float64)
    # A channel of one value everywhere stays 0, instead of becoming 0 / 0.
    standard = (patches - mean) / np.maximum(deviation, 1e-6)
    flat: Floats = standard.astype(np.float32).reshape(len(image), -1)
    return flat


def _distance(real: Floats, generated: Floats, rng: np.random.Generator) -> float:
    """Return the mean distance of sorted projections of descriptors, [N, D] each."""
    directions = rng.standard_normal((_REPETITIONS, real.shape[1], _DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Every repetition has as many directions, so that the mean of means is the mean of all.
    columns = np.concatenate(list(directions.astype(np.float32)), axis=1)
    together = max(1, _PROJECTED // len(real))
    total = 0.0
    for start in range(0, columns.shape[1], together):
        rows = columns[:, start : start + together].T
        apart = np.sort(rows @ real.T, axis=1) - np.sort(rows @ generated.T, axis=1)
        total += float(np.abs(apart).sum(dtype=np.float64))
    return total / float(columns.shape[1] * len(real))
