"""Loss history, previews and the observer of style transfers."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from atelier.core.events import Events

# Losses stay on the device and are fetched in blocks, because each fetch synchronizes the device.
# A GPU computes a chunk of evaluations, after which it is synchronized anyway, in 0.4 s.
_EVALUATIONS_PER_FETCH = 25
# An evaluation on a CPU takes long enough for a fetch to cost nothing, and for progress to matter.
_EVALUATIONS_PER_FETCH_ON_CPU = 10


@dataclass(frozen=True)
class IterationLosses:
    """Losses of one image at one evaluation.

    Attributes:
        image: index of the result, from 0.
        iteration: number of evaluations of this image so far, from 1.
        total: the weighted sum, with the content weights of the settings.
        per_layer: the terms of the sum before weighting, by name: ``style_1``, ``content_11``.
        level: index of the pyramid level, from 0; losses of different levels do not compare.
    """

    image: int
    iteration: int
    total: float
    per_layer: dict[str, float]
    level: int = 0


@dataclass(frozen=True)
class Preview:
    """Unfinished image, postprocessed like a finished one.

    Attributes:
        image: index of the result, from 0.
        iteration: number of evaluations so far.
        pixels: float32 ``[1, 3, H, W]``, RGB, 0 to 1, of the size of the result, on the device of
            the computation.
        interrupted: true if the style transfer was interrupted here.
    """

    image: int
    iteration: int
    pixels: Tensor
    interrupted: bool = False


class StyleEvents(Events):
    """Observer of style transfers whose methods do nothing."""

    def on_losses(self, losses: IterationLosses) -> None:
        """Receive the losses of one image at one evaluation with a finite loss.

        Losses come in blocks. L-BFGS of torch may make one evaluation more than
        ``stylize.iterations``. Both L-BFGS may end earlier, if no step lowers the loss.
        """

    def on_preview(self, preview: Preview) -> None:
        """Receive an unfinished image; there are more if ``stylize.save_intermediates`` is set."""


class LossLog:
    """Losses of a batch, collected on the device and delivered in blocks.

    Attributes:
        labels: name of each image of the batch, for messages.
        recorded: number of evaluations so far, including those not yet delivered.
        level_starts: number of evaluations before each pyramid level so far.
    """

    def __init__(
        self, images: Mapping[int, str], loss_names: Sequence[str], events: StyleEvents
    ) -> None:
        """Start an empty log.

        Args:
            images: name of each image of the batch, by its index.
            loss_names: names of the terms of the loss.
            events: receives the finite losses.
        """
        self._numbers, self.labels = list(images), list(images.values())
        self.recorded = 0
        self.level_starts: list[int] = []
        self._loss_names, self._events = loss_names, events
        self._pending: list[Tensor] = []
        self._rows: list[list[list[float]]] = []

    @property
    def delivered(self) -> int:
        """Number of evaluations delivered so far."""
        return len(self._rows)

    @property
    def level_start(self) -> int:
        """Number of evaluations before the current pyramid level."""
        return self.level_starts[-1] if self.level_starts else 0

    def record(self, totals: Tensor, losses: dict[str, Tensor]) -> None:
        """Add the losses of one evaluation, ``[B]`` each."""
        self.recorded += 1
        self._pending.append(torch.stack([totals, *losses.values()], dim=1).detach())
        if len(self._pending) == evaluations_per_fetch(totals.device):
            self.deliver()

    def deliver(self) -> None:
        """Fetch pending losses from the device, and pass them on."""
        if self._pending:
            self._deliver_rows(torch.stack(self._pending).tolist())
            self._pending.clear()

    def table(self) -> Tensor:
        """Return all losses so far, float64 [evaluations, B, 1 + terms], exact for float32."""
        return torch.tensor(self._rows, dtype=torch.float64)

    def replay(self, table: Tensor, level_starts: Sequence[int]) -> None:
        """Deliver the losses that an earlier attempt saved."""
        self.level_starts = list(level_starts)
        self._deliver_rows(table.tolist())
        self.recorded = self.delivered

    def non_finite_labels(self, since: int) -> list[str]:
        """Return the images with a non-finite loss after the first ``since`` evaluations."""
        return [
            label
            for index, label in enumerate(self.labels)
            if not all(math.isfinite(total) for total in self._totals(index, since))
        ]

    def never_finite(self) -> list[str]:
        """Return the images without a finite loss at this pyramid level."""
        return [
            label
            for index, label in enumerate(self.labels)
            if not any(math.isfinite(total) for total in self._totals(index, self.level_start))
        ]

    def failure_message(self) -> str:
        """Return a sentence on the first non-finite loss of this pyramid level.

        Images without any finite loss take precedence.
        """
        failed = self.never_finite() or self.labels
        for iteration, rows in enumerate(
            self._rows[self.level_start :], start=self.level_start + 1
        ):
            for label, (total, *_) in zip(self.labels, rows, strict=True):
                if label in failed and not math.isfinite(total):
                    return f"the loss of {label} is {total} at iteration {iteration}"
        return ""

    def _totals(self, index: int, since: int) -> list[float]:
        return [rows[index][0] for rows in self._rows[since:]]

    def _deliver_rows(self, evaluations: list[list[list[float]]]) -> None:
        for rows in evaluations:
            level = max(bisect_right(self.level_starts, self.delivered) - 1, 0)
            self._rows.append(rows)
            for image, (total, *losses) in zip(self._numbers, rows, strict=True):
                if math.isfinite(total):
                    per_layer = dict(zip(self._loss_names, losses, strict=True))
                    self._events.on_losses(
                        IterationLosses(image, self.delivered, total, per_layer, level)
                    )


def evaluations_per_fetch(device: torch.device) -> int:
    """Return the number of evaluations whose losses are fetched together from ``device``."""
    return _EVALUATIONS_PER_FETCH_ON_CPU if device.type == "cpu" else _EVALUATIONS_PER_FETCH
