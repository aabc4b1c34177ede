"""What a painting is measured by.

Gatys, Ecker and Bethge 2015, "A neural algorithm of artistic style"
(https://arxiv.org/abs/1508.06576), with the normalisation of Gatys' own PyTorch code: means
instead of sums, so that weights keep their meaning from one picture size to another.

What tells a texture is a mean over a picture's places (``texture``). So the textures of parts of
a picture add up to the whole's, and the textures of several pictures mix.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

StyleLoss = Literal["gram", "moments"]

# Products of bfloat16 are rounded: of so many parts of a picture, whose sum is float32.
_MATRIX_DTYPES = 16


def gram_matrix(features: Tensor) -> Tensor:
    """Return the mean products of all pairs of channels, which tell texture without place.

    Args:
        features: float ``[B, C, H, W]``.

    Returns:
        ``[B, C, C]``: ``G[b, i, j]`` is the mean of ``features[b, i] * features[b, j]``, float32
        of bfloat16.
    """
    if features.dtype == torch.bfloat16:
        gram: Tensor = _RoundedGram.apply(features)
        return gram
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def style_statistics(
    features: Tensor, kind: StyleLoss, mask: Tensor | None = None, places: Tensor | None = None
) -> Tensor:
    """Return what :func:`style_loss` compares: means over places, and with a mask under it.

    Args:
        features: float ``[B, C, H, W]``.
        kind: ``"gram"``: the Gram matrix. ``"moments"``: the means of the channels beside it.
        mask: weights of the places, float32 ``[1 or B, 1, H, W]`` (Gatys et al. 2017,
            "Controlling perceptual factors in neural style transfer", CVPR).
        places: what sums over places are divided by, ``[1 or B]``, where the features are a part
            of a picture; else the mask's sum, or the number of places.

    Returns:
        ``[B, C, C]``, or ``[B, C, C + 1]`` with the means last; float32 of bfloat16.
    """
    count = features.shape[2] * features.shape[3]
    weighed = features if mask is None else features * mask.sqrt().to(features.dtype)
    means = gram_matrix(weighed)
    if kind == "moments":
        sums = _accumulation_dtype(features if mask is None else features * mask.to(features.dtype))
        means = torch.cat([means, sums.mean((2, 3))[..., None]], dim=2)
    if places is None and mask is not None:
        places = mask.sum((1, 2, 3))
    return means if places is None else means * (count / places).view(-1, 1, 1)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps ``[B, C, H, W]``, for each ``[B]``."""
    return _mean_square(_accumulation_dtype(features), _accumulation_dtype(target))


def style_loss(found: Tensor, target: Tensor) -> Tensor:
    """Return how far textures are from one, for each picture ``[B]``.

    Gram matrices are compared by their mean squared difference. With means beside them those are
    compared, and the covariances of channels: the Gram matrices less the means' products (Huang
    and Belongie 2017, "Arbitrary style transfer in real-time with adaptive instance
    normalization"; Li et al. 2017, "Universal style transfer via feature transforms").

    Args:
        found: of the paintings, from :func:`style_statistics`.
        target: of the style, likewise, for all ``[1, ...]`` or for each painting.
    """
    if found.shape[1] == found.shape[2]:
        return _mean_square(found, target)
    (ours, ours_mean), (theirs, theirs_mean) = _moments(found), _moments(target)
    return _mean_square(ours, theirs) + _mean_square(ours_mean, theirs_mean)


def total_variation(pictures: Tensor) -> Tensor:
    """Return the mean squared difference of neighbours, right and below, summed, for each ``[B]``.

    After Mahendran and Vedaldi 2015, "Understanding deep image representations by inverting
    them" (CVPR), with an exponent of 2.

    Args:
        pictures: float ``[B, C, H, W]``.
    """
    right, below = pictures.diff(dim=3).square(), pictures.diff(dim=2).square()
    return (right.sum((1, 2, 3)) + below.sum((1, 2, 3))) / pictures[0].numel()


class _RoundedGram(torch.autograd.Function):
    """The Gram matrix of bfloat16 with channels last; its gradient takes one product, not two."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Products of parts of the picture, summed in float32."""
        ctx.save_for_backward(features)
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        parts = rows.unflatten(1, (math.gcd(rows.shape[1], _MATRIX_DTYPES), -1))
        products: Tensor = parts.mT @ parts
        return products.sum(1, dtype=torch.float32) / rows.shape[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """``(dG + dG^T) F``, as channels last again."""
        (features,) = ctx.saved_tensors
        rows = features.permute(0, 2, 3, 1)
        both = ((gradient + gradient.mT) / (rows.shape[1] * rows.shape[2])).to(features.dtype)
        product: Tensor = rows.flatten(1, 2) @ both
        return product.view_as(rows).permute(0, 3, 1, 2)


def _moments(textures: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances ``[B, C, C]`` and means ``[B, C, 1]``."""
    means = textures[..., -1:]
    return textures[..., :-1] - means @ means.mT, means


def _mean_square(values: Tensor, target: Tensor) -> Tensor:
    if len(values) == 1 and len(target) == 1:
        return F.mse_loss(values, target).view(1)
    return (values - target).square().flatten(1).mean(1)


def _accumulation_dtype(features: Tensor) -> Tensor:
    return features.float() if features.dtype == torch.bfloat16 else features
