"""The quality of a training's epochs, and the generator of the best."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.gan.networks import Architecture, Generator

Judge = Callable[[NDArray[np.uint8]], float]
"""Pictures uint8 [N, H, W, C] to a number, such as their KID; less is better."""


class Measured:
    """What is known of the quality of epochs so far.

    Attributes:
        last: the quality of the epoch that was measured last; ``nan`` before.
        best: the least so far; ``inf`` before.
        best_epoch: the number of its epoch; 0 before.
    """

    def __init__(self) -> None:
        self.last, self.best, self.best_epoch = math.nan, math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def add(self, epoch: int, quality: float, generator: Generator) -> None:
        """Take in an epoch's quality; the generator is copied where there was none better."""
        self.last = quality
        if quality < self.best:
            self.best, self.best_epoch = quality, epoch
            self._weights = {k: tensor.clone() for k, tensor in generator.state_dict().items()}

    def best_generator(self, arch: Architecture) -> Generator:
        """Build the generator of the best epoch, in evaluation mode, on the CPU.

        Raises:
            ValueError: nothing was measured.
        """
        if not self._weights:
            raise ValueError("no epoch was measured")
        generator = Generator(arch)
        generator.load_state_dict(self._weights)
        return generator.eval()

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""
        numbers = torch.tensor([self.last, self.best, self.best_epoch], dtype=torch.float64)
        return {"numbers": numbers} | {f"best.{key}": t for key, t in self._weights.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, to the bit."""
        self.last, self.best, epoch = state["numbers"].tolist()
        self.best_epoch, start = int(epoch), "best."
        self._weights = {
            key.removeprefix(start): tensor
            for key, tensor in state.items()
            if key.startswith(start)
        }
