"""Convolutions as matrix products: torch's own, to rounding."""

import pytest
import torch
import torch.nn.functional as F

from atelier.gan import products
from atelier.gan.products import Doubling, Halving

LARGER, SMALLER, WEIGHT = (3, 5, 8, 8), (3, 7, 4, 4), (7, 5, 4, 4)


def _double(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)


def test_windows_times_weights_are_a_convolution() -> None:
    x, weight = _double(*LARGER), _double(*WEIGHT)
    halved = products._Halve.apply(x, weight)
    torch.testing.assert_close(halved, F.conv2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(products._Halve.apply, (x, weight))


def test_four_products_are_a_transposed_convolution() -> None:
    x, weight = _double(*SMALLER), _double(*WEIGHT)
    doubled = products._Double.apply(x, weight)
    torch.testing.assert_close(doubled, F.conv_transpose2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(products._Double.apply, (x, weight))


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_in_bfloat16_is_as_near_to_float32_as_torchs_own(bias: bool) -> None:
    torch.manual_seed(1)
    layer = Halving(32, 16, bias=bias)
    x = torch.randn(4, 32, 8, 8).to(memory_format=torch.channels_last)
    exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(x)
        theirs = F.conv2d(x, layer.weight, layer.bias, 2, 1)
    assert ours.dtype == torch.bfloat16
    error, usual = ((got - exact).abs().max() for got in (ours, theirs))
    assert error <= 1.5 * usual


def test_only_small_maps_under_autocast_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[torch.Size] = []

    def note(x: torch.Tensor) -> torch.Tensor:
        met.append(x.shape)
        return windows(x)

    windows = products.windows
    monkeypatch.setattr(products, "windows", note)
    halving, doubling = Halving(4, 4, bias=False), Doubling(4, 4)
    small, large = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 16, 16)
    halving(small)
    with torch.autocast("cpu", torch.bfloat16):
        halving(large)
        assert not met
        halving(small)
        assert doubling(small).shape == large.shape
    assert met == [small.shape]
