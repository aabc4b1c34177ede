"""Learning-rate schedules."""

import math
from typing import Literal

from torch import Tensor, optim


def lr_factor(schedule: Literal["constant", "linear", "cosine"], done: int, total: int) -> float:
    """Return the factor by which the schedule multiplies the learning rate at a step.

    ``linear`` decays linearly to 0, as in the training of Heusel et al. 2017 and Miyato et al.
    2018. ``cosine`` is Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts.

    Args:
        schedule: ``train.schedule``.
        done: steps before this one.
        total: steps of the whole training, more than ``done``.
    """
    if schedule == "linear":
        return 1 - done / total
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done / total)) / 2
    return 1.0


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Set the learning rate; if it is a tensor, in place.

    A CUDA graph reads the tensor at each replay, and writing to it does not block the host.
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
