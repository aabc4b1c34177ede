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
    """Return log-factor maps [SIZE, SIZE] by color and band: the logarithm of a linear map is
    the sum of each times the logarithm of the band's factor."""
    height, width = SHAPE[1:]
    count = max(2, round(math.log2(max(height, width))))
    colors = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], float)
    colors /= np.linalg.norm(colors, axis=1, keepdims=True)
    down = np.arange(height)[:, None] * np.arange(height) / height
    across = np.arange(width)[:, None] * np.arange(width) / width
    fourier = np.kron(np.exp(-2j * np.pi * down), np.exp(-2j * np.pi * across))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)).ravel()
    octave = np.log2(np.maximum(frequency, 1 / max(height, width))) + count
    octave = np.clip(octave, 0, count - 1)
    maps = []
    for color in colors:
        for band in range(count):
            share = np.clip(1 - np.abs(octave - band), 0, None)
            spatial = (fourier.conj().T * share) @ fourier / (height * width)
            maps.append(np.kron(np.outer(color, color), spatial.real))
    return maps


_MAPS = _band_maps()


class Reference:
    """The optimizer of one image: dense inverse Hessian, steps in a list."""

    def __init__(self, start: Floats, function: Function, low: float, high: float) -> None:
        self.function, self.low, self.high = function, low, high
        self.place = self.canvas = start
        self.direction, self.gradient = np.zeros(SIZE), np.zeros(SIZE)
        self.loss = self.lowest = math.inf
        self.slope, self.length, self.scale = 0.0, 1.0, 1.0
        self.memory: list[tuple[Floats, Floats, float]] = []
        self.moved, self.changed = np.zeros(len(_MAPS)), np.zeros(len(_MAPS))

    def guess(self) -> Floats:
        """Return the dense map that the bands' factors give."""
        log = np.zeros((SIZE, SIZE))
        if len(self.memory) > 6:
            factors = np.sqrt((self.moved + 1e-30) / (self.changed + 1e-30))
            log = sum(math.log(f) * m for f, m in zip(factors, _MAPS, strict=True))
        values, vectors = np.linalg.eigh(log)
        return (vectors * np.exp(values)) @ vectors.T

    def inverse_hessian(self) -> Floats:
        """Return the product form of the BFGS update over the last ten steps."""
        matrix = self.scale * self.guess()
        for step, change, curvature in self.memory[-10:]:
            if curvature:
                left = np.eye(SIZE) - curvature * np.outer(step, change)
                matrix = left @ matrix @ left.T + curvature * np.outer(step, step)
        return matrix

    def evaluate(self, place: Floats) -> tuple[float, Floats]:
        loss, gradient = self.function(torch.from_numpy(place.reshape(1, *SHAPE)))
        return float(loss), gradient.numpy().ravel().copy()

    def remember(self, step: Floats, change: Floats) -> None:
        product = step @ change
        if not product > 1e-6 * np.linalg.norm(step) * np.linalg.norm(change):
            self.memory.append((step, change, 0.0))
            return
        self.memory.append((step, change, 1 / product))
        energies = [np.array([v @ m @ v for m in _MAPS]) for v in (step, change)]
        self.moved = 0.9 * self.moved + energies[0] / product
        self.changed = 0.9 * self.changed + energies[1] / product
        self.scale = product / (change @ self.guess() @ change)

    def step(self) -> None:
        place = np.clip(self.place + self.length * self.direction, self.low, self.high)
        loss, gradient = self.evaluate(place)
        known = math.isfinite(loss) and bool(np.isfinite(gradient).all())
        fine = known and loss <= self.lowest * 1.02
        if known and loss < self.lowest:
            self.canvas, self.lowest = place, loss
        if fine:
            self.remember(place - self.place, gradient - self.gradient)
            self.place, self.loss, self.gradient, self.length = place, loss, gradient, 1.0
        else:
            fall = self.length * self.slope
            with np.errstate(all="ignore"):
                lowest = -0.5 * fall / np.float64(loss - self.loss - fall)
            lowest = 0.1 if math.isnan(lowest) else min(max(lowest, 0.1), 0.5)
            self.length *= lowest
            self.memory.append((np.zeros(SIZE), np.zeros(SIZE), 0.0))
        if len(self.memory) == 1:
            self.scale = FIRST_STEP / max(math.sqrt(np.mean(self.gradient**2)), 1e-30)
        stuck = self.length < 1e-3
        if stuck:
            self.memory = [(step, change, 0.0) for step, change, _ in self.memory]
            self.length = 1.0
        if fine or stuck:
            self.turn()
        self.slope = self.direction @ self.gradient

    def turn(self) -> None:
        out = (self.place >= self.high) & (self.gradient < 0)
        out |= (self.place <= self.low) & (self.gradient > 0)
        gradient = np.where(out, 0, self.gradient)
        direction = np.where(out, 0, -self.inverse_hessian() @ gradient)
        if direction @ gradient >= 0:
            direction = np.where(out, 0, -self.scale * self.guess() @ gradient)
        self.direction = direction


def _noise(seed: int) -> Tensor:
    return torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(seed))


def _bowl(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Quadratic with a curvature of its own for every value."""
    weights = _noise(1).exp()[: len(pictures)]
    away = pictures - 0.5 * _noise(2)[:1]
    return 0.5 * (weights[:1] * away.square()).sum((1, 2, 3)), weights[:1] * away


def _differentiated(ground: Callable[[Tensor], Tensor]) -> Function:
    def function(pictures: Tensor) -> tuple[Tensor, Tensor]:
        leaf = pictures.clone().requires_grad_()
        with torch.enable_grad():
            loss = ground(leaf).sum((1, 2, 3))
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    return function


# Negative curvature and a rise beside every valley, so that steps fail and memories are refused.
_waves = _differentiated(
    lambda x: 60 + 3 * x.square() + torch.sin(9 * x) - torch.cos(5 * x.roll(1, 3))
)
# No step from near the edge of the domain may leave it.
_pole = _differentiated(lambda x: -torch.log(1 - x.square()) + 8 * x * _noise(5)[:1])
# Between two minima: curvature is negative at first, and no step may be remembered there.
_ridge = _differentiated(lambda x: 1 + x**4 / 4 - x.square() / 2 + 0.01 * x * _noise(5)[:1])


def _hole(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """A bowl whose gradient is lost near the bottom, where its loss would be the lowest."""
    loss, gradient = _bowl(pictures)
    return loss, torch.where(loss.view(-1, 1, 1, 1) < 12, torch.nan, gradient)


# Steep at first, so that the first step is far too long and fails often.
_steep = _differentiated(lambda x: torch.cosh(150 * x) - x)


@pytest.mark.parametrize(
    ("function", "scale", "limit", "steps"),
    [
        (_bowl, 1.0, math.inf, 26),
        (_bowl, 0.2, 0.3, 20),
        (_waves, 1.0, math.inf, 24),
        (_waves, 0.5, 0.6, 24),
        (_pole, 0.25, math.inf, 20),
        (_steep, 0.02, math.inf, 24),
        (_ridge, 0.05, math.inf, 16),
        (_hole, 1.0, math.inf, 36),
    ],
    ids=["bowl", "bounded bowl", "waves", "bounded waves", "pole", "steep", "ridge", "hole"],
)
def test_every_step_is_the_one_of_the_dense_reference(
    function: Function, scale: float, limit: float, steps: int
) -> None:
    """Two images at once, each along its own path: the places, the losses and the best of them."""
    start = (scale * _noise(3)).clamp(-limit, limit)
    if function is _pole:
        start = start.clamp(-0.95, 0.95)
    places: list[Tensor] = []

    def evaluate(pictures: Tensor) -> tuple[Tensor, Tensor]:
        places.append(pictures.clone())
        return function(pictures)

    limits: Bounds | None = None if math.isinf(limit) else bounds_for(-limit, limit, start)
    lbfgs = SpectralLbfgs(start, evaluate, limits)
    references = [Reference(one.numpy().ravel(), function, -limit, limit) for one in start]
    for number in range(steps):
        lbfgs.advance(1)
        for picture, reference in enumerate(references):
            expected = np.clip(
                reference.place + reference.length * reference.direction, -limit, limit
            )
            found = places[number][picture].numpy().ravel()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=str(number))
            reference.step()
            best = lbfgs.image[picture].numpy().ravel()
            np.testing.assert_allclose(best, reference.canvas, rtol=1e-5, atol=1e-7)


def test_the_first_step_has_the_length_that_is_set() -> None:
    for length in (FIRST_STEP, 0.1 * FIRST_STEP):
        places: list[Tensor] = []

        def evaluate(pictures: Tensor, places: list[Tensor] = places) -> tuple[Tensor, Tensor]:
            places.append(pictures)
            return _bowl(pictures)

        SpectralLbfgs(_noise(3), evaluate, first_step=length).advance(2)
        moved = (places[1] - places[0]).square().mean((1, 2, 3)).sqrt()
        torch.testing.assert_close(moved, torch.full((2,), length))
    assert FIRST_STEP == 0.02


def test_zero_gradient_leaves_the_image_unchanged() -> None:
    lbfgs = SpectralLbfgs(_noise(3), lambda pictures: (torch.ones(2), torch.zeros_like(pictures)))
    lbfgs.advance(4)
    assert torch.equal(lbfgs.image, _noise(3))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 3), (16, 2)])
def test_band_energies_equal_those_of_the_full_fourier_transform(height: int, width: int) -> None:
    pictures = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    spectrum = Spectrum(pictures)
    colors = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    transformed = np.fft.fft2(np.einsum("ij,bjhw->bihw", colors, pictures.numpy()))
    squares = np.abs(transformed) ** 2 / (height * width)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    count = max(2, round(math.log2(max(height, width))))
    assert spectrum.bands == count
    octave = np.log2(np.maximum(frequency, 1 / max(height, width))) + count
    octave = np.clip(octave, 0, count - 1)
    energies = [
        (squares * np.clip(1 - np.abs(octave - band), 0, None)).sum((2, 3)) for band in range(count)
    ]
    found = spectrum.band_energies(spectrum.forward(pictures)).numpy()
    np.testing.assert_allclose(found, np.stack(energies, axis=2), rtol=1e-6, atol=1e-9)
