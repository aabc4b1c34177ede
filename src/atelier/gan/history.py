"""The statistics of every step of a training, as a table and in short."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from atelier.files import write_csv
from atelier.gan.epoch import Epoch
from atelier.gan.step import STATISTICS


class History:
    """The statistics of every step so far."""

    def __init__(self) -> None:
        self._epochs: list[Epoch] = []

    def add(self, epoch: Epoch) -> None:
        """Append an epoch; its pictures are not kept."""
        self._epochs.append(replace(epoch, samples=epoch.samples[:0], between={}))

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
