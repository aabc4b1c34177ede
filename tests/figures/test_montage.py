from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from atelier.figures.captions import BACKGROUND, CAPTION_HEIGHT, caption, captioned
from atelier.figures.montage import (
    limit_size,
    montage,
    save_png,
    side_by_side,
    split_sides,
    whole_tile,
)

from ..support.arrays import random_images


@settings(max_examples=60)
@given(
    count=st.integers(1, 12),
    columns=st.integers(1, 5),
    size=st.integers(1, 6),
    factor=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
)
def test_montage_equals_a_simple_reference(
    count: int, columns: int, size: int, factor: int, channels: int
) -> None:
    images = random_images(count, size, channels)
    tile = size * factor
    rows = -(-count // columns)
    expected = np.empty((rows * tile, columns * tile, 3), dtype=np.uint8)
    expected[:] = BACKGROUND
    for index, image in enumerate(images):
        top, left = index // columns * tile, index % columns * tile
        for y in range(tile):
            for x in range(tile):
                expected[top + y, left + x] = image[y // factor, x // factor]

    assert np.array_equal(montage(images, columns, tile), expected)


@pytest.mark.parametrize("tile", [20, 45, 64])
def test_other_scale_factors_preserve_uniform_images_and_positions(tile: int) -> None:
    flat = [np.full((28, 28, 1), value, dtype=np.uint8) for value in (0, 90, 255)]
    grid = montage(flat, columns=2, tile=tile)
    assert grid.shape == (2 * tile, 2 * tile, 3)
    assert (grid[:tile, :tile] == 0).all()
    assert (grid[:tile, tile:] == 90).all()
    assert (grid[tile:, :tile] == 255).all()
    assert (grid[tile:, tile:] == BACKGROUND).all()


def test_montage_preserves_channel_order() -> None:
    red = np.zeros((1, 4, 4, 3), dtype=np.uint8)
    red[..., 0] = 200
    assert (montage(red, 1, 8) == (200, 0, 0)).all()


@pytest.mark.parametrize(
    "invalid",
    [
        [],
        np.zeros((0, 4, 4, 3), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.float32),
        np.zeros((1, 4, 4), dtype=np.uint8),
        np.zeros((1, 4, 4, 4), dtype=np.uint8),
        np.zeros((1, 4, 6, 3), dtype=np.uint8),
    ],
    ids=["empty list", "empty array", "float", "no channels", "alpha", "not square"],
)
def test_montage_rejects_other_shapes(invalid: object) -> None:
    with pytest.raises(ValueError, match="image"):
        montage(invalid, 2, 8)


def test_side_by_side_contains_both_montages_with_titles() -> None:
    left, right = random_images(4, 8, 3, seed=1), random_images(6, 4, 1, seed=2)
    grid = side_by_side(left, right, ("Real", "Generated"), columns=2, tile=16)

    assert grid.shape == (CAPTION_HEIGHT + 3 * 16, 2 * 32 + 8, 3)
    assert np.array_equal(grid[CAPTION_HEIGHT : CAPTION_HEIGHT + 32, :32], montage(left, 2, 16))
    assert np.array_equal(grid[CAPTION_HEIGHT:, 40:], montage(right, 2, 16))
    assert (grid[:, 32:40] == BACKGROUND).all()
    assert (grid[CAPTION_HEIGHT + 32 :, :32] == BACKGROUND).all()
    assert (grid[:CAPTION_HEIGHT, :32] != BACKGROUND).any()
    assert (grid[:CAPTION_HEIGHT, 40:] != BACKGROUND).any()


@pytest.mark.parametrize("width", [8, 40, 512])
@pytest.mark.parametrize("text", ["", "epoch 7 of 30", "a title far too long for its strip " * 4])
def test_caption_fits_its_strip(text: str, width: int) -> None:
    strip = caption(text, width)
    assert strip.shape == (CAPTION_HEIGHT, width, 3)
    text_columns = np.flatnonzero((strip != BACKGROUND).any(axis=(0, 2)))
    if width == 512:
        assert (len(text_columns) > 0) == (text != "")
        assert (strip[:, [0, -1]] == BACKGROUND).all()


def test_captioned_adds_a_strip_below_the_image() -> None:
    image = random_images(1, 64, 3)[0]
    captioned_image = captioned(image, "epoch 1 of 2")
    assert np.array_equal(captioned_image[:64], image)
    assert captioned_image.shape == (64 + CAPTION_HEIGHT, 64, 3)
    assert not np.array_equal(captioned_image, captioned(image, "epoch 2 of 2"))


def test_limit_size_preserves_aspect_ratio_and_small_images() -> None:
    wide = np.zeros((100, 400, 3), dtype=np.uint8)
    assert limit_size(wide, 200).shape == (50, 200, 3)
    assert limit_size(wide, 400) is wide
    assert limit_size(np.zeros((1, 5000, 3), dtype=np.uint8), 100).shape == (1, 100, 3)


def test_saved_png_has_the_same_pixels(tmp_path: Path) -> None:
    image = random_images(1, 32, 3)[0]
    save_png(image, tmp_path / "new" / "image.png")
    with Image.open(tmp_path / "new" / "image.png") as opened:
        assert opened.format == "PNG"
        assert np.array_equal(np.asarray(opened), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.png"]


def test_pairs_of_side_by_side_montages_are_recovered() -> None:
    left, right = random_images(5, 8, 3, seed=1), random_images(5, 8, 3, seed=2)
    pairs = split_sides(side_by_side(left, right, ("left", "right"), 2, 8), 8)
    assert len(pairs) == 6, "three rows of two, the last cell is empty"
    for index in range(5):
        assert np.array_equal(pairs[index][0], left[index])
        assert np.array_equal(pairs[index][1], right[index])


@pytest.mark.parametrize("shape", [(38, 30), (CAPTION_HEIGHT, 36), (CAPTION_HEIGHT + 9, 36)])
def test_image_without_whole_tiles_is_not_split(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{shape[1]} x {shape[0]} pixels are not of tiles of 8"):
        split_sides(np.zeros((*shape, 3), np.uint8), 8)


@pytest.mark.parametrize(
    ("side", "tile"), [(16, 64), (28, 56), (32, 64), (64, 64), (128, 128), (256, 128)]
)
def test_tiles_enlarge_small_images_by_whole_factors(side: int, tile: int) -> None:
    assert whole_tile(side) == tile
