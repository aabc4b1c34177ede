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

from ..support.painting import CPU, options, smooth

FAST = {"optimizer": "spectral_lbfgs", "iterations": 12}


def painted(
    settings: StylizeSettings, content: Tensor, look: Style
) -> tuple[Tensor, list[IterationLosses]]:
    vgg = build_vgg19("random", settings.pooling, 1, 6, settings.padding)
    told: list[IterationLosses] = []
    (result,) = transfer_style([content], [look], settings, vgg, CPU, told.append)
    return result, told


def _distance(picture: Tensor, style: Tensor) -> float:
    """Of textures, by the settings of these tests."""
    settings = options(content_layers={})
    vgg = build_vgg19("random", "average", 1, 6)
    vgg = calibrate(vgg, preprocess(style, "torchvision"))
    eye = FeatureObjective(vgg, settings, *picture.shape[2:])
    goal = build_targets(picture, [Style((style,))], settings, vgg)
    return float(weighted_sum(eye.losses(picture, goal), settings))


@pytest.mark.parametrize("optimizer", ["spectral_lbfgs", "adam", "lbfgs"])
@pytest.mark.parametrize("start", ["content", "style", "noise"])
def test_content_outside_all_masks_is_bit_identical(optimizer: str, start: str) -> None:
    lr = 0.05 if optimizer == "adam" else 1.0
    settings = options(optimizer=optimizer, init=start, lr=lr, iterations=12)
    masks = torch.zeros(2, 1, 1, 32, 32)
    masks[0, ..., :10], masks[1, ..., 20:28, 16:] = 1, 0.5
    content = smooth(1)
    result, _ = painted(settings, content, Style((smooth(2), smooth(3)), (), tuple(masks)))
    inside = masks.amax(0)[0, 0] > 0
    assert torch.equal(result[..., ~inside], content[..., ~inside])
    assert ((result - content).abs().amax(1)[0][inside] > 1e-3).float().mean() > 0.9


def test_each_style_applies_only_under_its_mask() -> None:
    """Red goes left and blue goes right, though both are asked for."""
    left = torch.zeros(1, 1, 32, 32)
    left[..., :16] = 1
    red = 0.4 * smooth(2) + torch.tensor([0.6, 0.0, 0.0]).view(1, 3, 1, 1)
    blue = 0.4 * smooth(3) + torch.tensor([0.0, 0.0, 0.6]).view(1, 3, 1, 1)
    settings = options(**{**FAST, "iterations": 40}, content_layers={})
    result, _ = painted(settings, smooth(1), Style((red, blue), (), (left, 1 - left)))
    warmth = (result[0, 0] - result[0, 2]).mean(0)
    assert warmth[:14].mean() > 0.2
    assert warmth[18:].mean() < -0.2


@pytest.mark.parametrize("keep", ["none", "luminance", "histogram"])
@pytest.mark.parametrize("start", ["content", "noise"])
def test_strength_0_returns_the_content_unchanged(keep: str, start: str) -> None:
    settings = options(**FAST, style_strength=0.0, preserve_color=keep, init=start, tv_weight=0.1)
    result, told = painted(settings, smooth(1), Style((smooth(2),)))
    assert torch.equal(result, smooth(1))
    assert len(told) == 1


def test_higher_strength_is_nearer_to_the_style() -> None:
    content, style = smooth(1), smooth(2)
    results = [
        painted(options(**FAST, style_strength=strength), content, Style((style,)))[0]
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    to_style = [_distance(result, style) for result in results]
    from_content = [float((result - content).square().mean()) for result in results]
    assert to_style == sorted(to_style, reverse=True)
    assert from_content == sorted(from_content)
    assert torch.equal(results[-1], painted(options(**FAST), content, Style((style,)))[0])


def test_effect_of_strength_does_not_depend_on_size() -> None:
    """The same part of the way from the content's texture to the style's."""

    def way(side: int) -> float:
        content, style = (
            torch.nn.functional.interpolate(smooth(seed), side, mode="bicubic").clamp(0, 1)
            for seed in (1, 2)
        )
        settings = options(**{**FAST, "iterations": 30}, style_strength=0.5)
        result, _ = painted(settings, content, Style((style,)))
        return _distance(result, style) / _distance(content, style)

    assert way(32) == pytest.approx(way(64), abs=0.04)


def test_preserved_chroma_differs_by_at_most_one_level() -> None:
    """Also of colours at the screen's limits, which little lightness would push out."""
    content = smooth(1).clone()
    content[..., :8] = torch.tensor([1.0, 0.0, 0.05]).view(1, 3, 1, 1)
    settings = options(**FAST, preserve_color="luminance")
    result, _ = painted(settings, content, Style((smooth(2),)))

    def chroma(picture: Tensor) -> Tensor:
        levels = torch.from_numpy(
            to_uint8(picture, signed=False)[0].numpy().astype("float32")
        ).permute(2, 0, 1)[None]
        return levels - color_preservation.luminance(levels)

    assert (chroma(result) - chroma(content)).abs().max() <= 1.0
    change = (color_preservation.luminance(result) - color_preservation.luminance(content)).abs()
    assert change[..., 8:].mean() > 0.02


def test_optimized_luminance_is_that_of_the_saved_image() -> None:
    """No lightness is cut: the saved picture's is the canvas' own."""
    contents = torch.cat([smooth(1), smooth(3)])
    room = color_preservation.luminance_bounds(contents)
    for share in (0.0, 0.3, 1.0):
        grey = (
            (room.low + share * (room.high - room.low)).amin(1, keepdim=True).expand(-1, 3, -1, -1)
        )
        saved = color_preservation.recombine_luminance(grey, contents)
        torch.testing.assert_close(
            color_preservation.luminance(saved), grey.contiguous(), atol=1e-6, rtol=0
        )


def test_recolored_style_has_the_contents_mean_and_covariance() -> None:
    content, style = 0.4 + 0.2 * smooth(1), smooth(2)
    changed = color_preservation.match_color_statistics(style, content).flatten(2)[0]
    wanted = content.flatten(2)[0]
    torch.testing.assert_close(changed.mean(1), wanted.mean(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(changed), torch.cov(wanted), atol=1e-4, rtol=0)


def test_style_matched_to_itself_is_unchanged() -> None:
    style = smooth(2)
    torch.testing.assert_close(
        color_preservation.match_color_statistics(style, style), style, atol=1e-4, rtol=0
    )


def test_mixed_styles_have_the_mean_of_their_statistics() -> None:
    settings, content = options(), smooth(1)
    vgg = build_vgg19("random", "average", 1, 6)
    look = Style((smooth(2), smooth(3)), (3.0, 1.0))
    (region,) = build_targets(content, [look], settings, vgg).styles
    for layer, found in region.statistics.items():
        maps = [vgg[: layer + 1](preprocess(style, "torchvision")) for style in look.images]
        mean = 0.75 * style_statistics(maps[0], "gram") + 0.25 * style_statistics(maps[1], "gram")
        torch.testing.assert_close(found, mean)


def test_style_of_weight_0_has_no_effect() -> None:
    """But for the calibration of random weights, which knows all styles: here there is none."""
    settings = options(**FAST, weights="imagenet")
    alone, _ = painted(settings, smooth(1), Style((smooth(2),)))
    both, _ = painted(settings, smooth(1), Style((smooth(2), smooth(3)), (1.0, 0.0)))
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=0)


def test_each_image_of_a_batch_has_its_own_style() -> None:
    settings = options(**FAST, weights="imagenet")
    vgg = build_vgg19("random", "average", 1, 6)
    contents, looks = (
        [smooth(1), smooth(4)],
        [Style((smooth(2),)), Style((smooth(3),))],
    )
    together = list(
        transfer_style(contents, looks, settings, vgg, CPU, lambda step: None, batch_size=2)
    )
    for result, content, look in zip(together, contents, looks, strict=True):
        alone, _ = painted(settings, content, look)
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
    settings = options(**{**FAST, "iterations": 20, **changes})
    result, told = painted(settings, smooth(1), Style((smooth(2),)))
    assert told[-1].total < 0.7 * told[0].total
    assert 0 <= result.min() <= result.max() <= 1


def test_higher_tv_weight_is_smoother() -> None:
    rough = [
        float(painted(options(**FAST, tv_weight=weight), smooth(1), Style((smooth(2),)))[0]
        .diff(dim=3).square().mean())
        for weight in (0.0, 1.0, 100.0)
    ]  # fmt: skip
    assert rough == sorted(rough, reverse=True)


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("spectral_lbfgs", 1.0), ("adam", 0.05), ("lbfgs", 1.0)]
)
def test_final_loss_is_that_of_the_saved_image(optimizer: str, lr: float) -> None:
    """A style that asks for colours beyond the screen: the last loss is the saved picture's."""
    settings = options(optimizer=optimizer, lr=lr, iterations=30, content_layers={})
    style = (smooth(2) > 0.5).float()
    result, told = painted(settings, smooth(1), Style((style,)))
    assert _distance(result, style) <= 1.001 * min(step.total for step in told[-2:])
    assert ((result == 0) | (result == 1) | (result < 0.01) | (result > 0.99)).any()
