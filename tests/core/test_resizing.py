"""Resizing of uint8 images."""

from typing import get_args

import numpy as np
import pytest

from atelier.core.resizing import Method, resize_image

NOISE = np.random.default_rng(1).integers(0, 256, (12, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", get_args(Method))
def test_flat_images_remain_flat_and_have_new_size(method: Method) -> None:
    flat = np.full((9, 14, 3), (10, 200, 77), np.uint8)
    for height, width in ((4, 6), (30, 31), (9, 5)):
        resized = resize_image(flat, height, width, method)
        assert resized.shape == (height, width, 3)
        assert resized.dtype == np.uint8
        assert (resized == flat[0, 0]).all()


@pytest.mark.parametrize("method", get_args(Method))
def test_image_of_target_size_is_returned_itself(method: Method) -> None:
    assert resize_image(NOISE, 12, 20, method) is NOISE


def test_area_averages_blocks_and_nearest_repeats_pixels() -> None:
    blocks = NOISE.reshape(6, 2, 10, 2, 3).astype(float).mean((1, 3))
    assert np.abs(resize_image(NOISE, 6, 10, "area") - blocks).max() <= 0.5
    doubled = NOISE.repeat(2, 0).repeat(2, 1)
    assert np.array_equal(resize_image(NOISE, 24, 40, "nearest"), doubled)
