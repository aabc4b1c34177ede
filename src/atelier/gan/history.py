"""Results of each epoch, the best model so far, and the loss history as CSV and JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.files import write_csv
from atelier.core.state import flatten, section
from atelier.gan.networks import Architecture, Generator
from atelier.gan.step import STATISTICS


class DivergedError(AtelierError):
    """Raised when losses or weights are not finite."""


@dataclass(frozen=True)
class EpochResult:
    """Statistics and samples of one epoch.

    Attributes:
        number: 1 for the first epoch.
        first_step: training steps before this epoch.
        images: int64 [steps], the number of images processed since the start, after each step.
        statistics: float32 [steps, 5], one row per step, with the columns of ``step.STATISTICS``.
        samples: uint8 [N, H, W, C], images of the fixed latents after this epoch; N is 0 except
            after every ``train.sample_every_epochs``-th epoch and the last one.
        step_samples: images of the fixed latents after every ``train.sample_every_steps``-th step
            of this epoch, by step.
        quality: score of the generator after this epoch (KID); ``None`` if it was not scored.
        images_before: number of images processed before this epoch.
    """

    number: int
    first_step: int
    images: NDArray[np.int64]
    statistics: NDArray[np.float32]
    samples: NDArray[np.uint8]
    step_samples: dict[int, NDArray[np.uint8]]
    quality: float | None = None
    images_before: int = 0

    @property
    def images_seen(self) -> int:
        """Number of images processed in this epoch."""
        return int(self.images[-1]) - self.images_before

    @property
    def quality_by_epoch(self) -> dict[int, list[float]]:
        """The score as a point of a curve, by epoch; empty if the epoch was not scored."""
        return {} if self.quality is None else {self.number: [self.quality]}


class BestModel:
    """Scores of the epochs so far, and the weights of the best one.

    Attributes:
        last: the score of the last scored epoch; ``nan`` if there is none.
        best: the lowest score so far; ``inf`` if there is none.
        best_epoch: the epoch of the lowest score; 0 if there is none.
    """

    def __init__(self) -> None:
        self.last, self.best, self.best_epoch = math.nan, math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def add(self, epoch: int, quality: float, generator: Generator) -> None:
        """Record an epoch's score, and copy the generator if it is the best so far."""
        self.last = quality
        if quality < self.best:
            self.best, self.best_epoch = quality, epoch
            self._weights = {k: tensor.clone() for k, tensor in generator.state_dict().items()}

    def best_generator(self, arch: Architecture) -> Generator:
        """Build the generator of the best epoch, in evaluation mode, on the CPU.

        Raises:
            ValueError: no epoch was scored.
        """
        if not self._weights:
            raise ValueError("no epoch was scored")
        generator = Generator(arch)
        generator.load_state_dict(self._weights)
        return generator.eval()

    def state(self) -> dict[str, Tensor]:
        """Return the scores and the best weights by name."""
        numbers = torch.tensor([self.last, self.best, self.best_epoch], dtype=torch.float64)
        return flatten({"numbers": numbers, "best": self._weights})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors returned by :meth:`state`, bit for bit."""
        self.last, self.best, epoch = state["numbers"].tolist()
        self.best_epoch = int(epoch)
        self._weights = section(state, "best")


class History:
    """Statistics of all steps so far."""

    def __init__(self) -> None:
        self._epochs: list[EpochResult] = []

    def add(self, epoch: EpochResult) -> None:
        """Append an epoch, without its samples."""
        self._epochs.append(replace(epoch, samples=epoch.samples[:0], step_samples={}))

    def write(self, losses: Path, qualities: Path) -> None:
        """Write two CSV files.

        Args:
            losses: one row per step: step, epoch, images, and the statistics.
            qualities: one row per scored epoch: epoch, KID.
        """
        write_csv(losses, ("step", "epoch", "images", *STATISTICS), self._rows())
        scores = [(epoch, f"{kid:.6g}") for epoch, kid in self.qualities().items()]
        write_csv(qualities, ("epoch", "kid"), scores)

    def metrics(self, select_model: str) -> dict[str, float]:
        """Return the metrics that runs are compared by: KID of the saved generator, if measured.

        Args:
            select_model: ``train.select_model``. The KID is the lowest for ``best``, else the last.
        """
        qualities = list(self.qualities().values())
        if not qualities:
            return {}
        return {"validation_kid": min(qualities) if select_model == "best" else qualities[-1]}

    def details(self) -> dict[str, Any]:
        """Return the number of epochs and steps, the last epoch's means, and the best KID."""
        last = self._epochs[-1]
        means = dict(zip(STATISTICS, last.statistics.mean(axis=0).tolist(), strict=True))
        steps = last.first_step + len(last.statistics)
        summary = {"epochs": last.number, "steps": steps, "last_epoch": means}
        if qualities := self.qualities():
            best = min(qualities, key=lambda epoch: qualities[epoch])
            summary |= {"best_epoch": best, "best_kid": qualities[best]}
        return summary

    def qualities(self) -> dict[int, float]:
        """Return the score of every scored epoch."""
        return {e.number: e.quality for e in self._epochs if e.quality is not None}

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (epoch.first_step + done, epoch.number, images, *(f"{value:.6g}" for value in row))
            for epoch in self._epochs
            for done, (images, row) in enumerate(
                zip(epoch.images.tolist(), epoch.statistics.tolist(), strict=True), start=1
            )
        ]
