"""Sliced Wasserstein distance between patches of two sets of images."""

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
_MOST_IMAGES = 16_384  # as many as the paper compares; bounds the memory to 75 KB each per set
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
    distances = {}
    for depth, size in enumerate(_sizes(real.shape[2])):
        # Without names for them, the descriptors of a level are freed before the next level's.
        distances[size] = 1e3 * _distance(
            _descriptors(real[:_MOST_IMAGES], depth, rng),
            _descriptors(generated[:_MOST_IMAGES], depth, rng),
            rng,
        )
    return distances


def _sizes(width: int) -> list[int]:
    """Return the widths of a pyramid's levels, finest first."""
    return [width, *_sizes(width // 2)] if width // 2 >= _SMALLEST else [width]


def _level(image: NDArray[np.uint8], depth: int) -> Floats:
    """Return a level of the Laplacian pyramid of an image [H, W, C], float32; 0 is the finest."""
    level: Floats = image.astype(np.float32)
    for _ in range(depth):
        level = _half(level)
    if level.shape[1] // 2 < _SMALLEST:
        return level
    return level - np.asarray(cv2.pyrUp(_half(level)), np.float32).reshape(level.shape)


def _half(level: Floats) -> Floats:
    height, width, channels = level.shape
    # OpenCV drops a single channel.
    return np.asarray(cv2.pyrDown(level), np.float32).reshape(height // 2, width // 2, channels)


def _descriptors(images: NDArray[np.uint8], depth: int, rng: np.random.Generator) -> Floats:
    """Draw patches of a level of images [N, H, W, C]: standardised, float32 [N * 128, C * 49].

    One image is processed at a time, so that only the result is as large as the set. The sums are
    float64, image by image, because float32 sums over all patches would be inexact.
    """
    count, channels = len(images), images.shape[3]
    height, width, _ = _level(images[0], depth).shape
    shape = (count, _PATCHES_PER_IMAGE)
    left = rng.integers(width - _PATCH + 1, size=shape)
    top = rng.integers(height - _PATCH + 1, size=shape)
    patches = np.empty((count, _PATCHES_PER_IMAGE, channels, _PATCH * _PATCH), np.float32)
    for i, image in enumerate(images):
        level = _level(image, depth)
        windows = np.lib.stride_tricks.sliding_window_view(level, (_PATCH, _PATCH), axis=(0, 1))
        patches[i] = windows[top[i], left[i]].reshape(patches.shape[1:])
    values = count * _PATCHES_PER_IMAGE * _PATCH * _PATCH  # of a channel
    sums = [of_image.sum(axis=(0, 2), dtype=np.float64) for of_image in patches]
    patches -= (np.sum(sums, axis=0) / values).astype(np.float32)[:, None]
    squares = [np.square(of_image, dtype=np.float64).sum(axis=(0, 2)) for of_image in patches]
    deviation = np.sqrt(np.sum(squares, axis=0) / values)
    # A channel of one value everywhere stays 0, instead of becoming 0 / 0.
    patches /= np.maximum(deviation, 1e-6).astype(np.float32)[:, None]
    return patches.reshape(count * _PATCHES_PER_IMAGE, -1)


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
