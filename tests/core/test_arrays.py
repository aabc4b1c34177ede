"""Conversions between uint8 images and float tensors."""

import pytest
import torch

from atelier.core.arrays import per_channel, to_tensor, to_uint8


@pytest.mark.parametrize(("signed", "low"), [(True, -1.0), (False, 0.0)])
def test_round_trip_preserves_every_level(signed: bool, low: float) -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    pixels = torch.stack([levels, levels.flip(0), levels // 2]).view(1, 3, 16, 16)
    pixels = pixels.permute(0, 2, 3, 1).contiguous()
    images = to_tensor(pixels, signed=signed)
    assert images.shape == (1, 3, 16, 16)
    torch.testing.assert_close(images[0, 0].flatten(), torch.linspace(low, 1, 256))
    assert torch.equal(to_uint8(images, signed=signed), pixels)
    assert to_uint8(images, signed=signed).is_contiguous()


@pytest.mark.parametrize(
    ("signed", "values", "levels"),
    [
        (True, [-2.0, -1.0, -1 + 0.6 / 127.5, 0.2 / 127.5, 1.0, 2.0], [0, 0, 1, 128, 255, 255]),
        (False, [-0.5, 0.499 / 255, 0.51 / 255, 1.0, 1.7, 0.5], [0, 0, 1, 255, 255, 128]),
    ],
)
def test_to_uint8_rounds_and_clamps(signed: bool, values: list[float], levels: list[int]) -> None:
    images = torch.tensor(values).view(1, 1, 1, 6)
    assert to_uint8(images, signed=signed).flatten().tolist() == levels


def test_constant_of_inference_mode_takes_part_in_gradients() -> None:
    values = (0.25, 0.5, 0.125)
    with torch.inference_mode():
        constant = per_channel(values, torch.zeros(1, dtype=torch.float64))
    assert constant.flatten().tolist() == list(values)
    images = torch.ones(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    (images / per_channel(values, images)).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, (1 / constant).expand_as(images))


def test_constant_is_uploaded_once_for_each_type() -> None:
    values = (1.0, 2.0, 3.0)
    like = torch.zeros(1)
    assert per_channel(values, like) is per_channel(values, like + 1)
    assert per_channel(values, like.double()).dtype == torch.float64
