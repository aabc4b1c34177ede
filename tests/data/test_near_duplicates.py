"""Groups of near-duplicates: recognized changes, different images and cost."""

import hashlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from atelier.data.cropped_copies import is_cropped_copy
from atelier.data.image_difference import are_similar, image_difference, window_difference
from atelier.data.near_duplicates import group_near_duplicates, join_groups
from atelier.sample_faces.portrait import random_portrait

from ..support.selection import slow_after

SIDE = 64
FACES = [
    Image.fromarray(random_portrait(150, 150, np.random.default_rng(seed))) for seed in range(30)
]


def rows(images: list[Image.Image]) -> NDArray[np.uint8]:
    """Resize images like the convert stage."""
    return np.stack(
        [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
    )


def groups_of(pixels: NDArray[np.uint8]) -> list[int]:
    hashes = [hashlib.sha256(row.tobytes()).digest() for row in pixels]
    return group_near_duplicates(lambda index: pixels[index], hashes).tolist()


def encoded(image: Image.Image, quality: int) -> Image.Image:
    stream = BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda image: encoded(image, 75), id="quality 75"),
        pytest.param(lambda image: encoded(encoded(image, 90), 80), id="encoded twice"),
        pytest.param(lambda image: image.resize((50, 50)), id="a third of the size"),
        pytest.param(lambda image: image.resize((400, 400)), id="larger"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(1.05), id="brighter"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(0.8), id="darker"),
        pytest.param(lambda image: ImageEnhance.Contrast(image).enhance(0.9), id="less contrast"),
        pytest.param(ImageOps.mirror, id="mirrored"),
        pytest.param(lambda image: encoded(ImageOps.mirror(image), 80), id="mirrored, encoded"),
        pytest.param(lambda image: ImageEnhance.Brightness(image).enhance(1.15), id="clipped"),
        pytest.param(lambda image: image.crop((0, 0, 142, 142)), id="cropped at two sides"),
        pytest.param(lambda image: image.crop((7, 7, 143, 143)), id="cropped at all sides"),
        pytest.param(
            lambda image: encoded(ImageOps.mirror(image.crop((8, 8, 150, 150))), 80),
            id="cropped, mirrored, encoded",
        ),
    ],
)
def test_changed_copy_is_in_group_of_original(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    groups = groups_of(rows(FACES + [change(face) for face in FACES]))
    matches = sum(groups[index] == groups[index + 30] for index in range(30))
    assert matches == 30
    assert len(set(groups)) == 30, "different faces are in different groups"


def test_single_image_and_its_copies_are_one_group() -> None:
    for count in (1, 2, 40):
        assert groups_of(np.repeat(rows(FACES[:1]), count, axis=0)) == [0] * count


def test_gray_images_of_every_size_are_compared() -> None:
    for side in (16, 28, 128):
        small = [face.convert("L").resize((side, side)) for face in FACES[:6]]
        pixels = np.stack([np.asarray(image)[:, :, None] for image in small])
        groups = groups_of(np.concatenate([pixels, pixels[:, :, ::-1]]))
        assert groups[:6] == groups[6:]
        assert len(set(groups)) == 6


def test_flat_images_are_grouped_by_color_not_brightness() -> None:
    def flat(*color: int) -> NDArray[np.uint8]:
        return np.full((SIDE, SIDE, 3), color, np.uint8)

    pixels = np.stack(
        [flat(200, 0, 0), flat(100, 0, 0), flat(0, 0, 200), flat(50, 50, 50), flat(90, 90, 90)]
    )
    red, dark_red, blue, gray, light_gray = groups_of(pixels)
    assert red == dark_red
    assert gray == light_gray
    assert len({red, blue, gray}) == 3


def test_groups_do_not_depend_on_the_order() -> None:
    pixels = rows(FACES + [ImageOps.mirror(face) for face in FACES[:15]] + FACES[:5])
    order = np.random.default_rng(0).permutation(len(pixels))

    def partition(groups: list[int], indices: NDArray[np.int64]) -> set[frozenset[int]]:
        return {frozenset(indices[np.array(groups) == number].tolist()) for number in set(groups)}

    expected = partition(groups_of(pixels), np.arange(len(pixels)))
    assert partition(groups_of(pixels[order]), order) == expected
    assert sorted(map(len, expected)) == [1] * 15 + [2] * 10 + [3] * 5


def test_joined_groups_are_connected_by_either_criterion() -> None:
    groups, others = np.array([0, 1, 2, 0, 3, 2, 4]), np.array([0, 1, 2, 3, 3, 4, 1])
    a, b, c, d, e, f, g = join_groups(groups, others).tolist()
    assert a == d == e, "the fourth image connects the first and the fifth"
    assert b == g
    assert c == f
    assert len({a, b, c}) == 3


def test_thousands_of_near_duplicates_take_linear_time() -> None:
    random = np.random.default_rng(0)
    face = rows(FACES[:1])[0].astype(np.int16)
    count, reads = 1000, 0
    pixels = np.stack([face + random.integers(-2, 3, face.shape) for _ in range(count)])
    pixels = pixels.clip(0, 255).astype(np.uint8)

    def read(index: int) -> NDArray[np.uint8]:
        nonlocal reads
        reads += 1
        return pixels[index]

    hashes = [hashlib.sha256(row.tobytes()).digest() for row in pixels]
    assert set(group_near_duplicates(read, hashes).tolist()) == {0}
    assert reads < 4 * count
    # Copies whose differences are invisible in thumbnails.
    pixels = np.repeat(rows(FACES[:1]), count, axis=0)
    reads = 0
    assert set(group_near_duplicates(read, hashes).tolist()) == {0}
    assert reads < 4 * count


def test_difference_ignores_brightness_and_contrast() -> None:
    one, other = rows(FACES[:2])
    darker = (one.astype(np.float64) * 0.7 + 20).astype(np.uint8)
    assert image_difference(one, one) == 0.0
    assert image_difference(one, darker) < 0.02
    assert image_difference(one, other) > 0.2
    assert image_difference(one, 255 - one) == pytest.approx(2.0, abs=1e-6)


def lines(seed: int) -> Image.Image:
    """Return a wide line drawing, which pad places between two large bars."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (300, 100), "white")
    for _ in range(4):
        points = random.uniform((0, 0), image.size, (5, 2)).ravel().tolist()
        ImageDraw.Draw(image).line(points, fill="black", width=2)
    return image


def text(seed: int) -> Image.Image:
    """Return a page of text."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (200, 300), "white")
    for y in range(15, 285, 14):
        line = "".join(random.choice(list("abcdefghij klmnop qrstu"), 28))
        ImageDraw.Draw(image).text((15, y), line, fill="black")
    return image


def icon(seed: int) -> Image.Image:
    """Return an icon of two rectangles on a disc that is equal in all icons."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse([8, 8, 120, 120], fill=(30, 60, 160))
    for _ in range(2):
        x, y, width, height = (*random.uniform(40, 75, 2), *random.uniform(4, 16, 2))
        draw.rectangle([x, y, x + width, y + height], fill=(200, 210, 230))
    return image


def framed(seed: int) -> Image.Image:
    """Return a face in a black and white frame."""
    face = FACES[seed].resize((120, 120))
    return ImageOps.expand(ImageOps.expand(face, 20, "white"), 30, "black")


@pytest.mark.parametrize("draw", [lines, text, icon, framed])
@pytest.mark.parametrize("side", slow_after(2, [32, 128, 64]))
def test_equal_borders_do_not_group_different_images(
    draw: Callable[[int], Image.Image], side: int
) -> None:
    originals = [draw(seed) for seed in range(30)]
    copies = [encoded(image, 90) for image in originals[:10]]
    padded = [ImageOps.pad(image, (side, side)) for image in originals + copies]
    groups = groups_of(np.stack([np.asarray(image) for image in padded]))
    assert len(set(groups[:30])) == 30
    assert groups[30:] == groups[:10]


def is_near(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return are_similar(one, other) or is_cropped_copy(one, other)


@pytest.mark.parametrize("seed", range(0, 30, 5))
def test_near_duplicates_are_grouped_transitively(seed: int) -> None:
    one = rows([FACES[seed]])[0]

    def lit(light: float) -> NDArray[np.uint8]:
        return (one * 0.6 + np.linspace(0, light, SIDE)[:, None]).round().astype(np.uint8)

    distances = np.array([image_difference(lit(0), lit(light)) for light in range(100)])
    # The second image is in the grid cell of the first; the third is near the second only.
    start, middle = lit(0), lit(int(np.searchsorted(distances, 0.015)))
    far = next(lit(light) for light in range(100) if not is_near(start, lit(light)))
    assert image_difference(start, middle) < 0.03
    assert is_near(middle, far)
    assert groups_of(np.stack([start, middle, far])) == [0, 0, 0]
    without_middle = groups_of(np.stack([start, far]))
    assert without_middle[0] != without_middle[1]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pixels: pixels * 1.2, id="brighter by a fifth"),
        pytest.param(lambda pixels: pixels * [1.03, 1.0, 0.96], id="warm tint"),
    ],
)
def test_all_pairs_within_the_limit_are_found(
    change: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
) -> None:
    pixels = rows(FACES)
    changed = change(pixels).clip(0, 255).astype(np.uint8)
    groups = groups_of(np.concatenate([pixels, changed]))
    for index in range(len(pixels)):
        near = is_near(pixels[index], changed[index])
        assert (groups[index] == groups[index + 30]) == near, index


def test_window_difference_detects_a_small_change() -> None:
    one = np.zeros((64, 64, 3), np.uint8)
    one[8:56, 8:56] = 255
    other = one.copy()
    other[30:34, 30:34] = 100
    assert image_difference(one, other) < 0.12
    assert window_difference(one, other) > 0.9
    assert window_difference(one, one) == pytest.approx(0, abs=1e-6)
    darker = (one * 0.7 + 20).astype(np.uint8)
    assert window_difference(one, darker) == pytest.approx(0, abs=1e-3)
