"""Fréchet distance between two sets of features."""

import torch
from torch import Tensor


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Heusel et al. 2017, "GANs trained by a two time-scale update rule ...", equation 6.

    The squared distance of the means plus tr(S + T - 2 (S T)^1/2) of the covariances S and T. It
    is biased: fewer pictures give larger values, so that it compares only at one number of them.

    The trace of the root is the sum of the singular values of A B', where S = A' A and
    T = B' B: no root of a product is taken, which rounding makes complex where there are fewer
    pictures than features.

    Args:
        real: [N, D] float features, N at least 2.
        generated: [M, D] float features, M at least 2.
    """
    real, generated = real.double(), generated.double()
    a, b = _factor(real), _factor(generated)
    apart = (real.mean(dim=0) - generated.mean(dim=0)).square().sum()
    common = torch.linalg.svdvals(a @ b.T).sum()
    return float(apart + a.square().sum() + b.square().sum() - 2 * common)


def _factor(features: Tensor) -> Tensor:
    """A matrix A of at most D rows, of which A' A is the covariance of features [N, D]."""
    centred: Tensor = (features - features.mean(dim=0)) / (len(features) - 1) ** 0.5
    if len(centred) <= centred.shape[1]:
        return centred
    triangle: Tensor = torch.linalg.qr(centred, mode="r").R
    return triangle
