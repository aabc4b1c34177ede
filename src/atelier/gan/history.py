"""The statistics of every step of a training, as a table and in short."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.files import write_csv
from atelier.gan.step import STATISTICS


@dataclass(frozen=True)
class EpochResult:
    """What one epoch brought.

    Attributes:
        number: 1 for the first epoch.
        first_step: the training steps done before this epoch.
        images: int64 [steps], pictures seen since the start, after each step.
        statistics: float32 [steps, 5], a row per step, columns as in ``step.STATISTICS``.
        samples: uint8 [N, H, W, C], pictures of the fixed latents after this epoch.
        step_samples: the same after every ``train.sample_every_steps``-th step of it, by step.
        quality: what the judge says of the generator after this epoch; ``None`` where it was
            not asked.
        images_before: images used before this epoch.
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
        """Pictures that this epoch learned from."""
        return int(self.images[-1]) - self.images_before

    @property
    def measured(self) -> dict[int, list[float]]:
        """A point of the curve of quality, by epoch; none where it was not measured."""
        return {} if self.quality is None else {self.number: [self.quality]}


class DivergedError(AtelierError):
    """Losses or weights are no numbers any more."""


class History:
    """The statistics of every step so far."""

    def __init__(self) -> None:
        self._epochs: list[EpochResult] = []

    def add(self, epoch: EpochResult) -> None:
        """Append an epoch; its pictures are not kept."""
        self._epochs.append(replace(epoch, samples=epoch.samples[:0], step_samples={}))

    def write(self, steps: Path, qualities: Path) -> None:
        """Write two tables as CSV.

        Args:
            steps: a row per step: step, epoch, images seen, then the statistics.
            qualities: a row per epoch that was measured: epoch, KID.
        """
        write_csv(steps, ("step", "epoch", "images", *STATISTICS), self._rows())
        measured = [(epoch, f"{kid:.6g}") for epoch, kid in self.qualities().items()]
        write_csv(qualities, ("epoch", "kid"), measured)

    def summary(self) -> dict[str, Any]:
        """The last epoch's means, and how long the training was in epochs and steps.

        Where epochs were measured, the best of them with its KID as well.
        """
        last = self._epochs[-1]
        means = dict(zip(STATISTICS, last.statistics.mean(axis=0).tolist(), strict=True))
        steps = last.first_step + len(last.statistics)
        summary = {"epochs": last.number, "steps": steps, "last_epoch": means}
        if measured := self.qualities():
            best = min(measured, key=lambda epoch: measured[epoch])
            summary |= {"best_epoch": best, "best_kid": measured[best]}
        return summary

    def qualities(self) -> dict[int, float]:
        """The quality of every epoch that was measured."""
        return {e.number: e.quality for e in self._epochs if e.quality is not None}

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (epoch.first_step + done, epoch.number, images, *(f"{value:.6g}" for value in row))
            for epoch in self._epochs
            for done, (images, row) in enumerate(
                zip(epoch.images.tolist(), epoch.statistics.tolist(), strict=True), start=1
            )
        ]
