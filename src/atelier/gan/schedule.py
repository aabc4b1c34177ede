"""The learning rate over a training."""

import math
from typing import Literal

from torch import Tensor, optim


def factor(schedule: Literal["constant", "linear", "cosine"], done: int, total: int) -> float:
    """What the learning rate is multiplied by at a step.

    ``linear`` falls evenly to 0, as in Heusel et al.'s and Miyato et al.'s trainings (2017, 2018);
    ``cosine`` slowly at first and at the end (Loshchilov and Hutter 2017, "SGDR", equation 5).

    Args:
        schedule: its course.
        done: steps before this one.
        total: steps of the whole training, more than ``done``.
    """
    if schedule == "linear":
        return 1 - done / total
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done / total)) / 2
    return 1.0


def set_rate(optimizer: optim.Optimizer, lr: float) -> None:
    """Change the learning rate from the next step on; where it is a tensor, in place.

    A recorded step reads the tensor anew, and the device is not waited for.
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
