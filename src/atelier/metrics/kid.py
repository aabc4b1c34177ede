"""Kernel Inception distance between two sets of features."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FEWEST_PICTURES = 3  # pictures of each kind, for the error to be known
CERTAIN_FROM = 200  # real pictures; with fewer, the error is stated in a sentence
_ROWS = 1024  # of a kernel matrix at a time; bounds the memory


@dataclass(frozen=True)
class Kid:
    """A kernel distance and its standard error."""

    value: float
    error: float


def kernel_distance(real: Tensor, generated: Tensor) -> Kid:
    """Binkowski et al. 2018, "Demystifying MMD GANs": unbiased MMD, cubic polynomial kernel.

    All pairs are counted, once each, instead of random subsets as in the paper: the expectation
    is the same, the spread the least that there is, and nothing is drawn. Near 0 means alike; the
    estimate is unbiased, so it may fall a little below 0.

    The standard error is the jackknife's over the pictures of both sets (Efron and Stein 1981,
    "The jackknife estimate of variance"). The deviation of random subsets, divided by the root of
    their number, would be several times too small, since subsets share their pictures. Between
    sets that are alike the jackknife's is up to twice too large.

    Args:
        real: [N, D] float features, N at least :data:`FEWEST_PICTURES`.
        generated: [M, D] float features, M likewise.
    """
    real, generated = real.double(), generated.double()
    n, m = len(real), len(generated)
    among_real = _sums(real, real) - _kernel_of_itself(real)
    among_generated = _sums(generated, generated) - _kernel_of_itself(generated)
    of_real, of_generated = _sums(real, generated), _sums(generated, real)
    a, b, c = float(among_real.sum()), float(among_generated.sum()), float(of_real.sum())
    value = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * c / (n * m)
    # The distance without each real picture, and without each generated one.
    without_real = (
        (a - 2 * among_real) / ((n - 1) * (n - 2))
        + b / (m * (m - 1))
        - 2 * (c - of_real) / ((n - 1) * m)
    )
    without_generated = (
        a / (n * (n - 1))
        + (b - 2 * among_generated) / ((m - 1) * (m - 2))
        - 2 * (c - of_generated) / (n * (m - 1))
    )
    variance = _jackknife(without_real) + _jackknife(without_generated)
    return Kid(value, math.sqrt(variance))


def _kernel(products: Tensor, size: int) -> Tensor:
    return (products / size + 1) ** 3


def _sums(these: Tensor, others: Tensor) -> Tensor:
    """The kernel of each of ``these`` [N, D] with ``others`` [M, D], added up: [N]."""
    size = these.shape[1]
    return torch.cat([_kernel(part @ others.T, size).sum(dim=1) for part in these.split(_ROWS)])


def _kernel_of_itself(features: Tensor) -> Tensor:
    return _kernel(features.square().sum(dim=1), features.shape[1])


def _jackknife(without: Tensor) -> float:
    return (len(without) - 1) * float(without.var(correction=0))
