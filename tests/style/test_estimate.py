"""Estimate of the duration of a style transfer."""

import math
from pathlib import Path

import pytest

from atelier.style.batch import load_vgg
from atelier.style.estimate import estimate_seconds, evaluated_pixels

from ..support.painting import options


def test_work_grows_with_pixels_iterations_and_images() -> None:
    settings = options(pyramid_levels=3, iterations=30)
    pixels = evaluated_pixels(settings, [(128, 128)])
    assert evaluated_pixels(settings, [(128, 129)]) > pixels
    assert evaluated_pixels(settings, [(256, 256)]) == pytest.approx(4 * pixels, rel=0.02)
    assert evaluated_pixels(settings, [(128, 128), (128, 128)]) == 2 * pixels
    assert evaluated_pixels(settings, [(128, 128), (64, 64)]) > pixels
    assert (
        evaluated_pixels(settings.model_copy(update={"iterations": 60}), [(128, 128)]) == 2 * pixels
    )
    assert evaluated_pixels(settings, []) == 0


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (32, 60 * 32**2),  # smaller levels are below 32 pixels and are skipped
        (46, 30 * 33**2 + 30 * 46**2),
        (64, 20 * 32**2 + 20 * 45**2 + 20 * 64**2),
    ],
)
def test_every_evaluation_counts_the_pixels_of_its_level(side: int, expected: int) -> None:
    settings = options(pyramid_levels=3, iterations=60)
    assert evaluated_pixels(settings, [(side, side)]) == expected


def test_levels_of_equal_size_are_counted_once() -> None:
    settings = options(
        pyramid_levels=1, iterations=100, optimizer="spectral_lbfgs", weights="imagenet"
    )
    assert evaluated_pixels(settings, [(40, 50)]) == 100 * 40 * 50


def test_estimate_is_positive_and_finite() -> None:
    """The measurement ignores style masks and preserved colors."""
    settings = options(iterations=10, preserve_color="luminance", style_masks=["mask.png"])
    seconds = estimate_seconds(settings, [(64, 64)], load_vgg(settings, Path()))
    assert math.isfinite(seconds)
    assert seconds > 0
