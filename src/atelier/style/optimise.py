"""L-BFGS for a batch of pictures: each has its own steps and its own memory.

Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4, with four turns for painting.
Its first guess of the inverse Hessian has a factor for every band of colour and frequency, told
from the steps it remembers. A step costs one evaluation unless it failed. And nothing waits for
the device: what differs between pictures is chosen by masks.

Where a canvas has bounds, steps are projected on them, and colours that press against a bound
take no part until they turn (Bertsekas 1982, "Projected Newton methods for optimization problems
with simple constraints", SIAM J. Control and Optimization 20).
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from atelier.style.bounds import Bounds, no_bounds
from atelier.style.spectrum import Spectrum

# Each step that is remembered costs the memory of two pictures; twice as many gained nothing.
_STEPS_REMEMBERED = 10

# Root mean square of the first step, of colours from 0 to 1.
FIRST_STEP = 0.02
# A step fails where the loss is this much above the lowest so far. bfloat16 rounds the loss by a
# thousandth, which must not turn good steps away: a step near the end gains less than that.
_TOLERANCE = 0.02
# A step this short is given up, and the memory with it.
_SHORTEST = 1e-3
# Cosine of a step and the gradient's change below which rounding may have made it.
_FLAT = 1e-6
# What each step keeps of the earlier ones' say in the bands' factors.
_KEPT = 0.9
# Steps before the bands have factors of their own.
_STEPS_TOLD = 6
_TINY = 1e-30

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


class Lbfgs:
    """Pictures on their way down; :attr:`canvas` never gets worse and never leaves its bounds."""

    def __init__(
        self,
        canvas: Tensor,
        evaluate: Evaluate,
        bounds: Bounds | None = None,
        first_step: float = FIRST_STEP,
    ) -> None:
        """Begin.

        Args:
            canvas: float32 ``[B, 3, H, W]``, where to start, within the bounds.
            evaluate: gives the losses ``[B]`` of pictures and their gradients ``[B, 3, H, W]``.
            bounds: between which every value stays; none if not given.
            first_step: root mean square of the first step.
        """
        self._evaluate, self._spectrum = evaluate, Spectrum(canvas)
        self._bounds = bounds or no_bounds(canvas)
        self._first_step = first_step
        self._taken = 0
        self.canvas = canvas
        self._lowest = canvas.new_full((len(canvas),), torch.inf)
        self._place = canvas
        self._loss = self._lowest
        self._gradient = torch.zeros_like(canvas)
        self._direction = torch.zeros_like(canvas)
        self._slope = torch.zeros_like(self._loss)
        self._length = torch.ones_like(self._loss)
        self._scale = torch.ones_like(self._loss)
        self._steps = canvas.new_zeros(_STEPS_REMEMBERED, *canvas.shape)
        self._changes = torch.zeros_like(self._steps)
        # 1 / <step, change>; 0 where nothing is remembered, which takes no part.
        self._curvature = canvas.new_zeros(_STEPS_REMEMBERED, len(canvas))
        self._moved = canvas.new_zeros(len(canvas), 3, self._spectrum.bands)
        self._changed = torch.zeros_like(self._moved)

    def advance(self, evaluations: int) -> None:
        """Evaluate so often; a step that failed is tried again, shorter."""
        for _ in range(evaluations):
            self._step()

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, but for the canvas."""
        held = {name.removeprefix("_"): getattr(self, name) for name in self._held()}
        return {**held, "taken": torch.tensor(self._taken)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for name in self._held():
            setattr(self, name, state[name.removeprefix("_")].to(self.canvas.device))
        self._taken = int(state["taken"])

    def _held(self) -> list[str]:
        return [n for n, value in vars(self).items() if isinstance(value, Tensor) and n != "canvas"]

    def _step(self) -> None:
        place = self._bounds.nearest(self._place + _each(self._length) * self._direction)
        step = place - self._place
        loss, gradient = self._evaluate(place)
        # The first evaluation is of the canvas itself: its loss was infinite, its step is zero.
        # What is not finite is no place to be: the step is tried again, shorter.
        known = loss.isfinite() & gradient.flatten(1).isfinite().all(1)
        fine = known & (loss <= self._lowest * (1 + _TOLERANCE))
        better = known & (loss < self._lowest)
        self.canvas = torch.where(_each(better), place, self.canvas)
        self._lowest = torch.where(better, loss, self._lowest)
        self._length = torch.where(fine, 1.0, self._shorter(loss))
        self._remember(
            torch.where(_each(fine), step, 0),
            torch.where(_each(fine), gradient - self._gradient, 0),
        )
        self._place = torch.where(_each(fine), place, self._place)
        self._loss = torch.where(fine, loss, self._loss)
        self._gradient = torch.where(_each(fine), gradient, self._gradient)
        self._turn(fine)

    def _shorter(self, loss: Tensor) -> Tensor:
        """Where the parabola through what is known is lowest: a tenth to a half of the step."""
        fall = self._length * self._slope
        lowest = -0.5 * fall / (loss - self._loss - fall)
        return self._length * lowest.nan_to_num(0.1).clamp(0.1, 0.5)

    def _remember(self, step: Tensor, change: Tensor) -> None:
        """Keep a step and how it changed the gradient, unless the curvature is not positive."""
        slot = self._taken % _STEPS_REMEMBERED
        product = _dot(step, change)
        known = product > _FLAT * _dot(step, step).sqrt() * _dot(change, change).sqrt()
        curvature = torch.where(known, 1 / product, 0)
        self._steps[slot], self._changes[slot], self._curvature[slot] = step, change, curvature
        self._taken += 1
        self._learn(self._spectrum.of(step), self._spectrum.of(change), curvature)

    def _learn(self, step: Tensor, change: Tensor, curvature: Tensor) -> None:
        """Tell from the spectra of a step and its change how far each band wants to move."""
        known = curvature > 0
        keep, weight = torch.where(known, _KEPT, 1.0), curvature
        self._moved = _rows(keep) * self._moved + _rows(weight) * self._spectrum.energies(step)
        self._changed = _rows(keep) * self._changed + _rows(weight) * self._spectrum.energies(
            change
        )
        smooth = self._spectrum.times(change, self._factors())
        scale = 1 / (curvature * self._spectrum.product(change, smooth))
        self._scale = torch.where(known, scale, self._scale)

    def _factors(self) -> Tensor:
        """How far a band moves for a change of its gradient, ``[B, 3, bands]``.

        The geometric mean of the two answers of Barzilai and Borwein 1988, "Two-point step size
        gradient methods", each of the band's part of the remembered steps.
        """
        if self._taken <= _STEPS_TOLD:
            return torch.ones_like(self._moved)
        return ((self._moved + _TINY) / (self._changed + _TINY)).sqrt()

    def _turn(self, fine: Tensor) -> None:
        """Where to go next: on from a fine place, or along the same line again."""
        if self._taken == 1:
            size = self._gradient.square().mean((1, 2, 3)).sqrt()
            self._scale = self._first_step / size.clamp(min=_TINY)
        # A line on which nothing is fine comes of memories that no longer hold.
        stuck = self._length < _SHORTEST
        self._curvature = torch.where(stuck, 0, self._curvature)
        self._length = torch.where(stuck, 1, self._length)
        free = self._bounds.free(self._place, self._gradient)
        gradient = self._gradient * free
        direction = -self._inverse_hessian(gradient) * free
        downhill = _dot(direction, gradient) < 0
        direction = torch.where(_each(downhill), direction, -self._guess(gradient) * free)
        self._direction = torch.where(_each(fine | stuck), direction, self._direction)
        self._slope = _dot(self._direction, self._gradient)

    def _inverse_hessian(self, gradient: Tensor) -> Tensor:
        """L-BFGS's two loops: backward through the memory, and forward."""
        filled = min(self._taken, _STEPS_REMEMBERED)
        newest_first = [(self._taken - 1 - age) % _STEPS_REMEMBERED for age in range(filled)]
        parts = {}
        for slot in newest_first:
            parts[slot] = self._curvature[slot] * _dot(self._steps[slot], gradient)
            gradient = gradient - _each(parts[slot]) * self._changes[slot]
        product = self._guess(gradient)
        for slot in reversed(newest_first):
            part = parts[slot] - self._curvature[slot] * _dot(self._changes[slot], product)
            product = product + _each(part) * self._steps[slot]
        return product

    def _guess(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian that knows of no single step, only of bands."""
        spectrum = self._spectrum
        by_band = spectrum.back(spectrum.times(spectrum.of(gradient), self._factors()))
        return _each(self._scale) * by_band


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each picture ``[B, 3, H, W]`` with its partner, ``[B]``."""
    products: Tensor = torch.linalg.vecdot(one.flatten(1), other.flatten(1))
    return products


def _each(numbers: Tensor) -> Tensor:
    """One number a picture, ``[B]``, shaped to meet pictures."""
    return numbers.view(-1, 1, 1, 1)


def _rows(numbers: Tensor) -> Tensor:
    """One number a picture, ``[B]``, shaped to meet bands ``[B, 3, bands]``."""
    return numbers.view(-1, 1, 1)
