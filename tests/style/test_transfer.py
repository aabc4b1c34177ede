"""Style transfer: its loss, its reports, and reproducibility."""

import pytest
import torch
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.core.settings import StylizeSettings
from atelier.style.loss_log import Checkpointer, IterationLosses
from atelier.style.losses import content_loss, gram_matrix, style_loss
from atelier.style.objective import FeatureObjective, Style, build_targets, cast_vgg, weighted_sum
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19, calibrate, feature_maps, preprocess

from ..support.painting import CPU, options, smooth


def _paint(
    settings: StylizeSettings, content: Tensor, style: Tensor
) -> tuple[Tensor, list[IterationLosses]]:
    vgg = build_vgg19("random", settings.pooling, settings.seed, deepest=6)
    iterates: list[IterationLosses] = []
    (painted,) = transfer_style([content], style, settings, vgg, CPU, iterates.append)
    return painted, iterates


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("lbfgs", 1.0), ("adam", 0.02), ("spectral_lbfgs", 1.0)]
)
@pytest.mark.parametrize("start", ["content", "noise"])
def test_style_transfer_lowers_style_and_content_loss(
    optimizer: str, lr: float, start: str
) -> None:
    settings = options(optimizer=optimizer, lr=lr, init=start, iterations=30)
    painted, iterates = _paint(settings, smooth(1), smooth(2))
    assert painted.shape == (1, 3, 32, 32)
    assert painted.dtype == torch.float32
    assert painted.min() >= 0
    assert painted.max() <= 1
    assert iterates[-1].total < 0.5 * iterates[0].total


def test_reported_losses_are_those_of_the_papers_formula() -> None:
    content, style = smooth(1), smooth(2)
    settings = options(
        style_layers={6: 0.5, 1: 2.0}, content_layers={3: 0.25}, clamp_to_range=False
    )
    _, (first, *_) = _paint(settings, content, style)
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    pixels, target = (preprocess(picture, "torchvision") for picture in (content, style))
    vgg = calibrate(vgg, target)
    theirs, wanted = (feature_maps(vgg, picture, [1, 3, 6]) for picture in (pixels, target))
    expected = {
        f"style_{layer}": style_loss(gram_matrix(theirs[layer]), gram_matrix(wanted[layer])).item()
        for layer in (1, 6)
    }
    expected["content_3"] = content_loss(theirs[3], theirs[3]).item()
    assert first.per_layer == pytest.approx(expected, rel=1e-4)
    assert first.per_layer["content_3"] == 0
    assert first.total == pytest.approx(2 * expected["style_1"] + 0.5 * expected["style_6"])


def _plain_objective(
    canvas: Tensor, content: Tensor, style: Tensor, vgg: nn.Sequential, settings: StylizeSettings
) -> Tensor:
    """The same sum as a page of mathematics would have it: one layer, one channel at a time."""

    def pixels(picture: Tensor) -> Tensor:
        red, green, blue = picture[0]
        if settings.preprocessing == "caffe":
            means = (0.40760392, 0.45795686, 0.48501961)
            planes = [(p - m) * 255 for p, m in zip((blue, green, red), means, strict=True)]
        else:
            ranges = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
            planes = [(p - m) / s for p, (m, s) in zip((red, green, blue), ranges, strict=True)]
        return torch.stack(planes).unsqueeze(0)

    def features(picture: Tensor, deepest: int) -> Tensor:
        response = pixels(picture)
        for layer in vgg[: deepest + 1]:
            if isinstance(layer, nn.Conv2d):
                response = nn.functional.conv2d(response, layer.weight, layer.bias, padding=1)
            elif isinstance(layer, nn.ReLU):
                response = response * (response > 0)
            else:
                blocks = response.unfold(2, 2, 2).unfold(3, 2, 2)
                response = (
                    blocks.mean((4, 5)) if settings.pooling == "average" else blocks.amax((4, 5))
                )
        return response[0]

    def gram(maps: Tensor) -> Tensor:
        rows = [torch.stack([(a * b).sum() / a.numel() for b in maps]) for a in maps]
        return torch.stack(rows)

    total = torch.zeros((), dtype=torch.float64)
    for layer, weight in settings.style_layers.items():
        difference = gram(features(canvas, layer)) - gram(features(style, layer))
        total = total + weight * difference.square().sum() / len(difference) ** 2
    for layer, weight in settings.content_layers.items():
        difference = features(canvas, layer) - features(content, layer)
        total = total + weight * difference.square().sum() / difference.numel()
    return total


@pytest.mark.parametrize("preprocessing", ["torchvision", "caffe"])
@pytest.mark.parametrize("pooling", ["average", "max"])
def test_loss_and_gradient_equal_the_formulas_written_out(preprocessing: str, pooling: str) -> None:
    settings = options(
        preprocessing=preprocessing,
        pooling=pooling,
        style_layers={1: 2.0, 6: 0.5},
        content_layers={8: 0.25},
    )
    vgg = build_vgg19("random", settings.pooling, seed=1, deepest=8).double()
    canvas, content, style = (
        nn.functional.interpolate(smooth(seed), 8).double() for seed in (1, 2, 3)
    )
    goal = build_targets(content, [Style((style,))], settings, vgg)
    (total,), _, gradient = FeatureObjective(vgg, settings, 8, 8).loss_and_gradient(
        canvas, goal, settings
    )
    canvas.requires_grad_()
    plain = _plain_objective(canvas, content, style, vgg, settings)
    (plain_gradient,) = torch.autograd.grad(plain, canvas)
    torch.testing.assert_close(total, plain, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient, plain_gradient, rtol=1e-9, atol=1e-12 * float(plain_gradient.abs().max())
    )


def test_every_evaluation_is_reported_in_order() -> None:
    settings = options(optimizer="adam", lr=0.02, iterations=12)
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    iterates: list[IterationLosses] = []
    list(
        transfer_style(
            [smooth(1), smooth(3)],
            smooth(2),
            settings,
            vgg,
            CPU,
            iterates.append,
        )
    )
    told = [(iterate.image, iterate.iteration) for iterate in iterates]
    assert told == [(picture, iteration) for picture in (0, 1) for iteration in range(1, 13)]


def test_lbfgs_counts_the_evaluations_of_its_line_search() -> None:
    _, iterates = _paint(options(iterations=12), smooth(1), smooth(2))
    assert [iterate.iteration for iterate in iterates] == list(range(1, len(iterates) + 1))
    assert 12 <= len(iterates) <= 13


def _painted(
    settings: StylizeSettings, content: Tensor, style: Tensor
) -> tuple[float, list[IterationLosses]]:
    """What the saved canvas costs in float32, and what was told on the way to it."""
    kept: list[Tensor] = []

    class Keeper(Checkpointer):
        def save(
            self, picture: int, evaluations: int, state: dict[str, Tensor], finished: bool
        ) -> None:
            kept.append(state["canvas"].clone())

    vgg = build_vgg19("random", settings.pooling, settings.seed, deepest=6)
    iterates: list[IterationLosses] = []
    list(transfer_style([content], style, settings, vgg, CPU, iterates.append, Keeper()))
    vgg = calibrate(vgg, preprocess(style, settings.preprocessing))
    return float(_loss(kept[-1], content, style, settings, vgg)), iterates


def _loss(
    canvas: Tensor, content: Tensor, style: Tensor, settings: StylizeSettings, vgg: nn.Sequential
) -> Tensor:
    """The settings' sum, [B]."""
    goal = build_targets(content, [Style((style,))], settings, vgg)
    return weighted_sum(
        FeatureObjective(vgg, settings, *canvas.shape[2:]).losses(canvas, goal), settings
    )


def test_channels_last_gives_the_losses_of_channels_first() -> None:
    settings = options(optimizer="spectral_lbfgs")
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    fast = cast_vgg(vgg, settings, CPU)
    assert fast[0].weight.is_contiguous(memory_format=torch.channels_last)
    canvas = torch.cat([smooth(1), smooth(3)])
    for network in (vgg, fast):
        totals = _loss(canvas, canvas.flip(3), smooth(2), settings, network)
        if network is vgg:
            plain = totals
    torch.testing.assert_close(totals, plain, rtol=1e-5, atol=0)


def test_bfloat16_losses_are_near_those_of_float32() -> None:
    """Rounded to 8 bits; ten evaluations lead to the same loss within two parts in a hundred."""
    content, style = smooth(1), smooth(2)
    plain, (first, *_, last) = _painted(
        options(optimizer="spectral_lbfgs", iterations=10), content, style
    )
    wanted = options(optimizer="spectral_lbfgs", iterations=10, precision="bf16")
    rounded, (first_rounded, *_, last_rounded) = _painted(wanted, content, style)
    assert first_rounded.total == pytest.approx(first.total, rel=0.01)
    assert rounded == pytest.approx(plain, rel=0.02)
    assert last_rounded.total == pytest.approx(last.total, rel=0.02)


def test_auto_precision_is_one_of_the_two() -> None:
    painted = [
        _paint(
            options(optimizer="spectral_lbfgs", precision=precision),
            smooth(1),
            smooth(2),
        )[0]
        for precision in ("auto", "fp32", "bf16")
    ]
    assert torch.equal(painted[0], painted[1]) or torch.equal(painted[0], painted[2])
    assert not torch.equal(painted[1], painted[2])


def test_spectral_lbfgs_reaches_the_loss_of_torch() -> None:
    """Even on a picture so small that their bands are few."""
    content, style = smooth(1), smooth(2)
    plain, _ = _painted(options(iterations=60), content, style)
    spectral, _ = _painted(options(optimizer="spectral_lbfgs", iterations=60), content, style)
    assert spectral <= 1.01 * plain


def test_reported_loss_has_no_content_boost() -> None:
    """Learned weights hold the content at first; here the network only passes for learned."""
    settings = options(optimizer="spectral_lbfgs", weights="imagenet", iterations=40)
    content, style = smooth(1), smooth(2)
    painted, iterates = _paint(settings, content, style)
    for step in iterates:
        terms = [step.per_layer["style_1"], step.per_layer["style_6"]]
        assert step.total == pytest.approx(sum(terms) + 0.1 * step.per_layer["content_6"], rel=1e-5)
    assert [step.iteration for step in iterates] == list(range(1, 41))
    assert iterates[-1].total < 0.9 * iterates[0].total
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    (reached,) = _loss(painted, content, style, settings, vgg)
    assert reached < iterates[0].total


def test_batch_gives_the_results_of_single_images() -> None:
    """But for the order in which a batch is summed."""
    settings = options(optimizer="spectral_lbfgs")
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    contents = [
        smooth(1),
        smooth(3),
        smooth(4)[:, :, 8:],
        smooth(5),
    ]
    iterates: list[IterationLosses] = []
    together = list(
        transfer_style(contents, smooth(2), settings, vgg, CPU, iterates.append, batch_size=4)
    )
    assert [painted.shape for painted in together] == [content.shape for content in contents]
    for picture, (painted, content) in enumerate(zip(together, contents, strict=True)):
        alone, steps = _paint(settings, content, smooth(2))
        torch.testing.assert_close(painted, alone, atol=0.05, rtol=0)
        told = [iterate for iterate in iterates if iterate.image == picture]
        assert [one.iteration for one in told] == list(range(1, 13))
        assert told[-1].total == pytest.approx(steps[-1].total, rel=0.01)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam", "spectral_lbfgs"])
@pytest.mark.parametrize("start", ["content", "noise"])
def test_result_does_not_depend_on_other_contents(optimizer: str, start: str) -> None:
    settings = options(optimizer=optimizer, init=start, lr=0.5)
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    contents = [smooth(1), smooth(3)[:, :, 8:], smooth(4)]
    together = list(transfer_style(contents, smooth(2), settings, vgg, CPU, lambda iterate: None))
    assert [painted.shape for painted in together] == [content.shape for content in contents]
    for painted, content in zip(together, contents, strict=True):
        alone, _ = _paint(settings, content, smooth(2))
        assert torch.equal(painted, alone)


def test_style_transfer_is_bit_reproducible() -> None:
    first, _ = _paint(options(init="noise"), smooth(1), smooth(2))
    again, _ = _paint(options(init="noise"), smooth(1), smooth(2))
    other, _ = _paint(options(init="noise", seed=2), smooth(1), smooth(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_content_is_reconstructed_from_noise() -> None:
    settings = options(style_layers={1: 0.0}, content_layers={1: 1.0}, init="noise", iterations=150)
    painted, _ = _paint(settings, smooth(1), smooth(2))
    assert (painted - smooth(1)).abs().mean() < 0.01


def test_style_in_its_own_style_is_unchanged() -> None:
    painted, iterates = _paint(options(), smooth(2), smooth(2))
    assert iterates[0].total == pytest.approx(0, abs=1e-10)
    torch.testing.assert_close(painted, smooth(2), atol=1e-3, rtol=0)


def test_style_loss_moves_the_palette() -> None:
    blue, orange = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.9, 0.5, 0.1])
    content = blue.view(1, 3, 1, 1) + 0.2 * (smooth(1) - 0.5)
    style = orange.view(1, 3, 1, 1) + 0.2 * (smooth(2) - 0.5)
    painted, _ = _paint(options(content_layers={}, iterations=150), content.clamp(0, 1), style)
    assert torch.allclose(painted.mean((0, 2, 3)), style.mean((0, 2, 3)), atol=0.05)


def test_style_and_content_may_differ_in_size() -> None:
    content = smooth(1)[:, :, :, :24]
    painted, _ = _paint(options(), content, smooth(2)[:, :, :20])
    assert painted.shape == content.shape


def test_network_and_inputs_are_not_modified() -> None:
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    before = {name: tensor.clone() for name, tensor in vgg.state_dict().items()}
    content, style = smooth(1), smooth(2)
    list(transfer_style([content], style, options(), vgg, CPU, lambda iterate: None))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vgg.state_dict().items())
    assert torch.equal(content, smooth(1))
    assert torch.equal(style, smooth(2))


def test_non_finite_loss_raises_an_error() -> None:
    # More than a float32 holds.
    settings = options(style_layers={1: 1e39})
    with pytest.raises(AtelierError, match=r"loss of image 1 is (nan|inf) at iteration 1;"):
        _paint(settings, smooth(1), smooth(2))


def test_calibration_gives_every_convolution_unit_scale() -> None:
    picture = preprocess(smooth(2), "torchvision")
    vgg = calibrate(build_vgg19("random", "average", seed=1, deepest=11), picture)
    for layer, features in feature_maps(vgg, picture, [0, 2, 5, 7, 10]).items():
        assert features.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4), layer


def test_calibration_on_zeros_changes_nothing() -> None:
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    calibrated = calibrate(vgg, torch.zeros(1, 3, 16, 16)).state_dict()
    assert all(torch.equal(tensor, calibrated[name]) for name, tensor in vgg.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer", ["lbfgs", "spectral_lbfgs"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_and_cpu_have_the_same_first_losses(optimizer: str, precision: str) -> None:
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    firsts, lasts = [], []
    for device in (CPU, torch.device("cuda")):
        iterates: list[IterationLosses] = []
        settings = options(init="noise", optimizer=optimizer, precision=precision)
        list(transfer_style([smooth(1)], smooth(2), settings, vgg, device, iterates.append))
        firsts.append(iterates[0].total)
        lasts.append(iterates[-1].total)
    assert firsts[0] == pytest.approx(firsts[1], rel=1e-2)
    assert lasts[0] == pytest.approx(lasts[1], rel=0.2)
