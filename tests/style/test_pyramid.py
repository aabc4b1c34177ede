"""Pyramid levels, from coarse to fine."""

import pytest
import torch

from atelier.style.loss_log import IterationLosses, Preview
from atelier.style.objective import Style
from atelier.style.pyramid import levels, resize
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import CPU, options, smooth


def test_each_scale_is_the_root_of_2_larger_and_gets_as_many_evaluations() -> None:
    way = levels(options(pyramid_levels=5, iterations=100), 256, 200)
    assert [(leg.height, leg.width) for leg in way] == [
        (64, 50), (91, 71), (128, 100), (181, 141), (256, 200)
    ]  # fmt: skip
    assert [leg.end_iteration for leg in way] == [20, 40, 60, 80, 100]


def test_too_small_levels_are_skipped() -> None:
    way = levels(options(pyramid_levels=9, iterations=100), 64, 64)
    assert [leg.height for leg in way] == [32, 45, 64]
    assert way[-1].end_iteration == 100
    assert [leg.height for leg in levels(options(pyramid_levels=4), 24, 24)] == [24]


def test_content_is_boosted_only_at_the_coarsest_level() -> None:
    way = levels(
        options(pyramid_levels=2, iterations=200, optimizer="spectral_lbfgs", weights="imagenet"),
        64,
        64,
    )
    assert [(leg.height, leg.content_boost, leg.end_iteration) for leg in way] == [
        (45, 10.0, 5), (45, 3.0, 15), (45, 1.0, 100), (64, 1.0, 200)
    ]  # fmt: skip


@pytest.mark.parametrize("side", [12, 45, 64, 96])
def test_resizing_preserves_constant_color_and_gradients(side: int) -> None:
    plain = torch.full((1, 3, 64, 64), 0.3)
    torch.testing.assert_close(resize(plain, side, side), torch.full((1, 3, side, side), 0.3))
    slope = torch.linspace(0, 1, 65)[:-1].expand(1, 3, 64, 64) + 1 / 128
    middle = slice(side // 4, -(side // 4))
    expected = (torch.arange(side) + 0.5) / side
    found = resize(slope, side, side)[0, 0, 0]
    torch.testing.assert_close(found[middle], expected[middle], atol=2e-3, rtol=0)


@pytest.mark.parametrize("start", ["content", "noise"])
def test_previews_of_all_levels_have_the_size_of_the_result(start: str) -> None:
    settings = options(optimizer="spectral_lbfgs", pyramid_levels=3, iterations=30, init=start)
    content = torch.nn.functional.interpolate(smooth(1), 64, mode="bicubic").clamp(0, 1)
    vgg = build_vgg19("random", "average", 1, 6)
    told: list[IterationLosses] = []
    seen: list[Preview] = []
    (painted,) = transfer_style(
        [content], smooth(2), settings, vgg, CPU, told.append, on_preview=seen.append
    )
    assert painted.shape == content.shape
    assert [step.iteration for step in told] == list(range(1, 31))
    assert [(glimpse.iteration, glimpse.pixels.shape[-1]) for glimpse in seen] == [
        (10, 64), (20, 64), (30, 64)
    ]  # fmt: skip
    assert all(0 <= one.pixels.min() <= one.pixels.max() <= 1 for one in seen)
    assert torch.equal(seen[-1].pixels, painted)


@pytest.mark.parametrize("keep", ["none", "luminance"])
def test_preview_of_a_coarse_level_is_unchanged_outside_masks(keep: str) -> None:
    """As the painting does: to the bit, and with the content's own detail."""
    settings = options(
        optimizer="spectral_lbfgs", pyramid_levels=3, iterations=30, preserve_color=keep
    )
    content = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :24] = 1
    look = Style((smooth(2),), (), (mask,))
    vgg = build_vgg19("random", "average", 1, 6)
    seen: list[Preview] = []
    list(
        transfer_style(
            [content], [look], settings, vgg, CPU, lambda step: None, on_preview=seen.append
        )
    )
    for glimpse in seen:
        assert torch.equal(glimpse.pixels[..., 24:], content[..., 24:])
        assert not torch.equal(glimpse.pixels[..., :24], content[..., :24])


@pytest.mark.parametrize("shape", [(19, 19), (8, 300), (9, 2000)])
def test_style_is_large_enough_for_the_layers_at_every_level(shape: tuple[int, int]) -> None:
    settings = options(
        optimizer="spectral_lbfgs", pyramid_levels=4, iterations=4, style_layers={20: 1.0}
    )
    content = torch.nn.functional.interpolate(smooth(1), 96, mode="bilinear")
    style = torch.nn.functional.interpolate(smooth(2), shape, mode="bilinear")
    vgg = build_vgg19("random", "average", 1, 20)
    (painted,) = transfer_style([content], style, settings, vgg, CPU, lambda step: None)
    assert painted.isfinite().all()


def test_upscaling_preserves_the_contents_detail() -> None:
    """Where nothing is to be painted, the finest scale is the content and not a blurred one."""
    settings = options(optimizer="spectral_lbfgs", pyramid_levels=3, iterations=6)
    content = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    vgg = build_vgg19("random", "average", 1, 6)
    (painted,) = transfer_style([content], content, settings, vgg, CPU, lambda step: None)
    assert (painted - content).abs().mean() < 0.02
