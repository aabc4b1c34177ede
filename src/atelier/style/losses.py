"""What a painting is measured by.

Gatys, Ecker and Bethge 2015, "A neural algorithm of artistic style"
(https://arxiv.org/abs/1508.06576), with the normalisation of Gatys' own PyTorch code: means
instead of sums, so that weights keep their meaning from one picture size to another.
"""

import torch.nn.functional as F
from torch import Tensor


def gram_matrix(features: Tensor) -> Tensor:
    """Return the mean products of all pairs of channels, which tell texture without place.

    Args:
        features: float ``[B, C, H, W]``.

    Returns:
        ``[B, C, C]``: ``G[b, i, j]`` is the mean of ``features[b, i] * features[b, j]``.
    """
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps ``[B, C, H, W]``, a scalar."""
    return F.mse_loss(features, target)


def style_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of two Gram matrices, a scalar.

    Args:
        features: of the painting, float ``[B, C, H, W]``.
        target: Gram matrix of the style, float ``[B, C, C]``.
    """
    return F.mse_loss(gram_matrix(features), target)
