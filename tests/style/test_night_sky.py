"""Night sky style image: reproducible, colorful, textured everywhere."""

import numpy as np
import pytest

from atelier.style.demo_styles import night_sky_image


def test_image_is_rgb_of_the_requested_size() -> None:
    image = night_sky_image(64, seed=1)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8


def test_seed_determines_the_image() -> None:
    assert np.array_equal(night_sky_image(96, seed=1), night_sky_image(96, seed=1))
    assert not np.array_equal(night_sky_image(96, seed=1), night_sky_image(96, seed=2))


@pytest.mark.parametrize("size", [32, 100, 257])
def test_sky_is_blue_and_land_is_warm(size: int) -> None:
    image = night_sky_image(size, seed=1).astype(float)
    corner = image[: size // 8, : size // 8].mean((0, 1))
    hills = image[-size // 5 :].mean((0, 1))
    assert corner[2] > 1.5 * corner[0]
    assert hills[0] > 1.5 * hills[2]


def test_image_has_edges_everywhere() -> None:
    gray = night_sky_image(256, seed=1).mean(axis=2)
    roughness = np.abs(np.diff(gray, axis=0)).reshape(-1, 16, 16).mean(axis=2)
    assert np.quantile(roughness, 0.05) > 2
