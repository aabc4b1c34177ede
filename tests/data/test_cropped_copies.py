"""Recognition of cropped copies: pairs of images, and the estimate that selects them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from atelier.data.cropped_copies import alignment_errors, blurred_thumbnails, is_cropped_copy
from atelier.data.image_difference import are_similar, thumbnail
from atelier.data.rows import resize
from atelier.sample_faces.portrait import random_portrait

FACES = [
    Image.fromarray(random_portrait(160, 160, np.random.default_rng(seed))) for seed in range(12)
]
CROPS = [face.crop((0, 8, 152, 160)) for face in FACES]


def row(image: Image.Image, side: int = 64) -> NDArray[np.uint8]:
    return resize(image, side, "crop").reshape(side, side, -1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("side", [64, 128])
def test_crop_is_a_copy_in_both_directions(side: int, mode: str) -> None:
    for face, crop in zip(FACES, CROPS, strict=True):
        one, other = (row(image.convert(mode), side) for image in (face, crop))
        assert not are_similar(one, other)
        assert is_cropped_copy(one, other)
        assert is_cropped_copy(other, one)


def test_most_crops_of_small_images_are_copies() -> None:
    pairs = zip(FACES, CROPS, strict=True)
    assert sum(is_cropped_copy(row(face, 32), row(crop, 32)) for face, crop in pairs) >= 10


def test_different_faces_are_no_copies() -> None:
    pixels = [row(face) for face in FACES]
    for index, one in enumerate(pixels):
        assert not any(is_cropped_copy(one, other) for other in pixels[index + 1 :])


def test_small_part_is_no_copy() -> None:
    for face in FACES:
        assert not is_cropped_copy(row(face), row(face.crop((0, 0, 130, 130))))


def test_clipped_crop_is_a_copy() -> None:
    for face, crop in zip(FACES, CROPS, strict=True):
        assert is_cropped_copy(row(face), row(ImageEnhance.Brightness(crop).enhance(1.15)))


def test_flat_images_are_no_crops() -> None:
    flat = np.full((64, 64, 3), 90, np.uint8)
    assert not is_cropped_copy(flat, flat)
    assert not is_cropped_copy(flat, row(FACES[0]))


def test_alignment_errors_ignore_small_shifts_and_scalings() -> None:
    def thumbnails(images: list[Image.Image]) -> NDArray[np.float16]:
        return blurred_thumbnails(np.stack([thumbnail(row(image)) for image in images]))

    faces, crops = thumbnails(FACES), thumbnails(CROPS)
    assert (alignment_errors(faces, faces) < 1e-3).all()
    assert (alignment_errors(faces, crops) < 0.08).all()
    others = np.roll(faces, 1, axis=0)
    assert (alignment_errors(faces, others) > 1.5 * alignment_errors(faces, crops)).all()
    assert alignment_errors(faces[:0], faces[:0]).shape == (0,)
