"""User controls: masks, strength, preserved colors, mixed styles, smoothness."""

import pytest
import torch
from torch import Tensor

from atelier.core.arrays import to_uint8
from atelier.core.settings import StylizeSettings
from atelier.style import color_preservation
from atelier.style.loss_log import IterationLosses
from atelier.style.losses import style_statistics
from atelier.style.objective import FeatureObjective, Style, build_targets, weighted_sum
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19, calibrate, preprocess

from ..support.painting import RecordedEvents, options, smooth, tasks

FAST_SETTINGS = {"optimizer": "spectral_lbfgs", "iterations": 12}


def stylize(
    settings: StylizeSettings, content: Tensor, style: Style
) -> tuple[Tensor, list[IterationLosses]]:
    vgg = build_vgg19("random", settings.pooling, 1, 6, settings.padding)
    losses: list[IterationLosses] = []
    (result,) = transfer_style(tasks([content], [style]), settings, vgg, RecordedEvents(losses))
    return result, losses


def _distance(image: Tensor, style: Tensor) -> float:
    """Return the style loss of an image."""
    settings = options(content_layers={})
    vgg = build_vgg19("random", "average", 1, 6)
    vgg = calibrate(vgg, preprocess(style, "torchvision"))
    objective = FeatureObjective(vgg, settings, *image.shape[2:])
    targets = build_targets(image, [Style((style,))], settings, vgg)
    return float(weighted_sum(objective.losses(image, targets), settings))


@pytest.mark.parametrize("optimizer", ["spectral_lbfgs", "adam", "lbfgs"])
@pytest.mark.parametrize("start", ["content", "style", "noise"])
def test_content_outside_all_masks_is_bit_identical(optimizer: str, start: str) -> None:
    lr = 0.05 if optimizer == "adam" else 1.0
    settings = options(optimizer=optimizer, init=start, lr=lr, iterations=12)
    masks = torch.zeros(2, 1, 1, 32, 32)
    masks[0, ..., :10], masks[1, ..., 20:28, 16:] = 1, 0.5
    content = smooth(1)
    result, _ = stylize(settings, content, Style((smooth(2), smooth(3)), (), tuple(masks)))
    inside = masks.amax(0)[0, 0] > 0
    assert torch.equal(result[..., ~inside], content[..., ~inside])
    assert ((result - content).abs().amax(1)[0][inside] > 1e-3).float().mean() > 0.9


def test_each_style_applies_only_under_its_mask() -> None:
    """Apply a red style on the left and a blue style on the right."""
    left = torch.zeros(1, 1, 32, 32)
    left[..., :16] = 1
    red = 0.4 * smooth(2) + torch.tensor([0.6, 0.0, 0.0]).view(1, 3, 1, 1)
    blue = 0.4 * smooth(3) + torch.tensor([0.0, 0.0, 0.6]).view(1, 3, 1, 1)
    settings = options(**{**FAST_SETTINGS, "iterations": 40}, content_layers={})
    result, _ = stylize(settings, smooth(1), Style((red, blue), (), (left, 1 - left)))
    warmth = (result[0, 0] - result[0, 2]).mean(0)
    assert warmth[:14].mean() > 0.2
    assert warmth[18:].mean() < -0.2


@pytest.mark.parametrize("preserve_color", ["none", "luminance", "histogram"])
@pytest.mark.parametrize("start", ["content", "noise"])
def test_strength_0_returns_the_content_unchanged(preserve_color: str, start: str) -> None:
    settings = options(
        **FAST_SETTINGS,
        style_strength=0.0,
        preserve_color=preserve_color,
        init=start,
        tv_weight=0.1,
    )
    result, losses = stylize(settings, smooth(1), Style((smooth(2),)))
    assert torch.equal(result, smooth(1))
    assert len(losses) == 1


def test_higher_strength_is_nearer_to_the_style() -> None:
    content, style = smooth(1), smooth(2)
    results = [
        stylize(options(**FAST_SETTINGS, style_strength=strength), content, Style((style,)))[0]
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    to_style = [_distance(result, style) for result in results]
    from_content = [float((result - content).square().mean()) for result in results]
    assert to_style == sorted(to_style, reverse=True)
    assert from_content == sorted(from_content)
    assert torch.equal(results[-1], stylize(options(**FAST_SETTINGS), content, Style((style,)))[0])


def test_effect_of_strength_does_not_depend_on_size() -> None:
    """Compare style losses relative to the style loss of the content."""

    def relative_distance(side: int) -> float:
        content, style = (
            torch.nn.functional.interpolate(smooth(seed), side, mode="bicubic").clamp(0, 1)
            for seed in (1, 2)
        )
        settings = options(**{**FAST_SETTINGS, "iterations": 30}, style_strength=0.5)
        result, _ = stylize(settings, content, Style((style,)))
        return _distance(result, style) / _distance(content, style)

    assert relative_distance(32) == pytest.approx(relative_distance(64), abs=0.04)


def test_preserved_chroma_differs_by_at_most_one_level() -> None:
    """Include colors at the limits of the gamut."""
    content = smooth(1).clone()
    content[..., :8] = torch.tensor([1.0, 0.0, 0.05]).view(1, 3, 1, 1)
    settings = options(**FAST_SETTINGS, preserve_color="luminance")
    result, _ = stylize(settings, content, Style((smooth(2),)))

    def chroma(image: Tensor) -> Tensor:
        levels = torch.from_numpy(
            to_uint8(image, signed=False)[0].numpy().astype("float32")
        ).permute(2, 0, 1)[None]
        return levels - color_preservation.luminance(levels)

    assert (chroma(result) - chroma(content)).abs().max() <= 1.0
    change = (color_preservation.luminance(result) - color_preservation.luminance(content)).abs()
    assert change[..., 8:].mean() > 0.02


def test_optimized_luminance_is_that_of_the_saved_image() -> None:
    """Luminance within its bounds is not clipped when the image is saved."""
    contents = torch.cat([smooth(1), smooth(3)])
    bounds = color_preservation.luminance_bounds(contents)
    for fraction in (0.0, 0.3, 1.0):
        gray = (
            (bounds.low + fraction * (bounds.high - bounds.low))
            .amin(1, keepdim=True)
            .expand(-1, 3, -1, -1)
        )
        saved = color_preservation.recombine_luminance(gray, contents)
        torch.testing.assert_close(
            color_preservation.luminance(saved), gray.contiguous(), atol=1e-6, rtol=0
        )


def test_recolored_style_has_the_mean_and_covariance_of_the_content() -> None:
    content, style = 0.4 + 0.2 * smooth(1), smooth(2)
    changed = color_preservation.match_color_statistics(style, content).flatten(2)[0]
    expected = content.flatten(2)[0]
    torch.testing.assert_close(changed.mean(1), expected.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(changed), torch.cov(expected), atol=1e-4, rtol=0)


def test_style_matched_to_itself_is_unchanged() -> None:
    style = smooth(2)
    torch.testing.assert_close(
        color_preservation.match_color_statistics(style, style), style, atol=1e-4, rtol=0
    )


def test_mixed_styles_have_the_mean_of_their_statistics() -> None:
    settings, content = options(), smooth(1)
    vgg = build_vgg19("random", "average", 1, 6)
    mixed = Style((smooth(2), smooth(3)), (3.0, 1.0))
    (region,) = build_targets(content, [mixed], settings, vgg).styles
    for layer, statistics in region.statistics.items():
        maps = [vgg[: layer + 1](preprocess(style, "torchvision")) for style in mixed.images]
        mean = 0.75 * style_statistics(maps[0], "gram") + 0.25 * style_statistics(maps[1], "gram")
        torch.testing.assert_close(statistics, mean)


def test_style_of_weight_0_has_no_effect() -> None:
    """Random weights are calibrated with all styles; `imagenet` skips the calibration."""
    settings = options(**FAST_SETTINGS, weights="imagenet")
    alone, _ = stylize(settings, smooth(1), Style((smooth(2),)))
    mixed_result, _ = stylize(settings, smooth(1), Style((smooth(2), smooth(3)), (1.0, 0.0)))
    torch.testing.assert_close(mixed_result, alone, atol=1e-4, rtol=0)


def test_each_image_of_a_batch_has_its_own_style() -> None:
    settings = options(**FAST_SETTINGS, weights="imagenet")
    vgg = build_vgg19("random", "average", 1, 6)
    contents, styles = (
        [smooth(1), smooth(4)],
        [Style((smooth(2),)), Style((smooth(3),))],
    )
    together = list(transfer_style(tasks(contents, styles), settings, vgg, batch_size=2))
    for result, content, style in zip(together, contents, styles, strict=True):
        alone, _ = stylize(settings, content, style)
        torch.testing.assert_close(result, alone, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"pooling": "l2"},
        {"pooling": "max", "padding": "replicate"},
        {"padding": "replicate", "precision": "bf16"},
        {"style_loss": "moments"},
        {"style_loss": "moments", "precision": "bf16"},
        {"tv_weight": 0.5},
        {"init": "style"},
        {"optimizer": "adam", "lr": 0.03, "iterate_averaging": 0.9},
        {"pyramid_levels": 3, "iterations": 30},
    ],
    ids=str,
)
def test_every_setting_lowers_the_loss(changes: dict[str, object]) -> None:
    settings = options(**{**FAST_SETTINGS, "iterations": 20, **changes})
    result, losses = stylize(settings, smooth(1), Style((smooth(2),)))
    assert losses[-1].total < 0.7 * losses[0].total
    assert 0 <= result.min() <= result.max() <= 1


def test_higher_tv_weight_is_smoother() -> None:
    roughness = [
        float(result.diff(dim=3).square().mean())
        for weight in (0.0, 1.0, 100.0)
        for result, _ in [
            stylize(options(**FAST_SETTINGS, tv_weight=weight), smooth(1), Style((smooth(2),)))
        ]
    ]
    assert roughness == sorted(roughness, reverse=True)


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("spectral_lbfgs", 1.0), ("adam", 0.05), ("lbfgs", 1.0)]
)
def test_final_loss_is_that_of_the_saved_image(optimizer: str, lr: float) -> None:
    """Use a style with colors at the limits of the gamut, so that values are clipped."""
    settings = options(optimizer=optimizer, lr=lr, iterations=30, content_layers={})
    style = (smooth(2) > 0.5).float()
    result, losses = stylize(settings, smooth(1), Style((style,)))
    assert _distance(result, style) <= 1.001 * min(iterate.total for iterate in losses[-2:])
    assert ((result == 0) | (result == 1) | (result < 0.01) | (result > 0.99)).any()
