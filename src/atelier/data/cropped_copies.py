"""Recognition of cropped and brightened copies of an image.

A crop shifts and enlarges an image. The estimate of :func:`alignment_errors` is linear, and cheap
enough for millions of pairs. :func:`is_cropped_copy` aligns the few images that remain with OpenCV
and compares the part that both have.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.data.image_difference import (
    SAME_WINDOW,
    THUMBNAIL_SIDE,
    Floats,
    Floats32,
    Pixels,
    are_similar,
    normalize,
)

_BLUR = 1.0  # standard deviation in pixels; the linear estimate holds for shifts of about this size
_BORDER = 2  # pixels of a thumbnail that a crop may have removed or shifted too far
_REGULARIZATION = np.float32(1e-7)  # makes the equations of flat images solvable
_MAX_SIDE = 64  # larger images are reduced before they are aligned, to limit the time
_ITERATIONS = 10
_MIN_INCREASE = 1e-3  # of the correlation, in an iteration
_FILTER_SIDE = 3  # of the Gaussian filter; a larger one fails for small images
_LEAST_GAIN = 1.002  # smaller differences of brightness are invisible
_MAX_GAIN = 1.5


@dataclass(frozen=True)
class CropLimits:
    """Limits of cropped copies, measured in docs/measurements/near-duplicates.md.

    Attributes:
        error: of :func:`alignment_errors`; only images within it are aligned.
        scaling: largest change of height or width; also the part that a shift may remove.
        shear: largest shear; also the sine of the largest rotation.
        difference: of the thumbnails of aligned images.
        window: of the windows of aligned images.
    """

    error: float
    scaling: float
    shear: float
    difference: float
    window: float


WHOLE_IMAGES = CropLimits(error=0.08, scaling=0.15, shear=0.03, difference=0.09, window=SAME_WINDOW)
FACES = CropLimits(error=0.12, scaling=0.25, shear=0.15, difference=0.15, window=0.8)
"""For centers of faces: the detector finds a face at other places in a copy of a photograph."""


def blurred_thumbnails(thumbnails: Floats) -> NDArray[np.float16]:
    """Return gray, blurred and normalized thumbnails, float16 [N, 16, 16].

    Args:
        thumbnails: float64 [N, 16, 16, C].
    """
    gray = normalize(thumbnails.mean(axis=3))
    blurred = [cv2.GaussianBlur(image, (0, 0), _BLUR) for image in gray]
    return np.asarray(blurred, np.float16)


def alignment_errors(first: NDArray[np.float16], second: NDArray[np.float16]) -> Floats32:
    """Estimate the differences of blurred thumbnails that no crop explains, float32 [N].

    This is the tangent distance of Simard et al. 1993, "Efficient Pattern Recognition Using a New
    Transformation Distance": the error of a least-squares fit of the difference by small shifts
    and scalings along both axes, brightness and contrast.

    Args:
        first: thumbnails, [N, 16, 16], see :func:`blurred_thumbnails`.
        second: thumbnails to compare them with.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    mean = (one + other) / 2
    along_y, along_x = np.gradient(mean, axis=1), np.gradient(mean, axis=2)
    x = np.linspace(-1, 1, THUMBNAIL_SIDE, dtype=np.float32)
    changes = (along_x, along_y, along_x * x, along_y * x[:, None], mean, np.ones_like(mean))
    inner = np.s_[:, _BORDER:-_BORDER, _BORDER:-_BORDER]
    columns = np.stack([change[inner] for change in changes], axis=-1)
    pixels = (THUMBNAIL_SIDE - 2 * _BORDER) ** 2
    columns = columns.reshape(len(one), pixels, len(changes))
    differences = (one - other)[inner].reshape(len(one), pixels, 1)
    transposed = columns.transpose(0, 2, 1)
    normal = transposed @ columns + _REGULARIZATION * np.eye(len(changes), dtype=np.float32)
    errors = differences - columns @ np.linalg.solve(normal, transposed @ differences)
    return np.asarray(np.linalg.norm(errors[:, :, 0], axis=1), np.float32)


def is_cropped_copy(one: Pixels, other: Pixels, limits: CropLimits = WHOLE_IMAGES) -> bool:
    """Return whether two images, [H, W, C], have a large part in common.

    The images are aligned by maximizing their correlation (Evangelidis and Psarakis 2008,
    "Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization"). Of images
    of different brightness, the darker one is brightened, because a bright image may be clipped.
    """
    parts = _common_parts(_reduced(one), _reduced(other), limits)
    if parts is None:
        return False
    return are_similar(*_equally_bright(*parts), limits.difference, limits.window)


def copy_transform(one: Pixels, other: Pixels) -> Floats32 | None:
    """Return the transform from the pixels of an image to those of its near-duplicate.

    Args:
        one: an image of at most 64x64 pixels, [H, H, C].
        other: an image of the same size.

    Returns:
        An affine transform, float32 [2, 3], or ``None`` if the images are no near-duplicates.
    """
    if not are_similar(one, other) and not is_cropped_copy(one, other):
        return None
    transform = _alignment(_reduced(one), _reduced(other), WHOLE_IMAGES)
    return np.eye(2, 3, dtype=np.float32) if transform is None else transform


def _reduced(image: Pixels) -> Floats32:
    """Return an image, reduced to at most 64×64, float32 [H, W, C]."""
    side = min(_MAX_SIDE, *image.shape[:2])
    pixels = cv2.resize(image.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(pixels, np.float32).reshape(side, side, -1)


def _common_parts(
    one: Floats32, other: Floats32, limits: CropLimits
) -> tuple[Floats32, Floats32] | None:
    """Return the part of one image that another has too, and that part of the other, aligned."""
    transform = _alignment(one, other, limits)
    if transform is None:
        return None
    side = len(one)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    aligned = cv2.warpAffine(
        other, transform, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    inverse = cv2.invertAffineTransform(transform)
    corners = np.array([[0, 0], [side - 1, side - 1]]) @ inverse[:, :2].T + inverse[:, 2]
    left, top = np.ceil(corners[0].clip(min=0) - 0.01).astype(int)
    right, bottom = np.floor(corners[1].clip(max=side - 1) + 1.01).astype(int)
    if min(right - left, bottom - top) < (1 - limits.scaling) * side:
        return None
    part = np.s_[top:bottom, left:right]
    return one[part], aligned.reshape(one.shape)[part].clip(0, 255)


def _alignment(one: Floats32, other: Floats32, limits: CropLimits) -> Floats32 | None:
    """Return the transform [2, 3] from one image's pixels to another's, if a crop explains it."""
    template, gray = (np.ascontiguousarray(image.mean(axis=2)) for image in (one, other))
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _ITERATIONS, _MIN_INCREASE)
    identity, mask = np.eye(2, 3, dtype=np.float32), np.ones(gray.shape, np.uint8)
    try:
        _, found = cv2.findTransformECC(
            template, gray, identity.copy(), cv2.MOTION_AFFINE, criteria, mask, _FILTER_SIDE
        )
    except cv2.error:  # the images are flat or do not correlate
        return None
    deviation = np.abs(found[:, :2] - identity[:, :2])
    if max(deviation[0, 0], deviation[1, 1]) > limits.scaling:
        return None
    if max(deviation[0, 1], deviation[1, 0]) > limits.shear:
        return None
    return np.asarray(found, np.float32)


def _equally_bright(one: Floats32, other: Floats32) -> tuple[Floats32, Floats32]:
    """Brighten the darker one of two images to the mean of the other, clipping at white."""
    if one.mean() > other.mean():
        return one, _equally_bright(other, one)[0]
    brightened = one
    for _ in range(10):  # each iteration corrects for the pixels clipped so far
        gain = float(other.mean() / max(brightened.mean(), 1))
        if gain < _LEAST_GAIN:
            break
        brightened = (brightened * gain).clip(max=255)
    if brightened.mean() > _MAX_GAIN * max(float(one.mean()), 1):
        return one, other
    return brightened, other
