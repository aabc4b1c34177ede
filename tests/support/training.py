"""Trainings that go astray, and epochs as a training tells them."""

import numpy as np

from atelier.gan.history import EpochResult
from atelier.gan.trainer import Trainer


class Poison:
    """Makes a weight no number after some steps, as often as it is told to."""

    def __init__(self, training: Trainer, steps: int, times: int) -> None:
        self.training, self.steps, self.times = training, steps, times

    def __call__(self) -> bool:
        if self.training.steps_done >= self.steps and self.times:
            self.times -= 1
            next(self.training.gan.generator.parameters()).data.fill_(float("nan"))
        return False


def epoch_of(number: int, loss_d: float, samples: np.ndarray) -> EpochResult:
    """An epoch of four steps with one loss of the discriminator."""
    statistics = np.full((4, 5), 0.7, np.float32)
    statistics[:, 0] = loss_d
    return EpochResult(number, 0, np.arange(4), statistics, samples, {})
