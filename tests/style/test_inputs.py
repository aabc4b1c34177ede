"""Conversions between images and tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atelier.core.arrays import to_uint8
from atelier.style.inputs import name_faces, resize_to_tensor

from ..support.arrays import uniform_image


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
