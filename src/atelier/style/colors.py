"""Keeping the content's colours.

Gatys, Bethge, Hertzmann and Shechtman 2016, "Preserving color in neural artistic style transfer"
(https://arxiv.org/abs/1606.05897): paint lightness alone, or give the style the content's colours
before it is painted with.
"""

import torch
from torch import Tensor

from atelier.style.bounds import Bounds

# Of red, green and blue in lightness: Rec. 601, as the paper's YIQ has it.
_SHARES = (0.299, 0.587, 0.114)
_LEAST = 1e-5


def lightness(pictures: Tensor) -> Tensor:
    """Return grey pictures ``[B, 3, H, W]`` as light as ``pictures``, RGB, 0 to 1."""
    shares = pictures.new_tensor(_SHARES).view(1, 3, 1, 1)
    return (pictures * shares).sum(1, keepdim=True).expand_as(pictures).contiguous()


def as_light_as(style: Tensor, content: Tensor) -> Tensor:
    """Give grey ``style`` the mean and the spread of ``content``'s lightness."""
    spread = content.std() / style.std().clamp(min=_LEAST)
    return ((style - style.mean()) * spread + content.mean()).clamp(0, 1)


def room_for_lightness(contents: Tensor) -> Bounds:
    """How dark and how light each place may be and keep its hue and saturation on a screen."""
    hues = contents - lightness(contents)
    low, high = -hues.amin(1, keepdim=True), 1 - hues.amax(1, keepdim=True)
    return Bounds(low.expand_as(contents), high.expand_as(contents))


def in_colors_of(grey: Tensor, contents: Tensor) -> Tensor:
    """Return pictures as light as ``grey`` ``[B, 3, H, W]``, in the colours of ``contents``."""
    return (grey + contents - lightness(contents)).clamp(0, 1)


def with_colors_of(style: Tensor, content: Tensor) -> Tensor:
    """Give ``style`` the mean and the covariance of ``content``'s colours.

    The linear map of the paper's section 4 that has no rotation of its own: the square root of
    the content's covariance times the inverse square root of the style's.

    Args:
        style: float32 ``[1, 3, h, w]``, RGB, 0 to 1.
        content: float32 ``[1, 3, H, W]``, likewise.
    """
    theirs, ours = style.flatten(2)[0].double(), content.flatten(2)[0].double()
    change = _power(torch.cov(ours), 0.5) @ _power(torch.cov(theirs), -0.5)
    colors = change @ (theirs - theirs.mean(1, keepdim=True)) + ours.mean(1, keepdim=True)
    return colors.to(style.dtype).view_as(style[0])[None].clamp(0, 1)


def _power(covariance: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    power: Tensor = vectors @ torch.diag(values.clamp(min=_LEAST) ** exponent) @ vectors.mT
    return power
