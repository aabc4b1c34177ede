"""Replicated border that keeps channels last, against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.style import objective
from atelier.style.objective import Style
from atelier.style.padding import replicate_border, with_channels_last_padding
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.vgg import build_vgg19, feature_maps, receptive_radius, stride

from ..support.painting import CPU, options, smooth

pytestmark = pytest.mark.usefixtures("cuda_graphs")


def _maps(*shape: int, seed: int = 0) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=stream, dtype=torch.float64)


def _plain(maps: Tensor) -> Tensor:
    return F.pad(maps, (1, 1, 1, 1), mode="replicate")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 8, 1, 6), (1, 8, 5, 1), (1, 3, 1, 1)])
def test_border_and_gradient_equal_those_of_pytorch(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    maps = _maps(*shape).to(memory_format=memory_format).requires_grad_()
    padded, expected = replicate_border(maps), _plain(maps)
    assert torch.equal(padded, expected)
    weights = _maps(*padded.shape, seed=1).to(memory_format=memory_format)
    (gradient,) = torch.autograd.grad((padded * weights).sum(), maps)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), maps)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(replicate_border, maps)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_stays(memory_format: torch.memory_format) -> None:
    maps = _maps(2, 8, 6, 7).to(memory_format=memory_format).requires_grad_()
    padded = replicate_border(maps)
    assert padded.is_contiguous(memory_format=memory_format)
    (gradient,) = torch.autograd.grad(padded.square().sum(), maps)
    assert gradient.is_contiguous(memory_format=memory_format)


def test_network_with_its_own_padding_equals_the_plain_one() -> None:
    plain = build_vgg19("random", "average", 1, 11, "replicate").double()
    vgg = with_channels_last_padding(plain.to(memory_format=torch.channels_last))
    assert (stride(vgg), receptive_radius(vgg)) == (stride(plain), receptive_radius(plain))
    assert [p.data_ptr() for p in vgg.parameters()] == [p.data_ptr() for p in plain.parameters()]
    images = _maps(1, 3, 24, 20).requires_grad_()
    results = []
    for network in (plain, vgg):
        maps = feature_maps(network, images, {1, 6, 11})
        (gradient,) = torch.autograd.grad(sum(m.square().sum() for m in maps.values()), images)
        results.append([*maps.values(), gradient])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_padding_with_zeros_stays() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    assert list(with_channels_last_padding(vgg)) == list(vgg)


@pytest.mark.parametrize(
    ("device", "optimizer", "is_replaced"),
    [("cuda", "spectral_lbfgs", True), ("cuda", "lbfgs", False), ("cpu", "spectral_lbfgs", False)],
)
def test_only_fast_networks_on_a_gpu_have_their_own_padding(
    device: str, optimizer: str, is_replaced: bool
) -> None:
    """PyTorch's optimizers compute in float32 like Gatys et al."""
    settings = options(optimizer=optimizer, padding="replicate")
    network = build_vgg19("random", "average", 1, 11, "replicate")
    vgg = objective.cast_vgg(network, settings, torch.device(device))
    first = vgg[0]
    assert isinstance(first, nn.Conv2d)
    assert (type(first) is not nn.Conv2d) is is_replaced


def test_evaluation_with_its_own_padding_equals_the_plain_one() -> None:
    layers = {"style_layers": {1: 1.0, 6: 1.0}, "content_layers": {11: 1.0}, "padding": "replicate"}
    settings = options(**layers, optimizer="spectral_lbfgs", tv_weight=0.1)
    network = build_vgg19("random", "average", 1, 11, "replicate")
    content, style, image = (smooth(seed).double() for seed in (1, 2, 3))
    results = []
    for device in (CPU, torch.device("cuda")):
        vgg = objective.cast_vgg(network, settings, device).double()
        problem = ScaledProblem(StyleJob(content, (Style((style,)),)), settings, vgg, None)
        totals, losses, gradient = problem.loss_and_gradient(image, settings)
        results.append([totals, *losses.values(), gradient])
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-10)
