"""What a training leaves behind besides its networks: samples and curves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atelier.files import write_csv
from atelier.gan.step import STATISTICS
from atelier.gan.training import Epoch


def save_samples(epoch: Epoch, folder: Path) -> None:
    """Write an epoch's pictures, uint8 [N, H, W, C], as ``epoch_0001.npy``.

    Those of steps in between are ``step_00000010.npy``.
    """
    np.save(folder / f"epoch_{epoch.number:04d}.npy", epoch.samples, allow_pickle=False)
    for step, pictures in epoch.between.items():
        np.save(folder / f"step_{step:08d}.npy", pictures, allow_pickle=False)


class History:
    """The statistics of every step so far."""

    def __init__(self) -> None:
        self._epochs: list[Epoch] = []

    def add(self, epoch: Epoch) -> None:
        """Append an epoch; its pictures are not kept."""
        self._epochs.append(replace(epoch, samples=epoch.samples[:0], between={}))

    def write(self, target: Path) -> None:
        """Write a row per step as CSV: step, epoch, images seen, then the statistics."""
        write_csv(target, ("step", "epoch", "images", *STATISTICS), self._rows())

    def summary(self) -> dict[str, Any]:
        """The last epoch's means, and how long the training was in epochs and steps."""
        last = self._epochs[-1]
        means = dict(zip(STATISTICS, last.statistics.mean(axis=0).tolist(), strict=True))
        steps = last.first_step + len(last.statistics)
        return {"epochs": last.number, "steps": steps, "last_epoch": means}

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (epoch.first_step + done, epoch.number, images, *(f"{value:.6g}" for value in row))
            for epoch in self._epochs
            for done, (images, row) in enumerate(
                zip(epoch.images.tolist(), epoch.statistics.tolist(), strict=True), start=1
            )
        ]
