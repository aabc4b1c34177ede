"""Style transfer: losses, reported iterations, and reproducibility."""

import pytest
import torch
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.core.settings import StylizeSettings
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.loss_log import IterationLosses
from atelier.style.losses import content_loss, gram_matrix, style_loss
from atelier.style.objective import FeatureObjective, Style, build_targets, cast_vgg, weighted_sum
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19, calibrate, feature_maps, preprocess

from ..support.painting import CPU, RecordedEvents, options, smooth, tasks
from ..support.selection import slow_after


def _stylize(
    settings: StylizeSettings, content: Tensor, style: Tensor
) -> tuple[Tensor, list[IterationLosses]]:
    vgg = build_vgg19("random", settings.pooling, settings.seed, deepest=6)
    losses: list[IterationLosses] = []
    (result,) = transfer_style(tasks([content], style), settings, vgg, RecordedEvents(losses))
    return result, losses


@pytest.mark.parametrize(
    ("optimizer", "lr"), [("lbfgs", 1.0), ("adam", 0.02), ("spectral_lbfgs", 1.0)]
)
@pytest.mark.parametrize("start", ["content", "noise"])
def test_style_transfer_lowers_style_and_content_loss(
    optimizer: str, lr: float, start: str
) -> None:
    settings = options(optimizer=optimizer, lr=lr, init=start, iterations=30)
    result, losses = _stylize(settings, smooth(1), smooth(2))
    assert result.shape == (1, 3, 32, 32)
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1
    assert losses[-1].total < 0.5 * losses[0].total


def test_reported_losses_equal_the_published_formula() -> None:
    content, style = smooth(1), smooth(2)
    settings = options(
        style_layers={6: 0.5, 1: 2.0}, content_layers={3: 0.25}, clamp_to_range=False
    )
    _, (first, *_) = _stylize(settings, content, style)
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    content_input, style_input = (preprocess(image, "torchvision") for image in (content, style))
    vgg = calibrate(vgg, style_input)
    content_maps, style_maps = (
        feature_maps(vgg, image, [1, 3, 6]) for image in (content_input, style_input)
    )
    expected = {
        f"style_{layer}": style_loss(
            gram_matrix(content_maps[layer]), gram_matrix(style_maps[layer])
        ).item()
        for layer in (1, 6)
    }
    expected["content_3"] = content_loss(content_maps[3], content_maps[3]).item()
    assert first.per_layer == pytest.approx(expected, rel=1e-4)
    assert first.per_layer["content_3"] == 0
    assert first.total == pytest.approx(2 * expected["style_1"] + 0.5 * expected["style_6"])


def _reference_objective(
    image: Tensor, content: Tensor, style: Tensor, vgg: nn.Sequential, settings: StylizeSettings
) -> Tensor:
    """Return the weighted sum of all terms, computed layer by layer and channel by channel."""

    def normalized(pixels: Tensor) -> Tensor:
        red, green, blue = pixels[0]
        if settings.preprocessing == "caffe":
            means = (0.40760392, 0.45795686, 0.48501961)
            planes = [(p - m) * 255 for p, m in zip((blue, green, red), means, strict=True)]
        else:
            ranges = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
            planes = [(p - m) / s for p, (m, s) in zip((red, green, blue), ranges, strict=True)]
        return torch.stack(planes).unsqueeze(0)

    def features(pixels: Tensor, deepest: int) -> Tensor:
        response = normalized(pixels)
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
        difference = gram(features(image, layer)) - gram(features(style, layer))
        total = total + weight * difference.square().sum() / len(difference) ** 2
    for layer, weight in settings.content_layers.items():
        difference = features(image, layer) - features(content, layer)
        total = total + weight * difference.square().sum() / difference.numel()
    return total


@pytest.mark.parametrize(
    ("preprocessing", "pooling"),
    slow_after(
        2,
        [
            ("torchvision", "max"),
            ("caffe", "average"),
            ("torchvision", "average"),
            ("caffe", "max"),
        ],
    ),
)
def test_loss_and_gradient_equal_a_simple_reference(preprocessing: str, pooling: str) -> None:
    settings = options(
        preprocessing=preprocessing,
        pooling=pooling,
        style_layers={1: 2.0, 6: 0.5},
        content_layers={8: 0.25},
    )
    vgg = build_vgg19("random", settings.pooling, seed=1, deepest=8).double()
    image, content, style = (
        nn.functional.interpolate(smooth(seed), 8).double() for seed in (1, 2, 3)
    )
    targets = build_targets(content, [Style((style,))], settings, vgg)
    (total,), _, gradient = FeatureObjective(vgg, settings, 8, 8).loss_and_gradient(
        image, targets, settings
    )
    image.requires_grad_()
    reference = _reference_objective(image, content, style, vgg, settings)
    (reference_gradient,) = torch.autograd.grad(reference, image)
    torch.testing.assert_close(total, reference, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradient, reference_gradient, rtol=1e-9, atol=1e-12 * float(reference_gradient.abs().max())
    )


def test_every_evaluation_is_reported_in_order() -> None:
    settings = options(optimizer="adam", lr=0.02, iterations=12)
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    losses: list[IterationLosses] = []
    list(
        transfer_style(
            tasks([smooth(1), smooth(3)], smooth(2)), settings, vgg, RecordedEvents(losses)
        )
    )
    reported = [(iterate.image, iterate.iteration) for iterate in losses]
    assert reported == [(image, iteration) for image in (0, 1) for iteration in range(1, 13)]


def test_lbfgs_counts_the_evaluations_of_its_line_search() -> None:
    _, losses = _stylize(options(iterations=12), smooth(1), smooth(2))
    assert [iterate.iteration for iterate in losses] == list(range(1, len(losses) + 1))
    assert 12 <= len(losses) <= 13


def _final_loss(
    settings: StylizeSettings, content: Tensor, style: Tensor
) -> tuple[float, list[IterationLosses]]:
    """Return the float32 loss of the saved image, and the reported losses."""
    images: list[Tensor] = []

    class RecordingCheckpointer(TransferCheckpoints):
        def save(
            self, image: int, evaluations: int, state: dict[str, Tensor], finished: bool
        ) -> None:
            images.append(state["canvas"].clone())

    vgg = build_vgg19("random", settings.pooling, settings.seed, deepest=6)
    losses: list[IterationLosses] = []
    list(
        transfer_style(
            tasks([content], style), settings, vgg, RecordedEvents(losses), RecordingCheckpointer()
        )
    )
    vgg = calibrate(vgg, preprocess(style, settings.preprocessing))
    return float(_loss(images[-1], content, style, settings, vgg)), losses


def _loss(
    image: Tensor, content: Tensor, style: Tensor, settings: StylizeSettings, vgg: nn.Sequential
) -> Tensor:
    """Return the weighted sum of the loss terms, [B]."""
    targets = build_targets(content, [Style((style,))], settings, vgg)
    return weighted_sum(
        FeatureObjective(vgg, settings, *image.shape[2:]).losses(image, targets), settings
    )


def test_channels_last_gives_the_losses_of_channels_first() -> None:
    settings = options(optimizer="spectral_lbfgs")
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    channels_last = cast_vgg(vgg, settings, CPU)
    assert channels_last[0].weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.cat([smooth(1), smooth(3)])
    for network in (vgg, channels_last):
        totals = _loss(images, images.flip(3), smooth(2), settings, network)
        if network is vgg:
            expected = totals
    torch.testing.assert_close(totals, expected, rtol=1e-5, atol=0)


def test_bfloat16_losses_are_near_those_of_float32() -> None:
    """After ten evaluations, losses differ by at most 2%."""
    content, style = smooth(1), smooth(2)
    expected, (first, *_, last) = _final_loss(
        options(optimizer="spectral_lbfgs", iterations=10), content, style
    )
    settings = options(optimizer="spectral_lbfgs", iterations=10, precision="bf16")
    loss, (first_bfloat16, *_, last_bfloat16) = _final_loss(settings, content, style)
    assert first_bfloat16.total == pytest.approx(first.total, rel=0.01)
    assert loss == pytest.approx(expected, rel=0.02)
    assert last_bfloat16.total == pytest.approx(last.total, rel=0.02)


def test_auto_precision_is_float32_or_bfloat16() -> None:
    results = [
        _stylize(
            options(optimizer="spectral_lbfgs", precision=precision),
            smooth(1),
            smooth(2),
        )[0]
        for precision in ("auto", "fp32", "bf16")
    ]
    assert torch.equal(results[0], results[1]) or torch.equal(results[0], results[2])
    assert not torch.equal(results[1], results[2])


@pytest.mark.slow
def test_spectral_lbfgs_reaches_the_loss_of_torch() -> None:
    """Use a small image, which has few frequency bands."""
    content, style = smooth(1), smooth(2)
    torch_loss, _ = _final_loss(options(iterations=60), content, style)
    spectral_loss, _ = _final_loss(
        options(optimizer="spectral_lbfgs", iterations=60), content, style
    )
    assert spectral_loss <= 1.01 * torch_loss


def test_reported_loss_has_no_content_boost() -> None:
    """`imagenet` in the settings boosts the content weight; the network has random weights."""
    settings = options(optimizer="spectral_lbfgs", weights="imagenet", iterations=40)
    content, style = smooth(1), smooth(2)
    result, losses = _stylize(settings, content, style)
    for iterate in losses:
        terms = [iterate.per_layer["style_1"], iterate.per_layer["style_6"]]
        assert iterate.total == pytest.approx(
            sum(terms) + 0.1 * iterate.per_layer["content_6"], rel=1e-5
        )
    assert [iterate.iteration for iterate in losses] == list(range(1, 41))
    assert losses[-1].total < 0.9 * losses[0].total
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    (final_loss,) = _loss(result, content, style, settings, vgg)
    assert final_loss < losses[0].total


def test_batch_gives_the_results_of_single_images() -> None:
    """Differences come only from the order of summation."""
    settings = options(optimizer="spectral_lbfgs")
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    contents = [
        smooth(1),
        smooth(3),
        smooth(4)[:, :, 8:],
        smooth(5),
    ]
    losses: list[IterationLosses] = []
    results = list(
        transfer_style(
            tasks(contents, smooth(2)), settings, vgg, RecordedEvents(losses), batch_size=4
        )
    )
    assert [result.shape for result in results] == [content.shape for content in contents]
    for index, (result, content) in enumerate(zip(results, contents, strict=True)):
        single, single_losses = _stylize(settings, content, smooth(2))
        torch.testing.assert_close(result, single, atol=0.05, rtol=0)
        image_losses = [iterate for iterate in losses if iterate.image == index]
        assert [iterate.iteration for iterate in image_losses] == list(range(1, 13))
        assert image_losses[-1].total == pytest.approx(single_losses[-1].total, rel=0.01)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam", "spectral_lbfgs"])
@pytest.mark.parametrize("start", slow_after(1, ["content", "noise"]))
def test_result_does_not_depend_on_other_contents(optimizer: str, start: str) -> None:
    settings = options(optimizer=optimizer, init=start, lr=0.5)
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    contents = [smooth(1), smooth(3)[:, :, 8:], smooth(4)]
    results = list(transfer_style(tasks(contents, smooth(2)), settings, vgg))
    assert [result.shape for result in results] == [content.shape for content in contents]
    for result, content in zip(results, contents, strict=True):
        single, _ = _stylize(settings, content, smooth(2))
        assert torch.equal(result, single)


def test_style_transfer_is_bit_reproducible() -> None:
    first, _ = _stylize(options(init="noise"), smooth(1), smooth(2))
    second, _ = _stylize(options(init="noise"), smooth(1), smooth(2))
    other_seed, _ = _stylize(options(init="noise", seed=2), smooth(1), smooth(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other_seed)


def test_content_is_reconstructed_from_noise() -> None:
    settings = options(style_layers={1: 0.0}, content_layers={1: 1.0}, init="noise", iterations=150)
    result, _ = _stylize(settings, smooth(1), smooth(2))
    assert (result - smooth(1)).abs().mean() < 0.01


def test_style_in_its_own_style_is_unchanged() -> None:
    result, losses = _stylize(options(), smooth(2), smooth(2))
    assert losses[0].total == pytest.approx(0, abs=1e-10)
    torch.testing.assert_close(result, smooth(2), atol=1e-3, rtol=0)


def test_style_loss_changes_the_mean_color() -> None:
    blue, orange = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.9, 0.5, 0.1])
    content = blue.view(1, 3, 1, 1) + 0.2 * (smooth(1) - 0.5)
    style = orange.view(1, 3, 1, 1) + 0.2 * (smooth(2) - 0.5)
    result, _ = _stylize(options(content_layers={}, iterations=150), content.clamp(0, 1), style)
    assert torch.allclose(result.mean((0, 2, 3)), style.mean((0, 2, 3)), atol=0.05)


def test_style_and_content_may_differ_in_size() -> None:
    content = smooth(1)[:, :, :, :24]
    result, _ = _stylize(options(), content, smooth(2)[:, :, :20])
    assert result.shape == content.shape


def test_network_and_inputs_are_not_modified() -> None:
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    before = {name: tensor.clone() for name, tensor in vgg.state_dict().items()}
    content, style = smooth(1), smooth(2)
    list(transfer_style(tasks([content], style), options(), vgg))
    assert all(torch.equal(tensor, before[name]) for name, tensor in vgg.state_dict().items())
    assert torch.equal(content, smooth(1))
    assert torch.equal(style, smooth(2))


def test_non_finite_loss_raises_an_error() -> None:
    # The weight exceeds the range of float32.
    settings = options(style_layers={1: 1e39})
    with pytest.raises(AtelierError, match=r"loss of image 1 is (nan|inf) at iteration 1;"):
        _stylize(settings, smooth(1), smooth(2))


def test_calibration_gives_every_convolution_unit_scale() -> None:
    image = preprocess(smooth(2), "torchvision")
    vgg = calibrate(build_vgg19("random", "average", seed=1, deepest=11), image)
    for layer, features in feature_maps(vgg, image, [0, 2, 5, 7, 10]).items():
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
    first_losses, last_losses = [], []
    for device in (CPU, torch.device("cuda")):
        losses: list[IterationLosses] = []
        settings = options(init="noise", optimizer=optimizer, precision=precision)
        list(
            transfer_style(
                tasks([smooth(1)], smooth(2)), settings, vgg.to(device), RecordedEvents(losses)
            )
        )
        first_losses.append(losses[0].total)
        last_losses.append(losses[-1].total)
    assert first_losses[0] == pytest.approx(first_losses[1], rel=1e-2)
    assert last_losses[0] == pytest.approx(last_losses[1], rel=0.2)
