"""What the discriminator sees: the same pictures, changed within bounds, with a way back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atelier.core.random_streams import torch_generator
from atelier.core.settings import Settings
from atelier.gan.augment import (
    UNIFORMS_PER_IMAGE,
    VIEWS,
    Kind,
    augmentation_preview,
    diff_augment,
    random_hflip,
)

from ..support.plain_augmentation import plain_augmentation

KINDS: tuple[Kind, ...] = ("color", "translation", "cutout")


def pictures(count: int = 6, channels: int = 3, side: int = 16) -> Tensor:
    stream = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, side, side, generator=stream) * 1.8 - 0.9


def chances(count: int = 6, seed: int = 2) -> Tensor:
    return torch.rand(count, UNIFORMS_PER_IMAGE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kinds", [[], *([kind] for kind in KINDS), list(KINDS)])
@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 28)])
def test_shape_stays_and_the_gradient_comes_back(
    kinds: list[Kind], channels: int, side: int
) -> None:
    given = pictures(channels=channels, side=side).requires_grad_()
    view = diff_augment(given, kinds, chances(), "real")
    assert view.shape == given.shape
    assert view.dtype == torch.float32
    assert torch.equal(view, given) == (not kinds)
    view.square().sum().backward()
    assert given.grad is not None
    assert bool(given.grad.isfinite().all())
    assert float(given.grad.abs().sum()) > 0


def test_each_look_and_each_picture_has_chances_of_its_own() -> None:
    one = pictures(1).expand(6, -1, -1, -1)
    views = torch.cat([diff_augment(one, ["color"], chances(), look) for look in VIEWS])
    assert len({view.numpy().tobytes() for view in views}) == 6 * len(VIEWS)
    again = diff_augment(one, ["color"], chances(), VIEWS[1])
    assert torch.equal(again, views[6:12])
    # A process's part of a batch is seen as it is seen in the whole.
    part = diff_augment(one[2:4], list(KINDS), chances()[2:4], "fake")
    torch.testing.assert_close(part, diff_augment(one, list(KINDS), chances(), "fake")[2:4])


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), list(KINDS)])
@pytest.mark.parametrize("side", [16, 28])
@pytest.mark.parametrize("look", VIEWS)
def test_each_change_is_that_of_one_image_written_out(
    kinds: list[Kind], side: int, look: str
) -> None:
    given, numbers = pictures(12, side=side), chances(12)
    numbers[0], numbers[1] = 0, 1 - 2**-24  # the least and the greatest
    view = diff_augment(given, kinds, numbers, look)
    assert view.is_contiguous(memory_format=torch.channels_last)
    expected = plain_augmentation(given.double(), kinds, numbers, look)
    torch.testing.assert_close(view.double(), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(diff_augment(given, kinds, numbers, look), view)


def test_translation_shifts_by_whole_pixels_up_to_an_eighth() -> None:
    side, count = 16, 400
    given = pictures(1).expand(count, -1, -1, -1)
    found = set()
    padded = torch.nn.functional.pad(given[0], (2, 2, 2, 2))
    windows = {
        (y, x): padded[:, 2 - y : 2 - y + side, 2 - x : 2 - x + side]
        for y in range(-2, 3)
        for x in range(-2, 3)
    }
    for view in diff_augment(given, ["translation"], chances(count), "real"):
        (shift,) = [shift for shift, window in windows.items() if torch.equal(window, view)]
        found.add(shift)
    assert found == set(windows)


def test_cutout_is_a_grey_square_of_half_the_side_or_what_of_it_is_inside() -> None:
    given = torch.ones(200, 1, 16, 16)
    holes = diff_augment(given, ["cutout"], chances(200), "real") == 0
    for hole in holes[:, 0]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns)
        assert 4 <= int(rows.sum()) <= 8
        assert 4 <= int(columns.sum()) <= 8
    assert int(holes.sum((1, 2, 3)).max()) == 64


def test_color_changes_brightness_saturation_and_contrast_and_no_more() -> None:
    """With chances of one half there is no change but for saturation and contrast times 1."""
    half = torch.full((6, UNIFORMS_PER_IMAGE), 0.5)
    torch.testing.assert_close(diff_augment(pictures(), ["color"], half, "real"), pictures())
    grey = half.clone()
    grey[:, 3] = 0  # no saturation: all channels alike
    view = diff_augment(pictures(), ["color"], grey, "real")
    torch.testing.assert_close(view, pictures().mean(1, keepdim=True).expand(-1, 3, -1, -1))
    bright = half.clone()
    bright[:, 2] = 1
    torch.testing.assert_close(
        diff_augment(pictures(), ["color"], bright, "real"), pictures() + 0.5
    )
    flat = half.clone()
    flat[:, 4] = 0
    view = diff_augment(pictures(), ["color"], flat, "real")
    torch.testing.assert_close(view.std((1, 2, 3)), pictures().std((1, 2, 3)) / 2)


def test_about_half_are_mirrored_and_the_others_are_not() -> None:
    given = pictures(1).expand(1000, -1, -1, -1)
    there = random_hflip(given, chances(1000))
    turned = torch.tensor([torch.equal(view, given[0].flip(2)) for view in there])
    kept = torch.tensor([torch.equal(view, given[0]) for view in there])
    assert bool((turned ^ kept).all())
    assert 420 < int(turned.sum()) < 580


def test_the_sheet_begins_with_pictures_as_they_are(make_settings: Callable[..., Settings]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    assert augmentation_preview(make_settings().train, pixels) is None
    assert (
        augmentation_preview(make_settings(train={"horizontal_flip": True}).train, pixels) is None
    )
    settings = make_settings(train={"augment": ["cutout"], "horizontal_flip": True}).train
    sheet = augmentation_preview(settings, pixels)
    assert sheet is not None
    assert sheet.shape == (6, 8, 16, 16, 3)
    assert np.array_equal(sheet[:, 0], pixels[[0, 3, 7, 11, 15, 19]])
    assert np.array_equal(sheet, augmentation_preview(settings, pixels))
    # A square that is cut out may lie at the same place twice.
    assert len({view.tobytes() for view in sheet.reshape(48, 16, 16, 3)}) >= 46


@pytest.mark.parametrize(
    "changes", [{"augment": ["color"]}, {"augment": ["color"], "horizontal_flip": True}]
)
@pytest.mark.parametrize("count", [1, 4, 6])
def test_the_sheet_shows_either_change_of_all_or_six_images(
    make_settings: Callable[..., Settings], changes: dict[str, Any], count: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    sheet = augmentation_preview(make_settings(train=changes).train, pixels)
    assert sheet is not None
    assert sheet.shape == (count, 8, 16, 16, 3)
    assert np.array_equal(sheet[:, 0], pixels)
    assert not (sheet[:, 1:] == pixels[:, None]).all((2, 3, 4)).any()
    stream = torch_generator(make_settings().train.seed, "train.augmented")
    first = torch.rand(count, UNIFORMS_PER_IMAGE, generator=stream)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    view = random_hflip(images, first) if "horizontal_flip" in changes else images
    view = diff_augment(view, changes.get("augment", []), first, "real")
    expected = ((view + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(sheet[:, 1] - expected).max() <= 1
