"""Distances between sets of images: KID, FID and sliced Wasserstein; diversity of a set."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.random_streams import numpy_generator

Floats = NDArray[np.float32]

MIN_IMAGES_FOR_KID = 3  # of each set; the standard error needs as many
RELIABLE_KID_IMAGES = 200  # real images; with fewer, the standard error is large
_KERNEL_ROWS = 1024  # of a block of the kernel matrix; bounds the memory

# Sliced Wasserstein distance.
_SWD_MIN_SIDE = 16
_PATCH = 7
_PATCHES_PER_IMAGE = 128
_REPETITIONS = 4
_DIRECTIONS = 128  # of each repetition
_MAX_IMAGES = 16_384  # as in the paper; bounds the memory, which is 75 KB per image and set
_PROJECTED = 2**22  # numbers projected at a time; bounds the memory

# MS-SSIM.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of Wang et al. 2003, finest scale first
_WINDOW, _DEVIATION = 11, 1.5  # size and standard deviation of the Gaussian window, in pixels
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_PIXELS_AT_ONCE = 2**20  # of pairs compared at a time; bounds the memory


@dataclass(frozen=True)
class Kid:
    """Kernel inception distance and its standard error."""

    value: float
    error: float


def compute_kid(real: Tensor, generated: Tensor) -> Kid:
    """Compute the kernel inception distance (KID): the unbiased MMD with a cubic kernel.

    Binkowski et al. 2018, "Demystifying MMD GANs". The estimate uses all pairs instead of random
    subsets as in the paper. The expectation is the same, the variance is minimal, and the result
    is deterministic. For equal distributions the expectation is 0, and values can be negative.

    The standard error is that of the jackknife over the images of both sets (Efron and Stein
    1981, "The jackknife estimate of variance"). The standard error of the mean over random
    subsets would be several times too small, because subsets share images. For similar sets the
    jackknife's is up to twice too large.

    Args:
        real: float features [N, D], N at least :data:`MIN_IMAGES_FOR_KID`.
        generated: float features [M, D], M likewise.
    """
    real, generated = real.double(), generated.double()
    n, m = len(real), len(generated)
    within_real = _sums(real, real) - _kernel_diagonal(real)
    within_generated = _sums(generated, generated) - _kernel_diagonal(generated)
    across_real, across_generated = _sums(real, generated), _sums(generated, real)
    a, b, c = float(within_real.sum()), float(within_generated.sum()), float(across_real.sum())
    value = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * c / (n * m)
    # The distance without each real image, and without each generated one.
    without_real = (
        (a - 2 * within_real) / ((n - 1) * (n - 2))
        + b / (m * (m - 1))
        - 2 * (c - across_real) / ((n - 1) * m)
    )
    without_generated = (
        a / (n * (n - 1))
        + (b - 2 * within_generated) / ((m - 1) * (m - 2))
        - 2 * (c - across_generated) / (n * (m - 1))
    )
    variance = _jackknife(without_real) + _jackknife(without_generated)
    return Kid(value, math.sqrt(variance))


def _kernel(products: Tensor, size: int) -> Tensor:
    return (products / size + 1) ** 3


def _sums(features: Tensor, others: Tensor) -> Tensor:
    """Return the row sums [N] of the kernel matrix of features [N, D] and others [M, D]."""
    size = features.shape[1]
    return torch.cat(
        [_kernel(part @ others.T, size).sum(dim=1) for part in features.split(_KERNEL_ROWS)]
    )


def _kernel_diagonal(features: Tensor) -> Tensor:
    return _kernel(features.square().sum(dim=1), features.shape[1])


def _jackknife(without: Tensor) -> float:
    """Return the jackknife variance, from the estimates without each image."""
    return (len(without) - 1) * float(without.var(correction=0))


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Compute the Fréchet distance (FID) of Gaussians fitted to two sets of features.

    Heusel et al. 2017, "GANs trained by a two time-scale update rule ...", equation 6: the squared
    distance of the means plus tr(S + T - 2 (S T)^1/2) for the covariances S and T. It is biased:
    fewer images give larger values, so that only values for equal numbers are comparable.

    The trace of the root is the sum of the singular values of A B', with S = A' A and T = B' B.
    The root of a product is avoided, because rounding can make it complex if there are fewer
    images than features.

    Args:
        real: float features [N, D], N at least 2.
        generated: float features [M, D], M at least 2.
    """
    real, generated = real.double(), generated.double()
    a, b = _covariance_factor(real), _covariance_factor(generated)
    mean_distance = (real.mean(dim=0) - generated.mean(dim=0)).square().sum()
    trace = torch.linalg.svdvals(a @ b.T).sum()
    return float(mean_distance + a.square().sum() + b.square().sum() - 2 * trace)


def _covariance_factor(features: Tensor) -> Tensor:
    """Return a matrix A of at most D rows, such that A' A is the covariance of features [N, D]."""
    centered: Tensor = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    if len(centered) <= centered.shape[1]:
        return centered
    triangle: Tensor = torch.linalg.qr(centered, mode="r").R
    return triangle


def sliced_wasserstein(
    real: NDArray[np.uint8], generated: NDArray[np.uint8], seed: int
) -> dict[int, float]:
    """Return the distance of Karras et al. 2018 at each level of a Laplacian pyramid.

    "Progressive growing of GANs for improved quality, stability, and variation", section 5,
    as its published ``metrics/sliced_wasserstein.py`` computes it: 128 patches of 7x7 pixels of
    each image and level, each channel standardized over all patches of its set, projected on 4
    times 128 random directions and sorted before comparison. Coarse levels measure layout, the
    finest measures texture. That code requires three channels; one channel gives the distances
    of the same image repeated in three.

    Args:
        real: uint8 [N, H, W, C], N at least 1, H and W at least 16, and even down to the coarsest
            level.
        generated: uint8 [N, H, W, C], as many as ``real``. Only the first 16,384 images of each
            set are compared.
        seed: of the patches and the directions.

    Returns:
        The distance times 1,000 by the level's size in pixels, finest first. It is 0 for equal
        patches, and small for different patches of the same images.
    """
    rng = numpy_generator(seed, "sliced_wasserstein")
    distances = {}
    for depth, size in enumerate(_sizes(real.shape[2])):
        # Descriptors have no names here, so that they are freed before the next level.
        distances[size] = 1e3 * _sliced_distance(
            _descriptors(real[:_MAX_IMAGES], depth, rng),
            _descriptors(generated[:_MAX_IMAGES], depth, rng),
            rng,
        )
    return distances


def _sizes(width: int) -> list[int]:
    """Return the widths of a pyramid's levels, finest first."""
    return [width, *_sizes(width // 2)] if width // 2 >= _SWD_MIN_SIDE else [width]


def _pyramid_level(image: NDArray[np.uint8], depth: int) -> Floats:
    """Return a level of the Laplacian pyramid of an image [H, W, C], float32; 0 is the finest."""
    level: Floats = image.astype(np.float32)
    for _ in range(depth):
        level = _downsample(level)
    if level.shape[1] // 2 < _SWD_MIN_SIDE:
        return level
    return level - np.asarray(cv2.pyrUp(_downsample(level)), np.float32).reshape(level.shape)


def _downsample(level: Floats) -> Floats:
    height, width, channels = level.shape
    # OpenCV drops the axis of a single channel.
    return np.asarray(cv2.pyrDown(level), np.float32).reshape(height // 2, width // 2, channels)


def _descriptors(images: NDArray[np.uint8], depth: int, rng: np.random.Generator) -> Floats:
    """Draw standardized patches of a pyramid level, float32 [N * 128, C * 49].

    Images [N, H, W, C] are processed one at a time, which bounds the memory. The sums are float64
    for each image, because float32 sums over all patches would be inexact.
    """
    count, channels = len(images), images.shape[3]
    height, width, _ = _pyramid_level(images[0], depth).shape
    shape = (count, _PATCHES_PER_IMAGE)
    left = rng.integers(width - _PATCH + 1, size=shape)
    top = rng.integers(height - _PATCH + 1, size=shape)
    patches = np.empty((count, _PATCHES_PER_IMAGE, channels, _PATCH * _PATCH), np.float32)
    for i, image in enumerate(images):
        level = _pyramid_level(image, depth)
        windows = np.lib.stride_tricks.sliding_window_view(level, (_PATCH, _PATCH), axis=(0, 1))
        patches[i] = windows[top[i], left[i]].reshape(patches.shape[1:])
    values = count * _PATCHES_PER_IMAGE * _PATCH * _PATCH  # of a channel
    sums = [of_image.sum(axis=(0, 2), dtype=np.float64) for of_image in patches]
    patches -= (np.sum(sums, axis=0) / values).astype(np.float32)[:, None]
    squares = [np.square(of_image, dtype=np.float64).sum(axis=(0, 2)) for of_image in patches]
    deviation = np.sqrt(np.sum(squares, axis=0) / values)
    # The lower bound avoids 0 / 0 for constant channels.
    patches /= np.maximum(deviation, 1e-6).astype(np.float32)[:, None]
    return patches.reshape(count * _PATCHES_PER_IMAGE, -1)


def _sliced_distance(real: Floats, generated: Floats, rng: np.random.Generator) -> float:
    """Return the mean distance of sorted projections of descriptors, [N, D] each."""
    directions = rng.standard_normal((_REPETITIONS, real.shape[1], _DIRECTIONS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # All repetitions have the same number of directions: the mean of means is the mean of all.
    columns = np.concatenate(list(directions.astype(np.float32)), axis=1)
    batch_size = max(1, _PROJECTED // len(real))
    total = 0.0
    for start in range(0, columns.shape[1], batch_size):
        rows = columns[:, start : start + batch_size].T
        difference = np.sort(rows @ real.T, axis=1) - np.sort(rows @ generated.T, axis=1)
        total += float(np.abs(difference).sum(dtype=np.float64))
    return total / float(columns.shape[1] * len(real))


def diversity(images: NDArray[np.uint8], seed: int) -> float:
    """Return 1 minus the mean MS-SSIM of random pairs; 0 if all images are the same.

    Odena et al. 2017, "Conditional image synthesis with auxiliary classifier GANs", section 4.2,
    use it to measure the diversity of a generator within a class. Here pairs are drawn from the
    whole set, as in Karras et al. 2018, with each image in one pair. See :func:`ms_ssim`.

    Args:
        images: uint8 [N, H, W, C], N at least 2.
        seed: of the pairs.
    """
    order = numpy_generator(seed, "diversity").permutation(len(images))
    half = len(images) // 2
    return 1 - float(ms_ssim(images[order[:half]], images[order[half : 2 * half]]).mean())


def ms_ssim(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> Tensor:
    """Return the multi-scale structural similarity of each pair of images.

    Wang, Simoncelli and Bovik 2003, "Multi-scale structural similarity for image quality
    assessment", as computed by TensorFlow's published ``msssim.py``, which Karras et al. 2018 use
    as well. There are five scales at every image size. The Gaussian window of 11 pixels shrinks
    to the size of smaller images. The result is the mean over channels, with negative similarities
    set to 0. Wang's own code requires at least 176 pixels.

    Args:
        images: uint8 [N, H, W, C].
        others: uint8 [N, H, W, C].

    Returns:
        float64 [N], 1 for equal images.
    """
    batch_size = max(1, _PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    parts = [
        _multi_scale(
            _to_double(images[start : start + batch_size]), _to_double(others[start:][:batch_size])
        )
        for start in range(0, len(images), batch_size)
    ]
    return torch.cat(parts)


def _to_double(images: NDArray[np.uint8]) -> Tensor:
    """Convert uint8 [N, H, W, C] to float64 [N, C, H, W], 0 to 255."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).double()


def _multi_scale(one: Tensor, other: Tensor) -> Tensor:
    result = torch.ones(len(one), dtype=torch.float64)
    for scale, weight in enumerate(_WEIGHTS):
        luminance, structure = _ssim_terms(one, other)
        is_last = scale == len(_WEIGHTS) - 1
        term = luminance * structure if is_last else structure
        result *= term.mean(dim=(1, 2, 3)).clamp_min(0) ** weight
        one, other = _halve(one), _halve(other)
    return result


def _ssim_terms(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance term, and the product of contrast and structure terms, per pixel."""
    mean, other_mean = _blur(one), _blur(other)
    squares, product = mean.square() + other_mean.square(), mean * other_mean
    variances = _blur(one.square() + other.square()) - squares
    covariance = _blur(one * other) - product
    luminance = (2 * product + _C1) / (squares + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _blur(images: Tensor) -> Tensor:
    """Blur [N, C, H, W] with the Gaussian window, without padding."""
    size = min(_WINDOW, *images.shape[2:])
    offsets = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-offsets.square() / (2 * (size * _DEVIATION / _WINDOW) ** 2))
    kernel /= kernel.sum()
    count, channels, height, width = images.shape
    maps = images.reshape(count * channels, 1, height, width)
    maps = F.conv2d(F.conv2d(maps, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return maps.reshape(count, channels, *maps.shape[2:])


def _halve(images: Tensor) -> Tensor:
    """Average blocks of 2x2 pixels; an odd last row or column is repeated."""
    height, width = images.shape[2:]
    return F.avg_pool2d(F.pad(images, (0, width % 2, 0, height % 2), mode="replicate"), 2)
