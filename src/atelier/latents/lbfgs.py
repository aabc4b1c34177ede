"""L-BFGS for a batch of independent problems.

Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4, with a backtracking line search
(algorithm 3.1). ``torch.optim.LBFGS`` takes all parameters as one vector with one step length, so
that the rows of a batch would influence each other. Here each row has its own history and step
length. Each evaluation is one trial of every row: a row that shortens its step does not block the
others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_HISTORY_SIZE = 10
_ARMIJO = 1e-4  # sufficient decrease, as a share of the decrease that the gradient predicts
_ROUNDING = 1e-6  # relative increase of the loss that float32 may cause
_SHORTEST, _LONGEST = 0.1, 0.5  # next step length after a failed one, as a share of it
_MIN_STEP = 1e-4  # below it the history is discarded
_MIN_COSINE = 1e-6  # of a step and its gradient change; a smaller one can be due to rounding
_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Minima:
    """Best points so far, one for each row.

    Attributes:
        points: float32 [B, D].
        losses: float32 [B].
    """

    points: Tensor
    losses: Tensor


def minimize(
    loss: Callable[[Tensor], Tensor], start: Tensor, first_step: float = 0.1
) -> Iterator[Minima]:
    """Yield the best points after each evaluation of the loss, without end.

    Args:
        loss: differentiable, [B, D] to [B]; a row's loss depends only on that row.
        start: float32 [B, D].
        first_step: root mean square of the first step's values.
    """
    state = _State(start, first_step)
    while True:
        trial = state.trial().requires_grad_()
        losses = loss(trial)
        (gradients,) = torch.autograd.grad(losses.sum(), trial)
        state.advance(trial.detach(), losses.detach(), gradients)
        yield Minima(state.points, state.losses)


class _State:
    """Points, gradients, search directions, step lengths and histories of all rows."""

    def __init__(self, start: Tensor, first_step: float) -> None:
        rows, size = start.shape
        self.first_norm = first_step * size**0.5
        self.points = start.detach().clone()
        self.losses = start.new_full((rows,), torch.inf)
        self.gradients = torch.zeros_like(self.points)
        self.directions = torch.zeros_like(self.points)
        self.lengths = start.new_ones(rows)
        self.steps = start.new_zeros(_HISTORY_SIZE, rows, size)
        self.changes = torch.zeros_like(self.steps)
        self.curvatures = start.new_zeros(_HISTORY_SIZE, rows)  # 1 / (s y); 0 for no entry

    def trial(self) -> Tensor:
        """Return the points to evaluate next."""
        return self.points + self.lengths[:, None] * self.directions

    def advance(self, trial: Tensor, losses: Tensor, gradients: Tensor) -> None:
        """Accept the trial of each row or shorten its step."""
        slope = (self.gradients * self.directions).sum(1)
        predicted = self.lengths * slope
        limit = self.losses + _ARMIJO * predicted + _ROUNDING * self.losses.abs()
        finite = losses.isfinite() & gradients.isfinite().all(1)
        first = self.losses.isinf()
        accepted = finite & (first | (losses <= limit))
        self._shorten(~accepted, losses - self.losses - predicted, predicted)
        self._store(accepted & ~first, trial, gradients)
        rows = accepted[:, None]
        self.points = torch.where(rows, trial, self.points)
        self.gradients = torch.where(rows, gradients, self.gradients)
        self.losses = torch.where(accepted, losses, self.losses)
        stuck = self.lengths < _MIN_STEP
        self.curvatures = torch.where(stuck, 0, self.curvatures)
        moved = accepted | stuck
        self.directions = torch.where(moved[:, None], self._quasi_newton(), self.directions)
        self.lengths = torch.where(moved, 1, self.lengths)

    def _shorten(self, rows: Tensor, excess: Tensor, predicted: Tensor) -> None:
        """Set the step of rows to the minimum of the parabola through both losses."""
        share = torch.nan_to_num(-predicted / (2 * excess), nan=_SHORTEST)
        shorter = self.lengths * share.clamp(_SHORTEST, _LONGEST)
        self.lengths = torch.where(rows, shorter, self.lengths)

    def _store(self, rows: Tensor, trial: Tensor, gradients: Tensor) -> None:
        """Append the step and the gradient change of rows, unless the curvature is negative."""
        step, change = trial - self.points, gradients - self.gradients
        product = (step * change).sum(1)
        stored = rows & (product > _MIN_COSINE * step.norm(dim=1) * change.norm(dim=1))
        curvature = 1 / product.clamp(min=_TINY)
        for history, new in (
            (self.steps, step),
            (self.changes, change),
            (self.curvatures, curvature),
        ):
            shifted = torch.cat([history[1:, stored], new[None, stored]])
            history[:, stored] = shifted

    def _quasi_newton(self) -> Tensor:
        """Return the search directions of the two-loop recursion."""
        result, factors = -self.gradients, []
        history = list(zip(self.steps, self.changes, self.curvatures, strict=True))
        for step, change, curvature in reversed(history):
            factor = curvature * (step * result).sum(1)
            result = result - factor[:, None] * change
            factors.append(factor)
        result = result * self._initial_scale()[:, None]
        for (step, change, curvature), factor in zip(history, reversed(factors), strict=True):
            correction = factor - curvature * (change * result).sum(1)
            result = result + correction[:, None] * step
        return result

    def _initial_scale(self) -> Tensor:
        """Return the factor of each row's initial inverse Hessian."""
        latest, curvature = self.changes[-1], self.curvatures[-1]
        scale = 1 / (curvature * latest.square().sum(1)).clamp(min=_TINY)
        first = self.first_norm / self.gradients.norm(dim=1).clamp(min=_TINY)
        return torch.where(curvature > 0, scale, first)
