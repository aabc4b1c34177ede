"""Structural difference between the images of one set."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from atelier.streams import numpy_stream

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang et al. 2003, finest scale first
_WINDOW, _DEVIATION = 11, 1.5  # of the Gaussian window, in pixels
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_PIXELS = 2**20  # of pairs compared together; bounds the memory


def diversity(images: NDArray[np.uint8], seed: int) -> float:
    """Return 1 minus the mean MS-SSIM of random pairs; 0 if all images are the same.

    Odena et al. 2017, "Conditional image synthesis with auxiliary classifier GANs", section 4.2,
    measure the variety of a generator so, within a class; here as by Karras et al. 2018 the pairs
    are drawn from the whole set, each image once. See :func:`ms_ssim`.

    Args:
        images: uint8 [N, H, W, C], N at least 2.
        seed: of the pairs.
    """
    order = numpy_stream(seed, "diversity").permutation(len(images))
    half = len(images) // 2
    return 1 - float(ms_ssim(images[order[:half]], images[order[half : 2 * half]]).mean())


def ms_ssim(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> Tensor:
    """Return the multi-scale structural similarity of each pair of images.

    Wang, Simoncelli and Bovik 2003, "Multi-scale structural similarity for image quality
    assessment", by TensorFlow's published ``msssim.py``, which Karras et al. 2018 use as well:
    five scales at every size, a Gaussian window of 11 pixels that becomes as small as the image
    where this has fewer, the mean over the channels, and negative similarities counted as 0.
    Wang's own code takes no image below 176 pixels.

    Args:
        images: uint8 [N, H, W, C].
        others: uint8 [N, H, W, C].

    Returns:
        float64 [N], 1 if both are the same.
    """
    together = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
    parts = [
        _similarity(
            _as_double(images[start : start + together]), _as_double(others[start:][:together])
        )
        for start in range(0, len(images), together)
    ]
    return torch.cat(parts)


def _as_double(images: NDArray[np.uint8]) -> Tensor:
    """Turn uint8 [N, H, W, C] into float64 [N, C, H, W], 0 to 255."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).double()


def _similarity(one: Tensor, other: Tensor) -> Tensor:
    result = torch.ones(len(one), dtype=torch.float64)
    for scale, weight in enumerate(_WEIGHTS):
        luminance, structure = _terms(one, other)
        is_last = scale == len(_WEIGHTS) - 1
        term = luminance * structure if is_last else structure
        result *= term.mean(dim=(1, 2, 3)).clamp_min(0) ** weight
        one, other = _halved(one), _halved(other)
    return result


def _terms(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance term, and the product of those of contrast and structure, per pixel."""
    mean, of_other = _blurred(one), _blurred(other)
    squares, product = mean.square() + of_other.square(), mean * of_other
    variances = _blurred(one.square() + other.square()) - squares
    covariance = _blurred(one * other) - product
    luminance = (2 * product + _C1) / (squares + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _blurred(images: Tensor) -> Tensor:
    """Blur [N, C, H, W] with the window, only where it fits into the image."""
    size = min(_WINDOW, *images.shape[2:])
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    line = torch.exp(-places.square() / (2 * (size * _DEVIATION / _WINDOW) ** 2))
    line /= line.sum()
    count, channels, height, width = images.shape
    maps = images.reshape(count * channels, 1, height, width)
    maps = F.conv2d(F.conv2d(maps, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    return maps.reshape(count, channels, *maps.shape[2:])


def _halved(images: Tensor) -> Tensor:
    """Average squares of 2x2 pixels; an odd last row or column counts twice."""
    height, width = images.shape[2:]
    return F.avg_pool2d(F.pad(images, (0, width % 2, 0, height % 2), mode="replicate"), 2)
