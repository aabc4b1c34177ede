"""Differentiable augmentation against a plain reference, and its preview."""

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


def random_images(count: int = 6, channels: int = 3, side: int = 16) -> Tensor:
    stream = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, side, side, generator=stream) * 1.8 - 0.9


def uniforms(count: int = 6, seed: int = 2) -> Tensor:
    return torch.rand(count, UNIFORMS_PER_IMAGE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kinds", [[], *([kind] for kind in KINDS), list(KINDS)])
@pytest.mark.parametrize(("channels", "side"), [(3, 16), (1, 28)])
def test_diff_augment_preserves_shape_and_passes_gradients(
    kinds: list[Kind], channels: int, side: int
) -> None:
    images = random_images(channels=channels, side=side).requires_grad_()
    view = diff_augment(images, kinds, uniforms(), "real")
    assert view.shape == images.shape
    assert view.dtype == torch.float32
    assert torch.equal(view, images) == (not kinds)
    view.square().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    assert float(images.grad.abs().sum()) > 0


def test_each_view_and_image_has_its_own_random_numbers() -> None:
    image = random_images(1).expand(6, -1, -1, -1)
    views = torch.cat(
        [diff_augment(image, ["color"], uniforms(), view_name) for view_name in VIEWS]
    )
    assert len({view.numpy().tobytes() for view in views}) == 6 * len(VIEWS)
    repeated = diff_augment(image, ["color"], uniforms(), VIEWS[1])
    assert torch.equal(repeated, views[6:12])
    # A shard of a batch is augmented like the same images in the whole batch.
    part = diff_augment(image[2:4], list(KINDS), uniforms()[2:4], "fake")
    torch.testing.assert_close(part, diff_augment(image, list(KINDS), uniforms(), "fake")[2:4])


@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), list(KINDS)])
@pytest.mark.parametrize("side", [16, 28])
@pytest.mark.parametrize("view_name", VIEWS)
def test_augmentations_match_plain_reference(kinds: list[Kind], side: int, view_name: str) -> None:
    images, numbers = random_images(12, side=side), uniforms(12)
    numbers[0], numbers[1] = 0, 1 - 2**-24  # minimum and maximum
    view = diff_augment(images, kinds, numbers, view_name)
    assert view.is_contiguous(memory_format=torch.channels_last)
    expected = plain_augmentation(images.double(), kinds, numbers, view_name)
    torch.testing.assert_close(view.double(), expected, rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(diff_augment(images, kinds, numbers, view_name), view)


def test_translation_shifts_by_whole_pixels_up_to_an_eighth() -> None:
    side, count = 16, 400
    images = random_images(1).expand(count, -1, -1, -1)
    found = set()
    padded = torch.nn.functional.pad(images[0], (2, 2, 2, 2))
    windows = {
        (y, x): padded[:, 2 - y : 2 - y + side, 2 - x : 2 - x + side]
        for y in range(-2, 3)
        for x in range(-2, 3)
    }
    for view in diff_augment(images, ["translation"], uniforms(count), "real"):
        (shift,) = [shift for shift, window in windows.items() if torch.equal(window, view)]
        found.add(shift)
    assert found == set(windows)


def test_cutout_is_gray_square_of_half_the_size() -> None:
    images = torch.ones(200, 1, 16, 16)
    holes = diff_augment(images, ["cutout"], uniforms(200), "real") == 0
    for hole in holes[:, 0]:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns)
        assert 4 <= int(rows.sum()) <= 8
        assert 4 <= int(columns.sum()) <= 8
    assert int(holes.sum((1, 2, 3)).max()) == 64


def test_color_changes_only_brightness_saturation_and_contrast() -> None:
    """With random numbers of one half, saturation and contrast are multiplied by 1."""
    half = torch.full((6, UNIFORMS_PER_IMAGE), 0.5)
    torch.testing.assert_close(
        diff_augment(random_images(), ["color"], half, "real"), random_images()
    )
    gray = half.clone()
    gray[:, 3] = 0  # no saturation: all channels are equal
    view = diff_augment(random_images(), ["color"], gray, "real")
    torch.testing.assert_close(view, random_images().mean(1, keepdim=True).expand(-1, 3, -1, -1))
    bright = half.clone()
    bright[:, 2] = 1
    torch.testing.assert_close(
        diff_augment(random_images(), ["color"], bright, "real"), random_images() + 0.5
    )
    flat = half.clone()
    flat[:, 4] = 0
    view = diff_augment(random_images(), ["color"], flat, "real")
    torch.testing.assert_close(view.std((1, 2, 3)), random_images().std((1, 2, 3)) / 2)


def test_about_half_of_images_are_flipped() -> None:
    images = random_images(1).expand(1000, -1, -1, -1)
    flipped = random_hflip(images, uniforms(1000))
    is_flipped = torch.tensor([torch.equal(view, images[0].flip(2)) for view in flipped])
    is_unchanged = torch.tensor([torch.equal(view, images[0]) for view in flipped])
    assert bool((is_flipped ^ is_unchanged).all())
    assert 420 < int(is_flipped.sum()) < 580


def test_preview_starts_with_original_images(make_settings: Callable[..., Settings]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    assert augmentation_preview(make_settings().train, pixels) is None
    assert (
        augmentation_preview(make_settings(train={"horizontal_flip": True}).train, pixels) is None
    )
    settings = make_settings(train={"augment": ["cutout"], "horizontal_flip": True}).train
    preview = augmentation_preview(settings, pixels)
    assert preview is not None
    assert preview.shape == (6, 8, 16, 16, 3)
    assert np.array_equal(preview[:, 0], pixels[[0, 3, 7, 11, 15, 19]])
    assert np.array_equal(preview, augmentation_preview(settings, pixels))
    # Two cutout squares may have the same position.
    assert len({view.tobytes() for view in preview.reshape(48, 16, 16, 3)}) >= 46


@pytest.mark.parametrize(
    "changes", [{"augment": ["color"]}, {"augment": ["color"], "horizontal_flip": True}]
)
@pytest.mark.parametrize("count", [1, 4, 6])
def test_preview_shows_augmentations_of_up_to_six_images(
    make_settings: Callable[..., Settings], changes: dict[str, Any], count: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    preview = augmentation_preview(make_settings(train=changes).train, pixels)
    assert preview is not None
    assert preview.shape == (count, 8, 16, 16, 3)
    assert np.array_equal(preview[:, 0], pixels)
    assert not (preview[:, 1:] == pixels[:, None]).all((2, 3, 4)).any()
    stream = torch_generator(make_settings().train.seed, "train.augmented")
    first = torch.rand(count, UNIFORMS_PER_IMAGE, generator=stream)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    view = random_hflip(images, first) if "horizontal_flip" in changes else images
    view = diff_augment(view, changes.get("augment", []), first, "real")
    expected = ((view + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(preview[:, 1] - expected).max() <= 1
