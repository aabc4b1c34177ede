"""L-BFGS for a batch of images, with a diagonal initial Hessian in the frequency domain.

Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4, with four differences:

- The initial inverse Hessian has a factor for each color channel and frequency band, estimated
  from the stored steps.
- There is no line search. A step costs one evaluation unless it fails.
- Each image of the batch has its own steps and history.
- Nothing synchronizes the device. Differences between images are expressed by masks.

With bounds, steps are projected onto them. Values at a bound whose gradient points outward are
fixed (Bertsekas 1982, "Projected Newton methods for optimization problems with simple
constraints", SIAM J. Control and Optimization 20).
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from atelier.style.bounds import Bounds, unbounded

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

# Root mean square of the first step, for colors from 0 to 1.
FIRST_STEP = 0.02

# Orthonormal rows: luminance and two color differences.
_OPPONENT_COLORS = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
# Each stored step takes the memory of two images. Measured: twice as many gain nothing.
_HISTORY_SIZE = 10
# A step fails if the loss exceeds the lowest so far by this fraction. bfloat16 rounds the loss by
# about 0.001, and steps near the minimum gain less than that. They must not fail.
_TOLERANCE = 0.02
# At a shorter step length the history is discarded.
_MIN_STEP = 1e-3
# A smaller cosine between a step and its gradient change can be due to rounding.
_MIN_COSINE = 1e-6
# Decay per step of the energies from which the bands' factors are estimated.
_SPECTRUM_DECAY = 0.9
# Number of steps before the bands get different factors.
_SPECTRUM_WARM_UP = 6
_EPSILON = 1e-30


class Spectrum:
    """Fourier transform of images of one size, by opponent color and octave of frequency.

    Style and content losses have different curvatures in luminance and color, and at low and high
    frequencies. Within a band of one octave the curvature is nearly constant.

    Attributes:
        bands: number of octaves, from the lowest to the highest frequency.
    """

    def __init__(self, images: Tensor) -> None:
        """Prepare for images of this size, float32 ``[B, 3, H, W]``, on their device."""
        device = images.device
        height, width = self._size = images.shape[2:]
        self._colors = torch.tensor(_OPPONENT_COLORS, device=device)
        vertical = torch.fft.fftfreq(height, device=device)[:, None]
        horizontal = torch.fft.rfftfreq(width, device=device)
        frequency = torch.hypot(vertical, horizontal).clamp(min=1 / max(height, width)).flatten()
        self.bands = max(2, round(math.log2(max(height, width))))
        position = (frequency.log2() + self.bands).clamp(0, self.bands - 1)
        octaves = torch.arange(self.bands, device=device)[:, None]
        # Each frequency is shared by the two nearest bands: [bands, frequencies].
        self._shares = (1 - (position - octaves).abs()).clamp(min=0)
        # The spectrum of a real image is symmetric: the columns between the first and the middle
        # one represent two frequencies each.
        multiplicity = torch.full_like(horizontal, 2.0)
        multiplicity[0] = 1
        if width % 2 == 0:
            multiplicity[-1] = 1
        self._counts = multiplicity.expand(height, -1).flatten() / (height * width)

    def forward(self, images: Tensor) -> Tensor:
        """Return the spectra of images, complex64 ``[B, 3, frequencies]``, by opponent color."""
        colors = torch.einsum("ij,bjhw->bihw", self._colors, images)
        spectra: Tensor = torch.fft.rfft2(colors)
        return spectra.flatten(2)

    def inverse(self, spectra: Tensor) -> Tensor:
        """Return the images ``[B, 3, H, W]`` of spectra from :meth:`forward`."""
        height, width = self._size
        colors = torch.fft.irfft2(spectra.unflatten(2, (height, -1)), s=(height, width))
        return torch.einsum("ij,bihw->bjhw", self._colors, colors)

    def band_energies(self, spectra: Tensor) -> Tensor:
        """Return the squared norm of each band's part of the images, ``[B, 3, bands]``."""
        squares = torch.view_as_real(spectra).square().sum(-1) * self._counts
        return squares @ self._shares.T

    def scale_bands(self, spectra: Tensor, factors: Tensor) -> Tensor:
        """Multiply each band by a positive factor, ``[B, 3, bands]``.

        Factors are interpolated between the bands, in the logarithm.
        """
        return spectra * (factors.log() @ self._shares).exp()

    def inner(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the inner products ``[B]`` of the images of two spectra."""
        real = (torch.view_as_real(one) * torch.view_as_real(other)).sum(-1)
        return (real * self._counts).sum((1, 2))


class SpectralLbfgs:
    """L-BFGS for a batch of images.

    Attributes:
        image: the images with the lowest loss so far, within the bounds, float32
            ``[B, 3, H, W]``.
    """

    def __init__(
        self,
        image: Tensor,
        evaluate: Evaluate,
        bounds: Bounds | None = None,
        first_step: float = FIRST_STEP,
    ) -> None:
        """Start with an empty history.

        Args:
            image: float32 ``[B, 3, H, W]``, the initial images, within the bounds.
            evaluate: returns the losses ``[B]`` of images and their gradients ``[B, 3, H, W]``.
            bounds: limits of every value; none by default.
            first_step: root mean square of the first step.
        """
        self._evaluate, self._spectrum = evaluate, Spectrum(image)
        self._bounds = bounds or unbounded(image)
        self._first_step = first_step
        self._step_count = 0
        self.image = image
        self._lowest = image.new_full((len(image),), torch.inf)
        self._current = image
        self._loss = self._lowest
        self._gradient = torch.zeros_like(image)
        self._direction = torch.zeros_like(image)
        self._slope = torch.zeros_like(self._loss)
        self._length = torch.ones_like(self._loss)
        self._scale = torch.ones_like(self._loss)
        self._steps = image.new_zeros(_HISTORY_SIZE, *image.shape)
        self._changes = torch.zeros_like(self._steps)
        # 1 / <step, change>; 0 for empty entries of the history, which then have no effect.
        self._curvature = image.new_zeros(_HISTORY_SIZE, len(image))
        self._step_energies = image.new_zeros(len(image), 3, self._spectrum.bands)
        self._change_energies = torch.zeros_like(self._step_energies)

    def current_image(self) -> Tensor:
        """Return the images with the lowest loss so far, float32 ``[B, 3, H, W]``."""
        return self.image

    def advance(self, evaluations: int) -> None:
        """Make this number of evaluations; failed steps are shortened and repeated."""
        for _ in range(evaluations):
            self._step()

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on, except :attr:`image`."""
        state = {name.removeprefix("_"): getattr(self, name) for name in self._state_names()}
        return {**state, "taken": torch.tensor(self._step_count)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that :meth:`state` returned."""
        for name in self._state_names():
            setattr(self, name, state[name.removeprefix("_")].to(self.image.device))
        self._step_count = int(state["taken"])

    def _state_names(self) -> list[str]:
        return [n for n, value in vars(self).items() if isinstance(value, Tensor) and n != "image"]

    def _step(self) -> None:
        trial = self._bounds.clamp(self._current + _per_image(self._length) * self._direction)
        step = trial - self._current
        loss, gradient = self._evaluate(trial)
        # The first evaluation is of the initial image: the loss was infinite, and the step is 0.
        # A step to a non-finite loss or gradient fails.
        finite = loss.isfinite() & gradient.flatten(1).isfinite().all(1)
        accepted = finite & (loss <= self._lowest * (1 + _TOLERANCE))
        improved = finite & (loss < self._lowest)
        self.image = torch.where(_per_image(improved), trial, self.image)
        self._lowest = torch.where(improved, loss, self._lowest)
        self._length = torch.where(accepted, 1.0, self._shorten(loss))
        self._store_pair(
            torch.where(_per_image(accepted), step, 0),
            torch.where(_per_image(accepted), gradient - self._gradient, 0),
        )
        self._current = torch.where(_per_image(accepted), trial, self._current)
        self._loss = torch.where(accepted, loss, self._loss)
        self._gradient = torch.where(_per_image(accepted), gradient, self._gradient)
        self._next_direction(accepted)

    def _shorten(self, loss: Tensor) -> Tensor:
        """Return the step length at the minimum of an interpolating parabola.

        It is clamped to between a tenth and a half of the current length.
        """
        slope = self._length * self._slope
        minimum = -0.5 * slope / (loss - self._loss - slope)
        return self._length * minimum.nan_to_num(0.1).clamp(0.1, 0.5)

    def _store_pair(self, step: Tensor, change: Tensor) -> None:
        """Store a step and its gradient change, unless the curvature is not positive."""
        slot = self._step_count % _HISTORY_SIZE
        product = _dot(step, change)
        valid = product > _MIN_COSINE * _dot(step, step).sqrt() * _dot(change, change).sqrt()
        curvature = torch.where(valid, 1 / product, 0)
        self._steps[slot], self._changes[slot], self._curvature[slot] = step, change, curvature
        self._step_count += 1
        self._update_spectrum(
            self._spectrum.forward(step), self._spectrum.forward(change), curvature
        )

    def _update_spectrum(self, step: Tensor, change: Tensor, curvature: Tensor) -> None:
        """Update the bands' energies and the overall scale from the spectra of a step."""
        valid = curvature > 0
        decay, weight = torch.where(valid, _SPECTRUM_DECAY, 1.0), curvature
        self._step_energies = _per_band(decay) * self._step_energies + _per_band(
            weight
        ) * self._spectrum.band_energies(step)
        self._change_energies = _per_band(decay) * self._change_energies + _per_band(
            weight
        ) * self._spectrum.band_energies(change)
        scaled = self._spectrum.scale_bands(change, self._factors())
        scale = 1 / (curvature * self._spectrum.inner(change, scaled))
        self._scale = torch.where(valid, scale, self._scale)

    def _factors(self) -> Tensor:
        """Return the estimated inverse curvature of each band, ``[B, 3, bands]``.

        It is the geometric mean of the two step sizes of Barzilai and Borwein 1988, "Two-point
        step size gradient methods", applied to the band's part of the stored steps.
        """
        if self._step_count <= _SPECTRUM_WARM_UP:
            return torch.ones_like(self._step_energies)
        return ((self._step_energies + _EPSILON) / (self._change_energies + _EPSILON)).sqrt()

    def _next_direction(self, accepted: Tensor) -> None:
        """Choose a new direction for accepted steps; failed ones keep theirs."""
        if self._step_count == 1:
            size = self._gradient.square().mean((1, 2, 3)).sqrt()
            self._scale = self._first_step / size.clamp(min=_EPSILON)
        # If no length along a direction succeeds, the history is outdated.
        stalled = self._length < _MIN_STEP
        self._curvature = torch.where(stalled, 0, self._curvature)
        self._length = torch.where(stalled, 1, self._length)
        free = self._bounds.free_mask(self._current, self._gradient)
        gradient = self._gradient * free
        direction = -self._inverse_hessian(gradient) * free
        descends = _dot(direction, gradient) < 0
        direction = torch.where(
            _per_image(descends), direction, -self._initial_hessian(gradient) * free
        )
        self._direction = torch.where(_per_image(accepted | stalled), direction, self._direction)
        self._slope = _dot(self._direction, self._gradient)

    def _inverse_hessian(self, gradient: Tensor) -> Tensor:
        """Multiply by the inverse Hessian: the two-loop recursion of L-BFGS."""
        filled = min(self._step_count, _HISTORY_SIZE)
        newest_first = [(self._step_count - 1 - age) % _HISTORY_SIZE for age in range(filled)]
        alphas = {}
        for slot in newest_first:
            alphas[slot] = self._curvature[slot] * _dot(self._steps[slot], gradient)
            gradient = gradient - _per_image(alphas[slot]) * self._changes[slot]
        product = self._initial_hessian(gradient)
        for slot in reversed(newest_first):
            beta = alphas[slot] - self._curvature[slot] * _dot(self._changes[slot], product)
            product = product + _per_image(beta) * self._steps[slot]
        return product

    def _initial_hessian(self, gradient: Tensor) -> Tensor:
        """Multiply by the initial inverse Hessian: a factor for each band."""
        spectrum = self._spectrum
        scaled = spectrum.inverse(spectrum.scale_bands(spectrum.forward(gradient), self._factors()))
        return _per_image(self._scale) * scaled


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner products ``[B]`` of two batches ``[B, 3, H, W]``."""
    products: Tensor = torch.linalg.vecdot(one.flatten(1), other.flatten(1))
    return products


def _per_image(values: Tensor) -> Tensor:
    """Reshape ``[B]`` to broadcast over images ``[B, 3, H, W]``."""
    return values.view(-1, 1, 1, 1)


def _per_band(values: Tensor) -> Tensor:
    """Reshape ``[B]`` to broadcast over bands ``[B, 3, bands]``."""
    return values.view(-1, 1, 1)
