"""Objective in float64 against the formulas of the papers, for one image."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.settings import StylizeSettings
from atelier.style.losses import style_statistics
from atelier.style.objective import FeatureObjective, Style, build_targets, loss_names
from atelier.style.vgg import build_vgg19

from ..support.painting import options

HEIGHT, WIDTH = 24, 32
CHANGES = {
    "style_layers": {6: 0.5, 1: 2.0},
    "content_layers": {3: 0.25, 8: 0.75},
    "tv_weight": 0.3,
    "style_strength": 0.5,
}
_VGG = build_vgg19("random", "average", seed=1, deepest=8).double()


def _image(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Smooth colors, float64 [1, 3, height, width]."""
    coarse = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bilinear").double()


def _two_styles(masked: bool) -> list[Style]:
    """Return two styles of two images with unequal weights or soft masks of unequal area."""
    images = (_image(10, 16, 20), _image(11, 18, 16))
    if not masked:
        return [Style(images, (3.0, 1.0)), Style(images[::-1], (1.0, 1.0))]
    horizontal = torch.linspace(0, 1, WIDTH).double().expand(1, 1, HEIGHT, WIDTH)
    vertical = torch.linspace(0.2, 0.9, HEIGHT).double().view(1, 1, HEIGHT, 1).expand_as(horizontal)
    return [
        Style(images, (3.0, 1.0), (horizontal, 0.3 * (1 - horizontal))),
        Style(images[::-1], (1.0, 2.0), (vertical, 1 - 0.5 * vertical)),
    ]


def _features(image: Tensor, layer: int, settings: StylizeSettings) -> Tensor:
    """Return a feature map [C, h, w] of one image."""
    if settings.preprocessing == "caffe":
        means = (0.40760392, 0.45795686, 0.48501961)
        planes = [(p - m) * 255 for p, m in zip(image[0].flip(0), means, strict=True)]
    else:
        ranges = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
        planes = [(p - m) / s for p, (m, s) in zip(image[0], ranges, strict=True)]
    response = torch.stack(planes)[None]
    for module in _VGG[: layer + 1]:
        match module:
            case nn.Conv2d():
                response = F.conv2d(response, module.weight, module.bias, padding=1)
            case nn.ReLU():
                response = response.clamp(min=0)
            case _:
                response = F.avg_pool2d(response, 2)
    return response[0]


def _statistics(features: Tensor, mask: Tensor, kind: str) -> list[Tensor]:
    """Return the weighted mean products of channels, and for moments the weighted means."""
    weight = F.adaptive_avg_pool2d(mask, features.shape[1:])[0, 0]
    weight = weight / weight.sum()
    products = torch.einsum("hw,chw,dhw->cd", weight, features, features)
    means = torch.einsum("hw,chw->c", weight, features)
    return [products] if kind == "gram" else [products, means]


def _distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    if len(ours) == 1:
        return (ours[0] - theirs[0]).square().mean()
    first, second = (products - torch.outer(m, m) for products, m in (ours, theirs))
    return (first - second).square().mean() + (ours[1] - theirs[1]).square().mean()


def _regions(style: Style) -> list[tuple[dict[int, float], Tensor, float]]:
    """Return the weights of the style images, the mask, and the weight of each region."""
    total = sum(style.weights)
    weights = [weight / total for weight in style.weights]
    if not style.masks:
        return [(dict(enumerate(weights)), torch.ones(1, 1, HEIGHT, WIDTH).double(), 1.0)]
    return [
        ({number: 1.0}, mask, weights[number] * len(weights) * float(mask.mean()))
        for number, mask in enumerate(style.masks)
    ]


def _terms(
    image: Tensor, content: Tensor, style: Style, settings: StylizeSettings
) -> dict[str, Tensor]:
    """Return the unweighted terms of the loss of one image."""
    kind, strength, terms = settings.style_loss, settings.style_strength, {}
    for layer in sorted(settings.style_layers):
        terms[f"style_{layer}"] = torch.zeros(()).double()
        for style_weights, mask, weight in _regions(style):
            image_statistics = _statistics(_features(image, layer, settings), mask, kind)
            content_statistics = _statistics(_features(content, layer, settings), mask, kind)
            target = [(1 - strength) * statistic for statistic in content_statistics]
            for number, style_weight in style_weights.items():
                style_image = style.images[number]
                style_image_statistics = _statistics(
                    _features(style_image, layer, settings),
                    torch.ones_like(style_image[:, :1]),
                    kind,
                )
                target = [
                    a + strength * style_weight * t
                    for a, t in zip(target, style_image_statistics, strict=True)
                ]
            terms[f"style_{layer}"] = terms[f"style_{layer}"] + weight * _distance(
                image_statistics, target
            )
    for layer in settings.content_layers:
        difference = _features(image, layer, settings) - _features(content, layer, settings)
        terms[f"content_{layer}"] = difference.square().mean()
    right, below = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
    terms["smoothness"] = (right.square().sum() + below.square().sum()) / image.numel()
    return terms


def _total(terms: dict[str, Tensor], settings: StylizeSettings) -> Tensor:
    weights = {f"style_{layer}": weight for layer, weight in settings.style_layers.items()}
    weights |= {f"content_{layer}": weight for layer, weight in settings.content_layers.items()}
    weights["smoothness"] = settings.tv_weight * settings.style_strength
    return sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))


@pytest.mark.parametrize("side", [None, 24])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("kind", "convention"), [("gram", "torchvision"), ("moments", "caffe")])
def test_every_term_and_the_gradient_equal_the_formulas(
    side: int | None, masked: bool, kind: str, convention: str
) -> None:
    """Use two images with two mixed or masked styles each, with and without tiles."""
    settings = options(**CHANGES, style_loss=kind, preprocessing=convention)
    contents = torch.cat([_image(1), _image(2)])
    images, styles = torch.cat([_image(3), _image(4)]), _two_styles(masked)
    targets = build_targets(contents, styles, settings, _VGG, side)
    objective = FeatureObjective(_VGG, settings, HEIGHT, WIDTH, side)
    assert (len(objective.tiles) == 1) == (side is None)
    totals, losses, gradient = objective.loss_and_gradient(images, targets, settings)
    assert list(losses) == loss_names(settings)
    forward_losses = objective.losses(images, targets)
    for number, style in enumerate(styles):
        leaf = images[number : number + 1].clone().requires_grad_()
        terms = _terms(leaf, contents[number : number + 1], style, settings)
        total = _total(terms, settings)
        (expected,) = torch.autograd.grad(total, leaf)
        assert losses.keys() == terms.keys()
        for name, term in terms.items():
            assert losses[name][number].item() == pytest.approx(term.item(), rel=1e-5), name
            assert forward_losses[name][number].item() == pytest.approx(term.item(), rel=1e-5), name
        assert totals[number].item() == pytest.approx(total.item(), rel=1e-5)
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            gradient[number : number + 1], expected, rtol=1e-4, atol=1e-5 * scale
        )


def test_content_features_of_tiles_equal_those_of_the_image() -> None:
    settings = options(**CHANGES)
    whole = FeatureObjective(_VGG, settings, HEIGHT, WIDTH).content_features(_image(1))
    tiled = FeatureObjective(_VGG, settings, HEIGHT, WIDTH, 24).content_features(_image(1))
    assert list(whole) == [3, 8]
    for layer, maps in whole.items():
        torch.testing.assert_close(tiled[layer], maps)
        torch.testing.assert_close(maps[0], _features(_image(1), layer, settings))


def test_smoothness_is_a_term_only_with_a_weight() -> None:
    without_smoothness = options(**{**CHANGES, "tv_weight": 0.0})
    assert loss_names(without_smoothness) == ["style_1", "style_6", "content_3", "content_8"]
    assert loss_names(options(**CHANGES)) == [*loss_names(without_smoothness), "smoothness"]
    targets = build_targets(_image(1), [Style((_image(2),))], without_smoothness, _VGG)
    assert list(
        FeatureObjective(_VGG, without_smoothness, HEIGHT, WIDTH).losses(_image(3), targets)
    ) == loss_names(without_smoothness)


@pytest.mark.parametrize("kind", ["gram", "moments"])
def test_soft_mask_weights_positions(kind: str) -> None:
    """Example: one channel with values 2 and 6 at positions of weights 1/4 and 3/4."""
    features = torch.tensor([[[[2.0, 6.0]]]])
    mask = torch.tensor([[[[0.25, 0.75]]]])
    expected = [0.25 * 4 + 0.75 * 36] + ([0.25 * 2 + 0.75 * 6] if kind == "moments" else [])
    assert style_statistics(features, kind, mask)[0, 0].tolist() == pytest.approx(expected)


def test_normalized_weights_sum_to_1_and_are_equal_by_default() -> None:
    style = Style((_image(1),) * 3, (1.0, 2.0, 5.0))
    assert style.normalized_weights() == pytest.approx([0.125, 0.25, 0.625])
    assert dataclasses.replace(style, weights=()).normalized_weights() == pytest.approx([1 / 3] * 3)
