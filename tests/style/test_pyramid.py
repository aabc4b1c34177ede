"""Pyramid levels, from coarse to fine."""

import pytest
import torch

from atelier.style.loss_log import IterationLosses, Preview
from atelier.style.objective import Style
from atelier.style.pyramid import levels, resize
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import RecordedEvents, options, smooth, tasks


def test_levels_grow_by_the_root_of_2_and_have_equal_iterations() -> None:
    pyramid = levels(options(pyramid_levels=5, iterations=100), 256, 200)
    assert [(level.height, level.width) for level in pyramid] == [
        (64, 50), (91, 71), (128, 100), (181, 141), (256, 200)
    ]  # fmt: skip
    assert [level.end_iteration for level in pyramid] == [20, 40, 60, 80, 100]


def test_too_small_levels_are_skipped() -> None:
    pyramid = levels(options(pyramid_levels=9, iterations=100), 64, 64)
    assert [level.height for level in pyramid] == [32, 45, 64]
    assert pyramid[-1].end_iteration == 100
    assert [level.height for level in levels(options(pyramid_levels=4), 24, 24)] == [24]


def test_content_is_boosted_only_at_the_coarsest_level() -> None:
    pyramid = levels(
        options(pyramid_levels=2, iterations=200, optimizer="spectral_lbfgs", weights="imagenet"),
        64,
        64,
    )
    assert [(level.height, level.content_boost, level.end_iteration) for level in pyramid] == [
        (45, 10.0, 5), (45, 3.0, 15), (45, 1.0, 100), (64, 1.0, 200)
    ]  # fmt: skip


@pytest.mark.parametrize("side", [12, 45, 64, 96])
def test_resizing_preserves_constant_color_and_gradients(side: int) -> None:
    constant = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(resize(constant, side, side), torch.full((1, 3, side, side), 0.3))
    ramp = torch.linspace(0, 1, 65)[:-1].expand(1, 3, 64, 64) + 1 / 128
    middle = slice(side // 4, -(side // 4))
    expected = (torch.arange(side) + 0.5) / side
    resized = resize(ramp, side, side)[0, 0, 0]
    torch.testing.assert_close(resized[middle], expected[middle], atol=2e-3, rtol=0)


@pytest.mark.parametrize("start", ["content", "noise"])
def test_previews_of_all_levels_have_the_size_of_the_result(start: str) -> None:
    settings = options(optimizer="spectral_lbfgs", pyramid_levels=3, iterations=30, init=start)
    content = torch.nn.functional.interpolate(smooth(1), 64, mode="bicubic").clamp(0, 1)
    vgg = build_vgg19("random", "average", 1, 6)
    losses: list[IterationLosses] = []
    previews: list[Preview] = []
    (result,) = transfer_style(
        tasks([content], smooth(2)), settings, vgg, RecordedEvents(losses, previews)
    )
    assert result.shape == content.shape
    assert [iterate.iteration for iterate in losses] == list(range(1, 31))
    assert [(preview.iteration, preview.pixels.shape[-1]) for preview in previews] == [
        (10, 64), (20, 64), (30, 64)
    ]  # fmt: skip
    assert all(0 <= preview.pixels.min() <= preview.pixels.max() <= 1 for preview in previews)
    assert torch.equal(previews[-1].pixels, result)


@pytest.mark.parametrize("preserve_color", ["none", "luminance"])
def test_preview_of_a_coarse_level_is_unchanged_outside_masks(preserve_color: str) -> None:
    settings = options(
        optimizer="spectral_lbfgs", pyramid_levels=3, iterations=30, preserve_color=preserve_color
    )
    content = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :24] = 1
    style = Style((smooth(2),), (), (mask,))
    vgg = build_vgg19("random", "average", 1, 6)
    previews: list[Preview] = []
    list(
        transfer_style(tasks([content], [style]), settings, vgg, RecordedEvents(previews=previews))
    )
    for preview in previews:
        assert torch.equal(preview.pixels[..., 24:], content[..., 24:])
        assert not torch.equal(preview.pixels[..., :24], content[..., :24])


@pytest.mark.parametrize("shape", [(19, 19), (8, 300), (9, 2000)])
def test_style_is_large_enough_for_the_layers_at_every_level(shape: tuple[int, int]) -> None:
    settings = options(
        optimizer="spectral_lbfgs", pyramid_levels=4, iterations=4, style_layers={20: 1.0}
    )
    content = torch.nn.functional.interpolate(smooth(1), 96, mode="bilinear")
    style = torch.nn.functional.interpolate(smooth(2), shape, mode="bilinear")
    vgg = build_vgg19("random", "average", 1, 20)
    (result,) = transfer_style(tasks([content], style), settings, vgg)
    assert result.isfinite().all()


def test_upscaling_preserves_detail_of_the_content() -> None:
    """If the style is the content, the result is the content without blur."""
    settings = options(optimizer="spectral_lbfgs", pyramid_levels=3, iterations=6)
    content = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    vgg = build_vgg19("random", "average", 1, 6)
    (result,) = transfer_style(tasks([content], content), settings, vgg)
    assert (result - content).abs().mean() < 0.02
