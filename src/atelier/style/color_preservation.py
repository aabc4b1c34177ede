"""Preservation of the content's colors: by luminance, or by matching color statistics."""

import torch
from torch import Tensor

from atelier.core.arrays import per_channel
from atelier.style.bounds import Bounds

# Red, green and blue in luminance: Rec. 601, as in the YIQ of Gatys et al. 2017.
_LUMINANCE_WEIGHTS = (0.299, 0.587, 0.114)
_MIN_VARIANCE = 1e-5


def luminance(images: Tensor) -> Tensor:
    """Return the luminance of RGB images ``[B, 3, H, W]``, 0 to 1, in three equal channels."""
    weighted = images * per_channel(_LUMINANCE_WEIGHTS, images)
    return weighted.sum(1, keepdim=True).expand_as(images).contiguous()


def match_luminance(style: Tensor, content: Tensor) -> Tensor:
    """Give a grayscale style the mean and the standard deviation of a grayscale content."""
    ratio = content.std() / style.std().clamp(min=_MIN_VARIANCE)
    return ((style - style.mean()) * ratio + content.mean()).clamp(0, 1)


def luminance_bounds(contents: Tensor) -> Bounds:
    """Return the luminance range in which each pixel of ``contents`` keeps its color in gamut."""
    color = contents - luminance(contents)
    low, high = -color.amin(1, keepdim=True), 1 - color.amax(1, keepdim=True)
    return Bounds(low.expand_as(contents), high.expand_as(contents))


def recombine_luminance(gray: Tensor, contents: Tensor) -> Tensor:
    """Combine the luminance of ``gray`` with the colors of ``contents``, ``[B, 3, H, W]`` each."""
    return (gray + contents - luminance(contents)).clamp(0, 1)


def match_color_statistics(style: Tensor, content: Tensor) -> Tensor:
    """Give ``style`` the mean and the covariance of ``content``'s colors.

    Gatys et al. 2017, "Controlling perceptual factors in neural style transfer", section 4. Of
    the possible linear maps, it is the product of the square root of the content's covariance and
    the inverse square root of the style's.

    Args:
        style: float32 ``[1, 3, h, w]``, RGB, 0 to 1.
        content: float32 ``[1, 3, H, W]``, likewise.
    """
    source, target = style.flatten(2)[0].double(), content.flatten(2)[0].double()
    matrix = _matrix_power(torch.cov(target), 0.5) @ _matrix_power(torch.cov(source), -0.5)
    colors = matrix @ (source - source.mean(1, keepdim=True)) + target.mean(1, keepdim=True)
    return colors.to(style.dtype).view_as(style[0])[None].clamp(0, 1)


def _matrix_power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    power: Tensor = vectors @ torch.diag(values.clamp(min=_MIN_VARIANCE) ** exponent) @ vectors.mT
    return power
