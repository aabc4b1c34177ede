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


@pytest.mark.parametrize("all_gemm", [True, False])
def test_im2col_product_matches_conv2d(all_gemm: bool) -> None:
    x, weight = _double(*LARGER), _double(*WEIGHT)
    halved = gemm_conv._DownConvFunction.apply(x, weight, all_gemm)
    torch.testing.assert_close(halved, F.conv2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(gemm_conv._DownConvFunction.apply, (x, weight, all_gemm))


@pytest.mark.parametrize("all_gemm", [True, False])
def test_four_products_match_conv_transpose2d(all_gemm: bool) -> None:
    x, weight = _double(*SMALLER), _double(*WEIGHT)
    doubled = gemm_conv._UpConvFunction.apply(x, weight, all_gemm)
    torch.testing.assert_close(doubled, F.conv_transpose2d(x, weight, None, 2, 1))
    assert torch.autograd.gradcheck(gemm_conv._UpConvFunction.apply, (x, weight, all_gemm))


@pytest.fixture(params=[True, False], ids=["AMX", "no AMX"])
def amx(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Use all matrix products on any processor, or only those without AMX."""
    monkeypatch.setattr(gemm_conv, "has_amx_bf16", lambda: request.param)
    return bool(request.param)


LAYERS = {
    "latent": (lambda: LatentConvTranspose(32, 16), (32, 32, 1, 1)),
    "up": (lambda: UpConvTranspose(32, 16), (32, 32, 4, 4)),
    "down": (lambda: DownConv(32, 16, bias=False), (32, 32, 8, 8)),
    "down with biases": (lambda: DownConv(32, 16, bias=True), (32, 32, 8, 8)),
    "logit": (lambda: LogitConv(32, 5, 4, bias=True), (32, 32, 4, 4)),
    "logit of 3x3 maps": (lambda: LogitConv(32, 1, 3, bias=False), (32, 32, 3, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_layers_are_as_accurate_as_pytorch(
    monkeypatch: pytest.MonkeyPatch, amx: bool, name: str
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
        for limit in ("_MAX_PIXELS", "_MAX_PIXELS_WITHOUT_AMX"):
            monkeypatch.setattr(gemm_conv, limit, 0)
        from_pytorch = compute()
    assert from_gemm[0].dtype == torch.bfloat16
    for expected, gemm, pytorch in zip(exact, from_gemm, from_pytorch, strict=True):
        assert gemm.shape == expected.shape
        assert (gemm - expected).norm() <= 1.5 * (pytorch - expected).norm()


def test_gemm_is_used_only_for_large_batches_of_small_square_maps(
    monkeypatch: pytest.MonkeyPatch, amx: bool
) -> None:
    shapes: list[torch.Size] = []

    def record(x: torch.Tensor) -> torch.Tensor:
        shapes.append(x.shape)
        return im2col(x)

    im2col = gemm_conv.im2col
    monkeypatch.setattr(gemm_conv, "im2col", record)
    down, up = DownConv(4, 4, bias=False), UpConvTranspose(4, 4)
    size = 8 if amx else 16
    shapes_of_maps = ((size, size), (2 * size, 2 * size), (size // 2, size))
    small, large, oblong = (torch.randn(32, 4, *shape) for shape in shapes_of_maps)
    down(small)
    with torch.autocast("cpu", torch.bfloat16):
        for x in (large, oblong, small[:31], small[:0], small[:, :, : size - 1, : size - 1]):
            assert down(x).shape == (len(x), 4, x.shape[2] // 2, x.shape[3] // 2)
        assert not shapes
        halved = down(small)
        assert up(small).shape == large.shape
        assert shapes == ([small.shape] if amx else []), "without AMX convolutions are faster"
        halved.sum().backward()
    assert shapes == [small.shape], "the weights' gradient is a product"


def test_only_cpus_with_amx_compute_first_and_last_layers_as_products(
    monkeypatch: pytest.MonkeyPatch, amx: bool
) -> None:
    used: list[torch.Size] = []
    as_rows = gemm_conv._as_rows
    monkeypatch.setattr(gemm_conv, "_as_rows", lambda x: used.append(x.shape) or as_rows(x))
    latent, logit = LatentConvTranspose(8, 4), LogitConv(4, 1, 4, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        logit(latent(torch.randn(32, 8, 1, 1)))
    assert bool(used) == amx


def test_second_derivative_raises() -> None:
    x, weight = _double(*LARGER), _double(*WEIGHT)
    output = gemm_conv._DownConvFunction.apply(x, weight, True).sum()
    with pytest.raises(RuntimeError, match="first derivatives only; compute in float32"):
        torch.autograd.grad(output, x, create_graph=True)
