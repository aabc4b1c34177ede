"""What a painting tells and keeps on its way: losses, glimpses, the state to go on from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Losses stay on the device and are fetched in blocks, because each fetch makes the host wait.
_EVALUATIONS_PER_FETCH = 10


@dataclass(frozen=True)
class IterationLosses:
    """The losses of one evaluation.

    Attributes:
        image: which of the contents, from 0.
        iteration: evaluations of this picture so far, from 1.
        total: the weighted sum that is minimised.
        per_layer: the terms of the sum before weighting, by name: ``style_1``, ``content_11``.
    """

    image: int
    iteration: int
    total: float
    per_layer: dict[str, float]


@dataclass(frozen=True)
class Preview:
    """A picture while it is painted, as it would be saved now.

    Attributes:
        image: which of the contents, from 0.
        iteration: evaluations so far.
        pixels: float32 ``[1, 3, H, W]``, RGB, 0 to 1, as large as the painting.
        interrupted: whether it is the last one, of a painting that ends here.
    """

    image: int
    iteration: int
    pixels: Tensor
    interrupted: bool = False


class Checkpointer:
    """Keeps nothing; see :class:`atelier.style.checkpoint.TransferCheckpoints` for one that does."""

    def load(self, picture: int) -> dict[str, Tensor] | None:
        """What an earlier attempt left of a picture."""
        return None

    def save(
        self, picture: int, evaluations: int, state: dict[str, Tensor], finished: bool
    ) -> None:
        """Keep a picture's state after so many evaluations, or as it is when it is finished."""


class LossLog:
    """Collects a batch's losses on the device and delivers them in bursts."""

    def __init__(
        self,
        picture: int,
        called: Sequence[str],
        names: list[str],
        on_iteration: Callable[[IterationLosses], None],
    ) -> None:
        """Begin.

        Args:
            picture: which of the contents is the batch's first, from 0.
            called: what each picture of the batch is called in sentences.
            names: of the terms of the loss.
            on_iteration: told every evaluation.
        """
        self.picture, self.labels = picture, called
        self.recorded = 0  # evaluations, also those that still wait
        self.level_start = 0  # evaluations before the leg that is painted now
        self._names = names
        self._on_iteration = on_iteration
        self._waiting: list[Tensor] = []
        self._rows: list[list[list[float]]] = []

    @property
    def delivered(self) -> int:
        """Evaluations delivered so far."""
        return len(self._rows)

    def record(self, totals: Tensor, losses: dict[str, Tensor]) -> None:
        """Take the losses of one evaluation, ``[B]`` each."""
        self.recorded += 1
        self._waiting.append(torch.stack([totals, *losses.values()], dim=1).detach())
        if len(self._waiting) == _EVALUATIONS_PER_FETCH:
            self.deliver()

    def deliver(self) -> None:
        """Fetch what waits on the device, and tell it."""
        if self._waiting:
            self._deliver_rows(torch.stack(self._waiting).tolist())
            self._waiting.clear()

    def table(self) -> Tensor:
        """All losses so far, float64 [evaluations, B, 1 + terms]: what float32 was, to the bit."""
        return torch.tensor(self._rows, dtype=torch.float64)

    def replay(self, table: Tensor) -> None:
        """Tell what an earlier attempt evaluated."""
        self._deliver_rows(table.tolist())
        self.recorded = self.delivered

    def non_finite_labels(self, since: int) -> list[str]:
        """The pictures that had a loss that is not finite after so many evaluations."""
        return [
            called
            for picture, called in enumerate(self.labels)
            if not all(math.isfinite(total) for total in self._totals(picture, since))
        ]

    def never_finite(self) -> list[str]:
        """The pictures of which no loss of this leg is finite."""
        return [
            called
            for picture, called in enumerate(self.labels)
            if not any(math.isfinite(total) for total in self._totals(picture, self.level_start))
        ]

    def failure_message(self) -> str:
        """The first loss of this leg that is not finite, of a hopeless picture if there is one."""
        blamed = self.never_finite() or self.labels
        for iteration, rows in enumerate(
            self._rows[self.level_start :], start=self.level_start + 1
        ):
            for called, (total, *_) in zip(self.labels, rows, strict=True):
                if called in blamed and not math.isfinite(total):
                    return f"the loss of {called} is {total} at iteration {iteration}"
        return ""

    def _totals(self, picture: int, since: int) -> list[float]:
        return [rows[picture][0] for rows in self._rows[since:]]

    def _deliver_rows(self, evaluations: list[list[list[float]]]) -> None:
        for rows in evaluations:
            self._rows.append(rows)
            for picture, (total, *losses) in enumerate(rows, start=self.picture):
                if not math.isfinite(total):
                    continue
                per_layer = dict(zip(self._names, losses, strict=True))
                self._on_iteration(IterationLosses(picture, self.delivered, total, per_layer))
