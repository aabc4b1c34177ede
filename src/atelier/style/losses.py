"""Losses of style transfer: style statistics, content and smoothness.

Gatys, Ecker and Bethge 2015, "A neural algorithm of artistic style"
(https://arxiv.org/abs/1508.06576), normalized as in Gatys' own PyTorch code: means instead of
sums, so that loss weights are comparable between image sizes.

Style statistics are means over positions. The statistics of tiles therefore add up to those of
the whole image, and the statistics of several images can be mixed.
"""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

StyleLoss = Literal["gram", "moments"]

# bfloat16 products are rounded. Positions are split into at most this many parts, and the
# products of the parts are summed in float32.
_GRAM_PARTS = 16


def gram_matrix(features: Tensor) -> Tensor:
    """Return the Gram matrix of channels, divided by the number of positions.

    Args:
        features: float ``[B, C, H, W]``.

    Returns:
        ``[B, C, C]``: ``G[b, i, j]`` is the mean of ``features[b, i] * features[b, j]``; float32
        if the features are bfloat16.
    """
    if features.dtype == torch.bfloat16:
        gram: Tensor = _Bf16Gram.apply(features)
        return gram
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def style_statistics(
    features: Tensor, kind: StyleLoss, mask: Tensor | None = None, denominator: Tensor | None = None
) -> Tensor:
    """Return the statistics that :func:`style_loss` compares: means over positions.

    Args:
        features: float ``[B, C, H, W]``.
        kind: ``"gram"`` for the Gram matrix; ``"moments"`` for the Gram matrix and the means of
            the channels.
        mask: weights of the positions, float32 ``[1 or B, 1, H, W]`` (Gatys et al. 2017,
            "Controlling perceptual factors in neural style transfer", CVPR).
        denominator: divisor of the sums over positions, ``[1 or B]``, if the features are those
            of a tile. By default the sum of the mask, or the number of positions.

    Returns:
        ``[B, C, C]``, or ``[B, C, C + 1]`` with the means last; float32 if the features are
        bfloat16.
    """
    count = features.shape[2] * features.shape[3]
    weighted = features if mask is None else features * mask.sqrt().to(features.dtype)
    means = gram_matrix(weighted)
    if kind == "moments":
        sums = _accumulation_dtype(features if mask is None else features * mask.to(features.dtype))
        means = torch.cat([means, sums.mean((2, 3))[..., None]], dim=2)
    if denominator is None and mask is not None:
        denominator = mask.sum((1, 2, 3))
    return means if denominator is None else means * (count / denominator).view(-1, 1, 1)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of feature maps ``[B, C, H, W]``, for each image ``[B]``.

    Args:
        features: of the optimized images.
        target: of the contents.
    """
    return _mean_square(_accumulation_dtype(features), _accumulation_dtype(target))


def style_loss(statistics: Tensor, target: Tensor) -> Tensor:
    """Return the distance of style statistics, for each image ``[B]``.

    Gram matrices are compared by their mean squared difference. For moments, the loss is the mean
    squared difference of the means plus that of the covariances. The covariances are the Gram
    matrices minus the products of the means (Huang and Belongie 2017, "Arbitrary style transfer
    in real-time with adaptive instance normalization"; Li et al. 2017, "Universal style transfer
    via feature transforms").

    Args:
        statistics: of the optimized images, from :func:`style_statistics`.
        target: of the style, for all images ``[1, ...]`` or for each ``[B, ...]``.
    """
    if statistics.shape[1] == statistics.shape[2]:
        return _mean_square(statistics, target)
    (covariance, mean), (target_covariance, target_mean) = _moments(statistics), _moments(target)
    return _mean_square(covariance, target_covariance) + _mean_square(mean, target_mean)


def total_variation(images: Tensor) -> Tensor:
    """Return the summed mean squared differences of adjacent pixels, for each image ``[B]``.

    Mahendran and Vedaldi 2015, "Understanding deep image representations by inverting them"
    (CVPR), with an exponent of 2. Each pixel is compared with its right and its lower neighbor.

    Args:
        images: float ``[B, C, H, W]``.
    """
    right, below = images.diff(dim=3).square(), images.diff(dim=2).square()
    return (right.sum((1, 2, 3)) + below.sum((1, 2, 3))) / images[0].numel()


class _Bf16Gram(torch.autograd.Function):
    """Gram matrix of channels-last bfloat16 features, whose gradient takes a single product."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Sum the products of parts of the positions in float32."""
        ctx.save_for_backward(features)
        rows = features.permute(0, 2, 3, 1).flatten(1, 2)
        parts = rows.unflatten(1, (math.gcd(rows.shape[1], _GRAM_PARTS), -1))
        products: Tensor = parts.mT @ parts
        return products.sum(1, dtype=torch.float32) / rows.shape[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return ``(dG + dG^T) F`` divided by the number of positions, channels-last."""
        (features,) = ctx.saved_tensors
        rows = features.permute(0, 2, 3, 1)
        both = ((gradient + gradient.mT) / (rows.shape[1] * rows.shape[2])).to(features.dtype)
        product: Tensor = rows.flatten(1, 2) @ both
        return product.view_as(rows).permute(0, 3, 1, 2)


def _moments(statistics: Tensor) -> tuple[Tensor, Tensor]:
    """Return covariances ``[B, C, C]`` and means ``[B, C, 1]``."""
    means = statistics[..., -1:]
    return statistics[..., :-1] - means @ means.mT, means


def _mean_square(values: Tensor, target: Tensor) -> Tensor:
    if len(values) == 1 and len(target) == 1:
        return F.mse_loss(values, target).view(1)
    return (values - target).square().flatten(1).mean(1)


def _accumulation_dtype(features: Tensor) -> Tensor:
    """Convert bfloat16 to float32, in which sums are accumulated."""
    return features.float() if features.dtype == torch.bfloat16 else features
