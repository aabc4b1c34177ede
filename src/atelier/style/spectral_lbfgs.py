"""L-BFGS for a batch of pictures: each has its own steps and its own memory.

Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4, with four turns for painting.
Its first guess of the inverse Hessian has a factor for every band of colour and frequency, told
from the steps it remembers. A step costs one evaluation unless it failed. And nothing waits for
the device: what differs between pictures is chosen by masks.

Where a canvas has bounds, steps are projected on them, and colours that press against a bound
take no part until they turn (Bertsekas 1982, "Projected Newton methods for optimization problems
with simple constraints", SIAM J. Control and Optimization 20).
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from atelier.style.problem import Bounds, unbounded

# Lightness, and two differences of colour; orthonormal rows.
_OPPONENT = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))


class Spectrum:
    """Pictures of one size by opponent colour and octave of frequency.

    Style and content bend the loss unlike in colour and lightness, in large shapes and in grain.
    Within a band of one octave they bend it much alike.
    """

    def __init__(self, pictures: Tensor) -> None:
        """For pictures of this size, float32 ``[B, 3, H, W]``, on their device."""
        device = pictures.device
        height, width = self._size = pictures.shape[2:]
        self._colors = torch.tensor(_OPPONENT, device=device)
        down = torch.fft.fftfreq(height, device=device)[:, None]
        across = torch.fft.rfftfreq(width, device=device)
        frequency = torch.hypot(down, across).clamp(min=1 / max(height, width)).flatten()
        self.bands = max(2, round(math.log2(max(height, width))))
        # 0 is the octave of the longest wave, and the last that of the shortest.
        place = (frequency.log2() + self.bands).clamp(0, self.bands - 1)
        octaves = torch.arange(self.bands, device=device)[:, None]
        self._shares = (1 - (place - octaves).abs()).clamp(min=0)  # [bands, frequencies]
        # Of a real picture half of the frequencies is kept; the columns between count twice.
        twice = torch.full_like(across, 2.0)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        self._counts = twice.expand(height, -1).flatten() / (height * width)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return complex64 ``[B, 3, frequencies]``, by opponent colour."""
        colors = torch.einsum("ij,bjhw->bihw", self._colors, pictures)
        spectra: Tensor = torch.fft.rfft2(colors)
        return spectra.flatten(2)

    def inverse(self, spectra: Tensor) -> Tensor:
        """Return the pictures of :meth:`of`."""
        height, width = self._size
        colors = torch.fft.irfft2(spectra.unflatten(2, (height, -1)), s=(height, width))
        return torch.einsum("ij,bihw->bjhw", self._colors, colors)

    def band_energies(self, spectra: Tensor) -> Tensor:
        """Return the squared length of every band's part of the pictures, ``[B, 3, bands]``."""
        squares = torch.view_as_real(spectra).square().sum(-1) * self._counts
        return squares @ self._shares.T

    def scale_bands(self, spectra: Tensor, factors: Tensor) -> Tensor:
        """Multiply by positive factors of bands, ``[B, 3, bands]``, spread over frequencies."""
        return spectra * (factors.log() @ self._shares).exp()

    def inner(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the inner products of the pictures of two spectra, ``[B]``."""
        real = (torch.view_as_real(one) * torch.view_as_real(other)).sum(-1)
        return (real * self._counts).sum((1, 2))


# Each step that is remembered costs the memory of two pictures; twice as many gained nothing.
_HISTORY_SIZE = 10

# Root mean square of the first step, of colours from 0 to 1.
FIRST_STEP = 0.02
# A step fails where the loss is this much above the lowest so far. bfloat16 rounds the loss by a
# thousandth, which must not turn good steps away: a step near the end gains less than that.
_TOLERANCE = 0.02
# A step this short is given up, and the memory with it.
_MIN_STEP = 1e-3
# Cosine of a step and the gradient's change below which rounding may have made it.
_MIN_COSINE = 1e-6
# What each step keeps of the earlier ones' say in the bands' factors.
_SPECTRUM_DECAY = 0.9
# Steps before the bands have factors of their own.
_SPECTRUM_WARM_UP = 6
_EPSILON = 1e-30

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]


class SpectralLbfgs:
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
        self._bounds = bounds or unbounded(canvas)
        self._first_step = first_step
        self._step_count = 0
        self.image = canvas
        self._lowest = canvas.new_full((len(canvas),), torch.inf)
        self._current = canvas
        self._loss = self._lowest
        self._gradient = torch.zeros_like(canvas)
        self._direction = torch.zeros_like(canvas)
        self._slope = torch.zeros_like(self._loss)
        self._length = torch.ones_like(self._loss)
        self._scale = torch.ones_like(self._loss)
        self._steps = canvas.new_zeros(_HISTORY_SIZE, *canvas.shape)
        self._changes = torch.zeros_like(self._steps)
        # 1 / <step, change>; 0 where nothing is remembered, which takes no part.
        self._curvature = canvas.new_zeros(_HISTORY_SIZE, len(canvas))
        self._step_energies = canvas.new_zeros(len(canvas), 3, self._spectrum.bands)
        self._change_energies = torch.zeros_like(self._step_energies)

    def advance(self, evaluations: int) -> None:
        """Evaluate so often; a step that failed is tried again, shorter."""
        for _ in range(evaluations):
            self._step()

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, but for the canvas."""
        held = {name.removeprefix("_"): getattr(self, name) for name in self._state_names()}
        return {**held, "taken": torch.tensor(self._step_count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for name in self._state_names():
            setattr(self, name, state[name.removeprefix("_")].to(self.image.device))
        self._step_count = int(state["taken"])

    def _state_names(self) -> list[str]:
        return [n for n, value in vars(self).items() if isinstance(value, Tensor) and n != "canvas"]

    def _step(self) -> None:
        place = self._bounds.clamp(self._current + _per_image(self._length) * self._direction)
        step = place - self._current
        loss, gradient = self._evaluate(place)
        # The first evaluation is of the canvas itself: its loss was infinite, its step is zero.
        # What is not finite is no place to be: the step is tried again, shorter.
        known = loss.isfinite() & gradient.flatten(1).isfinite().all(1)
        fine = known & (loss <= self._lowest * (1 + _TOLERANCE))
        better = known & (loss < self._lowest)
        self.image = torch.where(_per_image(better), place, self.image)
        self._lowest = torch.where(better, loss, self._lowest)
        self._length = torch.where(fine, 1.0, self._shorten(loss))
        self._store_pair(
            torch.where(_per_image(fine), step, 0),
            torch.where(_per_image(fine), gradient - self._gradient, 0),
        )
        self._current = torch.where(_per_image(fine), place, self._current)
        self._loss = torch.where(fine, loss, self._loss)
        self._gradient = torch.where(_per_image(fine), gradient, self._gradient)
        self._next_direction(fine)

    def _shorten(self, loss: Tensor) -> Tensor:
        """Where the parabola through what is known is lowest: a tenth to a half of the step."""
        fall = self._length * self._slope
        lowest = -0.5 * fall / (loss - self._loss - fall)
        return self._length * lowest.nan_to_num(0.1).clamp(0.1, 0.5)

    def _store_pair(self, step: Tensor, change: Tensor) -> None:
        """Keep a step and how it changed the gradient, unless the curvature is not positive."""
        slot = self._step_count % _HISTORY_SIZE
        product = _dot(step, change)
        known = product > _MIN_COSINE * _dot(step, step).sqrt() * _dot(change, change).sqrt()
        curvature = torch.where(known, 1 / product, 0)
        self._steps[slot], self._changes[slot], self._curvature[slot] = step, change, curvature
        self._step_count += 1
        self._update_spectrum(
            self._spectrum.forward(step), self._spectrum.forward(change), curvature
        )

    def _update_spectrum(self, step: Tensor, change: Tensor, curvature: Tensor) -> None:
        """Tell from the spectra of a step and its change how far each band wants to move."""
        known = curvature > 0
        keep, weight = torch.where(known, _SPECTRUM_DECAY, 1.0), curvature
        self._step_energies = _per_band(keep) * self._step_energies + _per_band(
            weight
        ) * self._spectrum.band_energies(step)
        self._change_energies = _per_band(keep) * self._change_energies + _per_band(
            weight
        ) * self._spectrum.band_energies(change)
        smooth = self._spectrum.scale_bands(change, self._factors())
        scale = 1 / (curvature * self._spectrum.inner(change, smooth))
        self._scale = torch.where(known, scale, self._scale)

    def _factors(self) -> Tensor:
        """How far a band moves for a change of its gradient, ``[B, 3, bands]``.

        The geometric mean of the two answers of Barzilai and Borwein 1988, "Two-point step size
        gradient methods", each of the band's part of the remembered steps.
        """
        if self._step_count <= _SPECTRUM_WARM_UP:
            return torch.ones_like(self._step_energies)
        return ((self._step_energies + _EPSILON) / (self._change_energies + _EPSILON)).sqrt()

    def _next_direction(self, fine: Tensor) -> None:
        """Where to go next: on from a fine place, or along the same line again."""
        if self._step_count == 1:
            size = self._gradient.square().mean((1, 2, 3)).sqrt()
            self._scale = self._first_step / size.clamp(min=_EPSILON)
        # A line on which nothing is fine comes of memories that no longer hold.
        stuck = self._length < _MIN_STEP
        self._curvature = torch.where(stuck, 0, self._curvature)
        self._length = torch.where(stuck, 1, self._length)
        free = self._bounds.free_mask(self._current, self._gradient)
        gradient = self._gradient * free
        direction = -self._inverse_hessian(gradient) * free
        downhill = _dot(direction, gradient) < 0
        direction = torch.where(
            _per_image(downhill), direction, -self._initial_hessian(gradient) * free
        )
        self._direction = torch.where(_per_image(fine | stuck), direction, self._direction)
        self._slope = _dot(self._direction, self._gradient)

    def _inverse_hessian(self, gradient: Tensor) -> Tensor:
        """L-BFGS's two loops: backward through the memory, and forward."""
        filled = min(self._step_count, _HISTORY_SIZE)
        newest_first = [(self._step_count - 1 - age) % _HISTORY_SIZE for age in range(filled)]
        parts = {}
        for slot in newest_first:
            parts[slot] = self._curvature[slot] * _dot(self._steps[slot], gradient)
            gradient = gradient - _per_image(parts[slot]) * self._changes[slot]
        product = self._initial_hessian(gradient)
        for slot in reversed(newest_first):
            part = parts[slot] - self._curvature[slot] * _dot(self._changes[slot], product)
            product = product + _per_image(part) * self._steps[slot]
        return product

    def _initial_hessian(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian that knows of no single step, only of bands."""
        spectrum = self._spectrum
        by_band = spectrum.inverse(
            spectrum.scale_bands(spectrum.forward(gradient), self._factors())
        )
        return _per_image(self._scale) * by_band


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each picture ``[B, 3, H, W]`` with its partner, ``[B]``."""
    products: Tensor = torch.linalg.vecdot(one.flatten(1), other.flatten(1))
    return products


def _per_image(numbers: Tensor) -> Tensor:
    """One number a picture, ``[B]``, shaped to meet pictures."""
    return numbers.view(-1, 1, 1, 1)


def _per_band(numbers: Tensor) -> Tensor:
    """One number a picture, ``[B]``, shaped to meet bands ``[B, 3, bands]``."""
    return numbers.view(-1, 1, 1)
