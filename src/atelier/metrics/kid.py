"""Kernel Inception distance between two sets of features."""

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_LEAST_DEVIATION = 0.1  # of the features' mean deviation


@dataclass(frozen=True)
class Kid:
    """A kernel distance and the standard error of its mean over subsets."""

    value: float
    error: float


def kernel_distance(
    real: Tensor, generated: Tensor, subsets: int, subset_size: int, seed: int
) -> Kid:
    """Binkowski et al. 2018, "Demystifying MMD GANs": unbiased MMD, cubic polynomial kernel.

    Features are standardised by the mean and deviation of ``real`` first, since those of
    other networks than Inception have no scale of their own. A deviation counts as a tenth of
    the mean one at least: a feature that is silent for nearly every real picture would
    drown all others by the few that it answers. Near 0 means alike; the estimate is unbiased,
    so it may fall a little below 0.

    Args:
        real: [N, D] float features.
        generated: [M, D] float features.
        subsets: random subsets to average over.
        subset_size: pictures in each, at most N and M.
        seed: of the choice of subsets.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    mean, deviation = real.mean(dim=0), real.std(dim=0)
    deviation = deviation.clamp_min(max(_LEAST_DEVIATION * float(deviation.mean()), 1e-6))
    with warnings.catch_warnings():
        # It warns that it keeps all features; they are kept here already.
        warnings.filterwarnings("ignore", message="Metric `Kernel Inception Distance`")
        metric = KernelInceptionDistance(nn.Identity(), subsets=subsets, subset_size=subset_size)
    metric.update((real - mean) / deviation, real=True)
    metric.update((generated - mean) / deviation, real=False)
    # torchmetrics draws its subsets from the global stream, which is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        value, deviation_of_subsets = metric.compute()
    return Kid(float(value), float(deviation_of_subsets) / math.sqrt(subsets))
