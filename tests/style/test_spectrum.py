"""Spectra by color and frequency: closed forms, and inner products equal to those of pixels."""

import math

import pytest
import torch
from torch import Tensor

from atelier.style.spectral_lbfgs import Spectrum

SIZES = [(16, 16), (7, 9), (12, 5), (1, 6), (32, 20)]


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
def test_inverse_of_forward_is_the_identity(size: tuple[int, int]) -> None:
    pictures = _noise(1, 2, 3, *size)
    spectrum = Spectrum(pictures)
    torch.testing.assert_close(spectrum.inverse(spectrum.forward(pictures)), pictures)


@pytest.mark.parametrize("size", SIZES)
def test_inner_products_and_energies_equal_those_of_pixels(size: tuple[int, int]) -> None:
    one, other = _noise(1, 2, 3, *size), _noise(2, 2, 3, *size)
    spectrum = Spectrum(one)
    product = spectrum.inner(spectrum.forward(one), spectrum.forward(other))
    torch.testing.assert_close(product, (one * other).sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    energies = spectrum.band_energies(spectrum.forward(one))
    assert energies.shape == (2, 3, spectrum.bands)
    torch.testing.assert_close(energies.sum((1, 2)), one.square().sum((1, 2, 3)))


@pytest.mark.parametrize("size", SIZES)
def test_band_factors_are_a_symmetric_positive_map(size: tuple[int, int]) -> None:
    one, other = _noise(1, 1, 3, *size), _noise(2, 1, 3, *size)
    spectrum = Spectrum(one)
    factors = _noise(3, 1, 3, spectrum.bands).exp()

    def scaled(pictures: Tensor) -> Tensor:
        return spectrum.inverse(spectrum.scale_bands(spectrum.forward(pictures), factors))

    there, back = (one * scaled(other)).sum(), (other * scaled(one)).sum()
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-4)
    assert (one * scaled(one)).sum() > 0


def test_equal_factors_scale_the_image() -> None:
    pictures = _noise(1, 2, 3, 12, 20)
    spectrum = Spectrum(pictures)
    factors = torch.tensor([2.0, 5.0])[:, None, None].expand(2, 3, spectrum.bands)
    scaled = spectrum.inverse(spectrum.scale_bands(spectrum.forward(pictures), factors))
    torch.testing.assert_close(scaled, pictures * torch.tensor([2.0, 5.0]).view(2, 1, 1, 1))


@pytest.mark.parametrize(("waves", "band"), [(1, 0), (2, 1), (4, 2), (8, 3)])
def test_wave_has_the_octave_of_its_frequency(waves: int, band: int) -> None:
    across = torch.cos(2 * torch.pi * waves * torch.arange(16) / 16)
    grey = across.expand(1, 3, 16, 16)
    spectrum = Spectrum(grey)
    assert spectrum.bands == 4
    energies = spectrum.band_energies(spectrum.forward(grey))[0]
    expected = torch.zeros(3, 4)
    expected[0, band] = float(grey.square().sum())
    torch.testing.assert_close(energies, expected, atol=1e-3, rtol=1e-4)


def test_constant_color_is_in_the_lowest_octave() -> None:
    red_to_blue = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    spectrum = Spectrum(red_to_blue)
    energies = spectrum.band_energies(spectrum.forward(red_to_blue))[0]
    assert energies[1, 0].item() == pytest.approx(2 * 64)
    assert math.isclose(float(energies.sum()), 2 * 64, rel_tol=1e-4)
