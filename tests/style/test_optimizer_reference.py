"""L-BFGS against a reference in float64 with dense matrices, one image at a time."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.style.bounds import Bounds, bounds_for
from atelier.style.spectral_lbfgs import FIRST_STEP, SpectralLbfgs, Spectrum

Floats = NDArray[np.float64]
Function = Callable[[Tensor], tuple[Tensor, Tensor]]
SHAPE = (3, 4, 6)
SIZE = math.prod(SHAPE)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _band_maps() -> list[Floats]:
    """Return the maps [SIZE, SIZE] of all colors and bands.

    The logarithm of a linear map is their sum, weighted by the logarithms of the band factors.
    """
    height, width = SHAPE[1:]
    count = max(2, round(math.log2(max(height, width))))
    colors = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], float)
    colors /= np.linalg.norm(colors, axis=1, keepdims=True)
    vertical = np.arange(height)[:, None] * np.arange(height) / height
    horizontal = np.arange(width)[:, None] * np.arange(width) / width
    fourier = np.kron(np.exp(-2j * np.pi * vertical), np.exp(-2j * np.pi * horizontal))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)).ravel()
    octave = np.log2(np.maximum(frequency, 1 / max(height, width))) + count
    octave = np.clip(octave, 0, count - 1)
    maps = []
    for color in colors:
        for band in range(count):
            band_weight = np.clip(1 - np.abs(octave - band), 0, None)
            spatial = (fourier.conj().T * band_weight) @ fourier / (height * width)
            maps.append(np.kron(np.outer(color, color), spatial.real))
    return maps


_MAPS = _band_maps()


class Reference:
    """Optimizer of one image with a dense inverse Hessian and a list of steps."""

    def __init__(self, start: Floats, function: Function, low: float, high: float) -> None:
        self.function, self.low, self.high = function, low, high
        self.iterate = self.best = start
        self.direction, self.gradient = np.zeros(SIZE), np.zeros(SIZE)
        self.loss = self.best_loss = math.inf
        self.directional_derivative, self.step_size, self.scale = 0.0, 1.0, 1.0
        self.pairs: list[tuple[Floats, Floats, float]] = []
        self.step_energy, self.gradient_energy = np.zeros(len(_MAPS)), np.zeros(len(_MAPS))

    def initial_hessian(self) -> Floats:
        """Return the initial inverse Hessian from the factors of all bands."""
        log = np.zeros((SIZE, SIZE))
        if len(self.pairs) > 6:
            factors = np.sqrt((self.step_energy + 1e-30) / (self.gradient_energy + 1e-30))
            log = sum(
                math.log(factor) * band_map for factor, band_map in zip(factors, _MAPS, strict=True)
            )
        eigenvalues, eigenvectors = np.linalg.eigh(log)
        return (eigenvectors * np.exp(eigenvalues)) @ eigenvectors.T

    def inverse_hessian(self) -> Floats:
        """Return the product form of the BFGS update over the last ten steps."""
        matrix = self.scale * self.initial_hessian()
        for step, change, curvature in self.pairs[-10:]:
            if curvature:
                left = np.eye(SIZE) - curvature * np.outer(step, change)
                matrix = left @ matrix @ left.T + curvature * np.outer(step, step)
        return matrix

    def evaluate(self, iterate: Floats) -> tuple[float, Floats]:
        loss, gradient = self.function(torch.from_numpy(iterate.reshape(1, *SHAPE)))
        return float(loss), gradient.numpy().ravel().copy()

    def store_pair(self, step: Floats, change: Floats) -> None:
        product = step @ change
        if not product > 1e-6 * np.linalg.norm(step) * np.linalg.norm(change):
            self.pairs.append((step, change, 0.0))
            return
        self.pairs.append((step, change, 1 / product))
        energies = [
            np.array([vector @ band_map @ vector for band_map in _MAPS])
            for vector in (step, change)
        ]
        self.step_energy = 0.9 * self.step_energy + energies[0] / product
        self.gradient_energy = 0.9 * self.gradient_energy + energies[1] / product
        self.scale = product / (change @ self.initial_hessian() @ change)

    def step(self) -> None:
        iterate = np.clip(self.iterate + self.step_size * self.direction, self.low, self.high)
        loss, gradient = self.evaluate(iterate)
        finite = math.isfinite(loss) and bool(np.isfinite(gradient).all())
        accepted = finite and loss <= self.best_loss * 1.02
        if finite and loss < self.best_loss:
            self.best, self.best_loss = iterate, loss
        if accepted:
            self.store_pair(iterate - self.iterate, gradient - self.gradient)
            self.iterate, self.loss, self.gradient, self.step_size = iterate, loss, gradient, 1.0
        else:
            predicted_change = self.step_size * self.directional_derivative
            with np.errstate(all="ignore"):
                minimum = -0.5 * predicted_change / np.float64(loss - self.loss - predicted_change)
            minimum = 0.1 if math.isnan(minimum) else min(max(minimum, 0.1), 0.5)
            self.step_size *= minimum
            self.pairs.append((np.zeros(SIZE), np.zeros(SIZE), 0.0))
        if len(self.pairs) == 1:
            self.scale = FIRST_STEP / max(math.sqrt(np.mean(self.gradient**2)), 1e-30)
        stalled = self.step_size < 1e-3
        if stalled:
            self.pairs = [(step, change, 0.0) for step, change, _ in self.pairs]
            self.step_size = 1.0
        if accepted or stalled:
            self.update_direction()
        self.directional_derivative = self.direction @ self.gradient

    def update_direction(self) -> None:
        blocked = (self.iterate >= self.high) & (self.gradient < 0)
        blocked |= (self.iterate <= self.low) & (self.gradient > 0)
        gradient = np.where(blocked, 0, self.gradient)
        direction = np.where(blocked, 0, -self.inverse_hessian() @ gradient)
        if direction @ gradient >= 0:
            direction = np.where(blocked, 0, -self.scale * self.initial_hessian() @ gradient)
        self.direction = direction


def _noise(seed: int) -> Tensor:
    return torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(seed))


def _quadratic(images: Tensor) -> tuple[Tensor, Tensor]:
    """Quadratic loss with a different curvature for every value."""
    weights = _noise(1).exp()[: len(images)]
    difference = images - 0.5 * _noise(2)[:1]
    return 0.5 * (weights[:1] * difference.square()).sum((1, 2, 3)), weights[:1] * difference


def _with_gradient(values: Callable[[Tensor], Tensor]) -> Function:
    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        with torch.enable_grad():
            loss = values(leaf).sum((1, 2, 3))
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    return function


# Negative curvature and many local minima, so that steps fail and pairs are rejected.
_waves = _with_gradient(
    lambda x: 60 + 3 * x.square() + torch.sin(9 * x) - torch.cos(5 * x.roll(1, 3))
)
# Infinite at the border of the domain, which no step may leave.
_pole = _with_gradient(lambda x: -torch.log(1 - x.square()) + 8 * x * _noise(5)[:1])
# Starts between two minima, where curvature is negative and no pair may be stored.
_ridge = _with_gradient(lambda x: 1 + x**4 / 4 - x.square() / 2 + 0.01 * x * _noise(5)[:1])


def _nan_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Quadratic loss whose gradient is NaN near the minimum."""
    loss, gradient = _quadratic(images)
    return loss, torch.where(loss.view(-1, 1, 1, 1) < 12, torch.nan, gradient)


# Steep at the start, so that the first step is too long and fails often.
_steep = _with_gradient(lambda x: torch.cosh(150 * x) - x)


@pytest.mark.parametrize(
    ("function", "scale", "limit", "steps"),
    [
        (_quadratic, 1.0, math.inf, 26),
        (_quadratic, 0.2, 0.3, 20),
        (_waves, 1.0, math.inf, 24),
        (_waves, 0.5, 0.6, 24),
        (_pole, 0.25, math.inf, 20),
        (_steep, 0.02, math.inf, 24),
        (_ridge, 0.05, math.inf, 16),
        (_nan_gradient, 1.0, math.inf, 36),
    ],
    ids=["bowl", "bounded bowl", "waves", "bounded waves", "pole", "steep", "ridge", "hole"],
)
def test_every_step_equals_the_dense_reference(
    function: Function, scale: float, limit: float, steps: int
) -> None:
    """Compare evaluated and best images of a batch of two with a reference for each."""
    start = (scale * _noise(3)).clamp(-limit, limit)
    if function is _pole:
        start = start.clamp(-0.95, 0.95)
    evaluated: list[Tensor] = []

    def evaluate(images: Tensor) -> tuple[Tensor, Tensor]:
        evaluated.append(images.clone())
        return function(images)

    bounds: Bounds | None = None if math.isinf(limit) else bounds_for(-limit, limit, start)
    lbfgs = SpectralLbfgs(start, evaluate, bounds)
    references = [Reference(image.numpy().ravel(), function, -limit, limit) for image in start]
    for number in range(steps):
        lbfgs.advance(1)
        for index, reference in enumerate(references):
            expected = np.clip(
                reference.iterate + reference.step_size * reference.direction, -limit, limit
            )
            image = evaluated[number][index].numpy().ravel()
            np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-7, err_msg=str(number))
            reference.step()
            best = lbfgs.image[index].numpy().ravel()
            np.testing.assert_allclose(best, reference.best, rtol=1e-5, atol=1e-7)


def test_first_step_has_the_requested_length() -> None:
    for first_step in (FIRST_STEP, 0.1 * FIRST_STEP):
        evaluated: list[Tensor] = []

        def evaluate(images: Tensor, evaluated: list[Tensor] = evaluated) -> tuple[Tensor, Tensor]:
            evaluated.append(images)
            return _quadratic(images)

        SpectralLbfgs(_noise(3), evaluate, first_step=first_step).advance(2)
        rms = (evaluated[1] - evaluated[0]).square().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(rms, torch.full((2,), first_step))
    assert FIRST_STEP == 0.02


def test_zero_gradient_leaves_the_image_unchanged() -> None:
    lbfgs = SpectralLbfgs(_noise(3), lambda images: (torch.ones(2), torch.zeros_like(images)))
    lbfgs.advance(4)
    assert torch.equal(lbfgs.image, _noise(3))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 3), (16, 2)])
def test_band_energies_equal_those_of_the_full_fourier_transform(height: int, width: int) -> None:
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    spectrum = Spectrum(images)
    colors = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    transformed = np.fft.fft2(np.einsum("ij,bjhw->bihw", colors, images.numpy()))
    squares = np.abs(transformed) ** 2 / (height * width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    count = max(2, round(math.log2(max(height, width))))
    assert spectrum.bands == count
    octave = np.log2(np.maximum(frequency, 1 / max(height, width))) + count
    octave = np.clip(octave, 0, count - 1)
    energies = [
        (squares * np.clip(1 - np.abs(octave - band), 0, None)).sum((2, 3)) for band in range(count)
    ]
    band_energies = spectrum.band_energies(spectrum.forward(images)).numpy()
    np.testing.assert_allclose(band_energies, np.stack(energies, axis=2), rtol=1e-6, atol=1e-9)
