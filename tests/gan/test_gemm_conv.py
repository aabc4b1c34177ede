"""Convolutions as matrix products, equal to PyTorch's up to rounding."""

import pytest
import torch
import torch.nn.functional as F

from atelier.gan import gemm_conv
from atelier.gan.gemm_conv import DownConv, LatentConvTranspose, LogitConv, UpConvTranspose

LARGER, SMALLER, WEIGHT = (3, 5, 8, 8), (3, 7, 4, 4), (7, 5, 4, 4)


def _double(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)


def test_im2col_product_matches_conv2d() -> None:
    x, weight = _double(*LARGER), _double(*WEIGHT)
    halved = gemm_conv._DownConvFunction.apply(x, weight)
    torch.testing.assert_close(halved, F.conv2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(gemm_conv._DownConvFunction.apply, (x, weight))


def test_four_products_match_conv_transpose2d() -> None:
    x, weight = _double(*SMALLER), _double(*WEIGHT)
    doubled = gemm_conv._UpConvFunction.apply(x, weight)
    torch.testing.assert_close(doubled, F.conv_transpose2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(gemm_conv._UpConvFunction.apply, (x, weight))


@pytest.fixture
def amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use matrix products on any processor."""
    monkeypatch.setattr(gemm_conv, "has_amx_bf16", lambda: True)


LAYERS = {
    "latent": (lambda: LatentConvTranspose(32, 16), (32, 32, 1, 1)),
    "up": (lambda: UpConvTranspose(32, 16), (32, 32, 4, 4)),
    "down": (lambda: DownConv(32, 16, bias=False), (32, 32, 8, 8)),
    "down with biases": (lambda: DownConv(32, 16, bias=True), (32, 32, 8, 8)),
    "logit": (lambda: LogitConv(32, 5, 4, bias=True), (32, 32, 4, 4)),
    "logit of 3x3 maps": (lambda: LogitConv(32, 1, 3, bias=False), (32, 32, 3, 3)),
}


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_layers_are_as_accurate_as_pytorch(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    torch.manual_seed(1)
    build, shape = LAYERS[name]
    layer = build().to(memory_format=torch.channels_last)
    x = torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()

    def compute() -> tuple[torch.Tensor, ...]:
        output = layer(x)
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        return output, *torch.autograd.grad(
            (output.float() * weights).sum(), [x, *layer.parameters()]
        )

    exact = compute()
    with torch.autocast("cpu", torch.bfloat16):
        from_gemm = compute()
        monkeypatch.setattr(gemm_conv, "has_amx_bf16", lambda: False)
        from_pytorch = compute()
    assert from_gemm[0].dtype == torch.bfloat16
    for expected, gemm, pytorch in zip(exact, from_gemm, from_pytorch, strict=True):
        assert gemm.shape == expected.shape
        assert (gemm - expected).norm() <= 1.5 * (pytorch - expected).norm()


@pytest.mark.usefixtures("amx")
def test_gemm_is_used_only_for_large_batches_of_small_square_maps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[torch.Size] = []

    def record(x: torch.Tensor) -> torch.Tensor:
        shapes.append(x.shape)
        return im2col(x)

    im2col = gemm_conv.im2col
    monkeypatch.setattr(gemm_conv, "im2col", record)
    down, up = DownConv(4, 4, bias=False), UpConvTranspose(4, 4)
    small, large, oblong = (torch.randn(32, 4, *size) for size in ((8, 8), (16, 16), (4, 8)))
    down(small)
    with torch.autocast("cpu", torch.bfloat16):
        for x in (large, oblong, small[:31], small[:0], small[:, :, :7, :7]):
            assert down(x).shape == (len(x), 4, x.shape[2] // 2, x.shape[3] // 2)
        assert not shapes
        down(small)
        assert up(small).shape == large.shape
    assert shapes == [small.shape]


def test_second_derivative_raises() -> None:
    x, weight = _double(*LARGER), _double(*WEIGHT)
    output = gemm_conv._DownConvFunction.apply(x, weight).sum()
    with pytest.raises(RuntimeError, match="first derivatives only; compute in float32"):
        torch.autograd.grad(output, x, create_graph=True)
