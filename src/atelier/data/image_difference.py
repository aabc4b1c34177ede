"""Differences of two images that ignore brightness and contrast.

Borders, frames or pad bars that many images share can make their thumbnails nearly equal. Therefore
images that agree must also agree in every small window.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE = 16  # height and width in pixels
_MIN_CONTRAST = 1.0  # standard deviation below which an image counts as flat
# Limits of near-duplicates, measured on five datasets: docs/measurements/near-duplicates.md.
SAME = 0.12  # of the difference of thumbnails
SAME_WINDOW = 0.5  # of the difference of the windows that differ most
_MAX_WINDOWS_SIDE = 64  # larger images are reduced before windows are compared, to limit the time
_NOISE = 25.0  # variance in a window that compression may cause

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Pixels = NDArray[np.uint8] | Floats32
"""An image, [H, W, C], with values from 0 to 255."""


def image_difference(one: Pixels, other: Pixels) -> float:
    """Return the Euclidean distance of two thumbnails of equal brightness and contrast."""
    first, second = (normalize(thumbnail(image)[None]) for image in (one, other))
    return float(np.linalg.norm(first - second))


def window_difference(one: Pixels, other: Pixels) -> float:
    """Return the largest difference of two images in any window, from 0 to 2.

    The side of a window is an eighth of the image's side. The difference is 1 minus the structural
    term of SSIM: 0 if both images vary equally around their means, 1 if they are uncorrelated or
    only one of them varies.
    """
    first, second = _details(one), _details(other)
    scales = [max(float(image.std()), _MIN_CONTRAST) for image in (first, second)]
    # Scale both images to the geometric mean of their contrasts.
    first = first * np.float32(np.sqrt(scales[1] / scales[0]))
    second = second * np.float32(np.sqrt(scales[0] / scales[1]))
    side = max(len(first) // 8, 4)

    def means(image: Floats32) -> Floats32:
        return np.asarray(cv2.blur(image, (side, side)), np.float32).reshape(image.shape)

    means_first, means_second = means(first), means(second)
    products = means(_dot(first, second)) - _dot(means_first, means_second)
    squares = means(_dot(first, first) + _dot(second, second))
    squares -= _dot(means_first, means_first) + _dot(means_second, means_second)
    noise = _NOISE * first.shape[2]
    return float(1 - ((2 * products + noise) / (squares + noise)).min())


def _dot(one: Floats32, other: Floats32) -> Floats32:
    return np.asarray(np.einsum("ijk,ijk->ij", one, other), np.float32)


def _details(image: Pixels) -> Floats32:
    """Return an image, reduced to at most 64×64, blurred and centered, float32 [H, W, C]."""
    side = min(_MAX_WINDOWS_SIDE, *image.shape[:2])
    pixels = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(pixels, (3, 3), 0).reshape(side, side, -1)
    return np.asarray(blurred - blurred.mean(), np.float32)


def are_similar(
    one: Pixels,
    other: Pixels,
    limit: float = SAME,
    window_limit: float = SAME_WINDOW,
) -> bool:
    """Return whether both differences of two images are within their limits."""
    return image_difference(one, other) <= limit and window_difference(one, other) <= window_limit


def normalize(thumbnails: Floats) -> Floats:
    """Subtract each thumbnail's mean and divide the result by its norm."""
    axes = tuple(range(1, thumbnails.ndim))
    centered = thumbnails - thumbnails.mean(axes, keepdims=True)
    contrasts = np.maximum(centered.std(axes, keepdims=True), _MIN_CONTRAST)
    return np.asarray(centered / (contrasts * np.sqrt(centered[0].size)), np.float64)


def thumbnail(image: Pixels) -> Floats:
    """Return the thumbnail of an image, float64 [THUMBNAIL_SIDE, THUMBNAIL_SIDE, C].

    It is computed in floats, because the rounding of integers depends on the processor.
    """
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    small = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float64).reshape(*size, -1)
