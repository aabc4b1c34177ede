"""What each term adds to the loss while paintings are made."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.settings import StylizeSettings
from atelier.style.objective import weighted
from atelier.style.paintings import Painting

Floats = NDArray[np.float64]


def terms(
    paintings: Sequence[Painting], settings: StylizeSettings
) -> tuple[Floats, dict[str, Floats]]:
    """Return iterations, float64 [N], and for each term its part of the loss, float64 [N].

    Each is the mean of all paintings. One that ended early keeps its last losses.

    Args:
        paintings: at least one.
        settings: what each term weighs.
    """
    last = max(painting.iterates[-1].iteration for painting in paintings)
    iterations = np.arange(1, last + 1, dtype=np.float64)

    def mean(name: str) -> Floats:
        curves = []
        for painting in paintings:
            told = [step.iteration for step in painting.iterates]
            values = [
                step.total if name == "loss" else step.per_layer[name] for step in painting.iterates
            ]
            # Between and after those that were told, the one before.
            at = np.searchsorted(told, iterations, side="right") - 1
            curves.append(np.array(values)[at.clip(0)])
        return np.asarray(np.mean(curves, axis=0))

    lines = {"loss": mean("loss")}
    for name in paintings[0].iterates[0].per_layer:
        part = weighted({name: torch.from_numpy(mean(name))}, settings)
        lines[name.replace("_", " ")] = part.numpy()
    return iterations, lines
