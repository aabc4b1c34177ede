"""Curves of a running training with a bounded number of points."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel


class Curves(BaseModel, frozen=True, allow_inf_nan=False):
    """File of curves; see :meth:`LiveCurves.as_json`."""

    names: list[str]
    steps: list[int]
    values: list[list[float | None]]
    kid: list[tuple[int, float | None]]


MAX_POINTS = 400
"""Points of a curve; more are not visible on a page. It must be even."""


class LiveCurves:
    """Means of consecutive steps, in at most :data:`MAX_POINTS` bins, and scores by epoch.

    If all bins are in use, each two neighbors are merged, so that the memory stays the same however
    long the training is.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._steps_per_bin = 1
        self._sums = np.zeros((MAX_POINTS, 0))
        self._counts = np.zeros(MAX_POINTS, np.int64)
        self._scores: dict[int, float] = {}

    def add_steps(self, first_step: int, names: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Add values of consecutive steps.

        Args:
            first_step: number of steps before the first row.
            names: of the columns; the same in every call.
            rows: float [steps, names]; values that are not finite leave a gap.
        """
        if not self._names:
            self._names, self._sums = tuple(names), np.zeros((MAX_POINTS, len(names)))
        steps = first_step + np.arange(len(rows))
        while len(rows) and steps[-1] // self._steps_per_bin >= MAX_POINTS:
            self._merge_bins()
        bins = steps // self._steps_per_bin
        np.add.at(self._sums, bins, rows.astype(np.float64))
        np.add.at(self._counts, bins, 1)

    def add_scores(self, scores: Mapping[int, Sequence[float]]) -> None:
        """Add the KID of epochs, as one value in a list; of many, every second one remains."""
        self._scores |= {epoch: float(value) for epoch, (value,) in scores.items()}
        while len(self._scores) > MAX_POINTS:
            remaining = sorted(self._scores)[::-2]  # with the newest
            self._scores = {epoch: self._scores[epoch] for epoch in remaining}

    def as_json(self) -> dict[str, Any]:
        """Return the curves as a JSON object.

        Returns:
            ``names`` of the curves, ``steps`` (the last one of each point), ``values`` (a list for
            each curve, ``None`` where values are not finite), ``kid`` (pairs of epoch and KID).
        """
        (used,) = np.nonzero(self._counts)
        means = self._sums[used] / self._counts[used, None]
        # The last bin is not full yet.
        ends = used * self._steps_per_bin + self._counts[used]
        return {
            "names": list(self._names),
            "steps": ends.tolist(),
            "values": [[_short(value) for value in column] for column in means.T.tolist()],
            "kid": [[epoch, _short(self._scores[epoch])] for epoch in sorted(self._scores)],
        }

    def _merge_bins(self) -> None:
        half = MAX_POINTS // 2
        sums, counts = np.zeros_like(self._sums), np.zeros_like(self._counts)
        sums[:half] = self._sums.reshape(half, 2, -1).sum(axis=1)
        counts[:half] = self._counts.reshape(half, 2).sum(axis=1)
        self._sums, self._counts = sums, counts
        self._steps_per_bin *= 2


def _short(value: float) -> float | None:
    """Return four significant digits; ``None`` for a value that JSON lacks."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
