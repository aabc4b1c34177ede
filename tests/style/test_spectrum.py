"""Spectra by color and frequency: closed forms, and inner products equal to those of pixels."""

import math

import pytest
import torch
from torch import Tensor

from atelier.style.spectral_lbfgs import Spectrum

from ..support.arrays import normal_tensor

SIZES = [(16, 16), (7, 9), (12, 5), (1, 6), (32, 20)]


@pytest.mark.parametrize("size", SIZES)
def test_inverse_of_forward_is_the_identity(size: tuple[int, int]) -> None:
    images = normal_tensor(1, 2, 3, *size)
    spectrum = Spectrum(images)
    torch.testing.assert_close(spectrum.inverse(spectrum.forward(images)), images)


@pytest.mark.parametrize("size", SIZES)
def test_inner_products_and_energies_equal_those_of_pixels(size: tuple[int, int]) -> None:
    first, second = normal_tensor(1, 2, 3, *size), normal_tensor(2, 2, 3, *size)
    spectrum = Spectrum(first)
    product = spectrum.inner(spectrum.forward(first), spectrum.forward(second))
    torch.testing.assert_close(product, (first * second).sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
    energies = spectrum.band_energies(spectrum.forward(first))
    assert energies.shape == (2, 3, spectrum.bands)
    torch.testing.assert_close(energies.sum((1, 2)), first.square().sum((1, 2, 3)))


@pytest.mark.parametrize("size", SIZES)
def test_band_factors_are_a_symmetric_positive_map(size: tuple[int, int]) -> None:
    first, second = normal_tensor(1, 1, 3, *size), normal_tensor(2, 1, 3, *size)
    spectrum = Spectrum(first)
    factors = normal_tensor(3, 1, 3, spectrum.bands).exp()

    def scaled(images: Tensor) -> Tensor:
        return spectrum.inverse(spectrum.scale_bands(spectrum.forward(images), factors))

    first_product, second_product = (first * scaled(second)).sum(), (second * scaled(first)).sum()
    torch.testing.assert_close(first_product, second_product, rtol=1e-4, atol=1e-4)
    assert (first * scaled(first)).sum() > 0


def test_equal_factors_scale_the_image() -> None:
    images = normal_tensor(1, 2, 3, 12, 20)
    spectrum = Spectrum(images)
    factors = torch.tensor([2.0, 5.0])[:, None, None].expand(2, 3, spectrum.bands)
    scaled = spectrum.inverse(spectrum.scale_bands(spectrum.forward(images), factors))
    torch.testing.assert_close(scaled, images * torch.tensor([2.0, 5.0]).view(2, 1, 1, 1))


@pytest.mark.parametrize(("waves", "band"), [(1, 0), (2, 1), (4, 2), (8, 3)])
def test_wave_has_the_octave_of_its_frequency(waves: int, band: int) -> None:
    wave = torch.cos(2 * torch.pi * waves * torch.arange(16) / 16)
    image = wave.expand(1, 3, 16, 16)
    spectrum = Spectrum(image)
    assert spectrum.bands == 4
    energies = spectrum.band_energies(spectrum.forward(image))[0]
    expected = torch.zeros(3, 4)
    expected[0, band] = float(image.square().sum())
    torch.testing.assert_close(energies, expected, atol=1e-3, rtol=1e-4)


def test_constant_color_is_in_the_lowest_octave() -> None:
    image = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    spectrum = Spectrum(image)
    energies = spectrum.band_energies(spectrum.forward(image))[0]
    assert energies[1, 0].item() == pytest.approx(2 * 64)
    assert math.isclose(float(energies.sum()), 2 * 64, rel_tol=1e-4)
