"""What a painting is measured by.

Gatys, Ecker and Bethge 2015, "A neural algorithm of artistic style"
(https://arxiv.org/abs/1508.06576), with the normalisation of Gatys' own PyTorch code: means
instead of sums, so that weights keep their meaning from one picture size to another.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Products of bfloat16 are rounded: of so many parts of a picture, whose sum is float32.
_PRODUCTS = 16


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


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps ``[B, C, H, W]``, for each ``[B]``."""
    return _mean_square(_summable(features), _summable(target))


def style_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of Gram matrices, for each picture ``[B]``.

    Args:
        features: of the paintings, float ``[B, C, H, W]``.
        target: Gram matrix of the style, float ``[1, C, C]``, or one for each painting.
    """
    return _mean_square(gram_matrix(features), target)


class _RoundedGram(torch.autograd.Function):
    """The Gram matrix of bfloat16 with channels last; its gradient takes one product, not two."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Products of parts of the picture, summed in float32."""
        ctx.save_for_backward(features)
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        parts = rows.unflatten(1, (math.gcd(rows.shape[1], _PRODUCTS), -1))
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


def _mean_square(values: Tensor, target: Tensor) -> Tensor:
    if len(values) == 1:
        return F.mse_loss(values, target).view(1)
    return (values - target).square().flatten(1).mean(1)


def _summable(features: Tensor) -> Tensor:
    return features.float() if features.dtype == torch.bfloat16 else features
