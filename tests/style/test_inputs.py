"""Loading of images, and conversions between images and tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError
from atelier.style.inputs import load_inputs, name_faces, resize_to_tensor

from ..support.arrays import random_image, uniform_image
from ..support.painting import options


@given(
    height=st.integers(1, 80),
    width=st.integers(1, 80),
    size=st.integers(8, 64),
    level=st.integers(0, 255),
)
def test_shorter_side_becomes_the_size_and_constant_color_is_unchanged(
    height: int, width: int, size: int, level: int
) -> None:
    tensor = resize_to_tensor(uniform_image(height, width, level), size)
    assert min(tensor.shape[2:]) == size
    assert max(tensor.shape[2:]) == round(size * max(height, width) / min(height, width))
    assert torch.equal(tensor, torch.full_like(tensor, level / 255))


def test_image_of_the_requested_size_is_unchanged_by_both_conversions() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    tensor = resize_to_tensor(image, 16)
    assert tensor.shape == (1, 3, 16, 24)
    assert tensor[0, 2, 3, 5] * 255 == pytest.approx(image[3, 5, 2])
    assert np.array_equal(to_uint8(tensor, signed=False)[0].numpy(), image)


def test_enlarging_is_smooth() -> None:
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 200
    row = resize_to_tensor(edge, 64)[0, 0, 32]
    assert len(row.unique()) > 5, "nearest-neighbor enlargement gives two levels"


def test_shrinking_averages_pixels() -> None:
    checkerboard = np.zeros((64, 64, 3), np.uint8)
    checkerboard[::2, ::2] = checkerboard[1::2, 1::2] = 255
    tensor = resize_to_tensor(checkerboard, 16)
    assert (tensor * 255 - 127.5).abs().max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3])
def test_faces_get_names_in_order_and_three_channels(channels: int) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (12, 4, 5, channels), dtype=np.uint8)
    named = name_faces(faces)
    assert list(named)[:2] == ["face_01", "face_02"]
    assert list(named)[-1] == "face_12"
    for face, original in zip(named.values(), faces, strict=True):
        assert face.shape == (4, 5, 3)
        assert all(np.array_equal(face[..., c], original[..., c % channels]) for c in range(3))


def test_loaded_inputs_are_files_generated_faces_and_built_in_styles(tmp_path: Path) -> None:
    content, mask = random_image(1), uniform_image(8, 6, 255)
    Image.fromarray(content).save(tmp_path / "ann.png")
    Image.fromarray(mask).save(tmp_path / "all.png")
    faces = np.stack([uniform_image(4, 4, level) for level in (10, 20)])
    settings = options(
        contents=["generated", "ann.png"], styles=["night_sky"], style_masks=["all.png"]
    )
    originals, inputs = load_inputs(settings, tmp_path, 80, lambda: faces)
    assert list(inputs.contents) == list(originals) == ["face_01", "face_02", "ann"]
    assert np.array_equal(inputs.contents["ann"], content)
    assert np.array_equal(inputs.contents["face_02"], faces[1])
    assert {name: style.shape for name, style in inputs.styles.items()} == {
        "night_sky": (64, 64, 3)
    }
    assert [np.array_equal(loaded, mask) for loaded in inputs.masks] == [True]
    with pytest.raises(AtelierError, match="there is no image"):
        load_inputs(options(contents=["bob.png"]), tmp_path, 80, lambda: faces)
