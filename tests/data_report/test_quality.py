"""Sharpness, brightness and contrast of rows."""

import cv2
import numpy as np
import pytest

from atelier.data.rows import resize
from atelier.data_report.quality import BLURRED_TIMES_SIDE, measure_quality
from atelier.sample_faces.portrait import random_portrait

from ..support.arrays import uniform_image


@pytest.mark.parametrize("side", [16, 32, 64])
def test_blurred_rows_are_found_among_sharp_ones(side: int) -> None:
    faces = [random_portrait(128, 128, np.random.default_rng(seed)) for seed in range(6)]
    sharp = [resize(face, side, "crop") for face in faces]
    blurred = [cv2.GaussianBlur(row, (0, 0), 2.0) for row in sharp]
    quality = measure_quality([*sharp, *blurred], side)
    assert quality.is_blurred.tolist() == [False] * 6 + [True] * 6


def test_sharpness_is_the_relative_variance_of_the_laplacian() -> None:
    row = np.zeros((16, 16, 1), np.uint8)
    row[8, 8] = 160
    # The Laplacian has -4 * 160 once and 160 four times.
    squares = (4 * 160) ** 2 + 4 * 160**2
    variance = 160**2 / 256 - (160 / 256) ** 2
    quality = measure_quality([row], 16)
    assert quality.sharpness == pytest.approx(squares / 256 / variance, rel=1e-5)
    assert quality.sharpness[0] > BLURRED_TIMES_SIDE / 16


def test_brightness_is_that_of_nearly_all_pixels() -> None:
    dark, bright, digit = (uniform_image(20, 20, color) for color in (10, 250, 0))
    dark[:, ::2] = 40
    bright[:, ::2] = 200
    digit[:, 8:12] = 255  # a fifth of the pixels
    flat = uniform_image(20, 20, 100)
    quality = measure_quality([dark, bright, digit, flat], 20)
    assert quality.is_dark.tolist() == [True, False, False, False]
    assert quality.is_bright.tolist() == [False, True, False, False]
    assert quality.is_flat.tolist() == [False, False, False, True]
    assert quality.is_blurred.tolist() == [False] * 4


def test_measures_of_no_row_are_empty() -> None:
    assert len(measure_quality([], 16).is_blurred) == 0
