"""The dcgan's convolutions of small maps, as matrix products where a CPU does these faster.

On a CPU that multiplies tiles of bfloat16 (AMX), oneDNN's convolutions of maps of 8x8 pixels and
fewer reach a fifth of the rate of its products, and their weights' gradients a twentieth. Here the
windows of a map become the rows of a matrix (Chellapilla, Puri and Simard 2006, "High performance
convolutional neural networks for document processing"), which with channels last is a copy of
long runs. Everywhere else, and in float32 always, they are torch's own. Numbers differ by rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.device import has_amx_bf16

_MAX_PIXELS = 64  # of the larger map; beyond, torch's own are as fast
_MIN_BATCH = 32  # pictures in a batch; below, the weights' gradients cost more than they save


class LatentConvTranspose(nn.ConvTranspose2d):
    """The generator's first maps: latents [B, D, 1, 1] to [B, C, 4, 4]."""

    def __init__(self, inputs: int, maps: int) -> None:
        super().__init__(inputs, maps, 4, 1, 0, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; ``output_size`` is what it is anyway."""
        if not _gemm_is_faster(x, 4):
            return super().forward(x, output_size)
        return _to_maps((x.flatten(1) @ _as_rows(self.weight)).view(-1, self.weight.shape[1]), 4)


class LogitConv(nn.Conv2d):
    """The discriminator's verdict: a kernel as large as the maps, [B, C, h, h] to [B, K, 1, 1]."""

    def __init__(self, maps: int, logits: int, side: int, bias: bool) -> None:
        super().__init__(maps, logits, side, 1, 0, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not _gemm_is_faster(x, x.shape[2]):
            return super().forward(x)
        logits = F.linear(_as_rows(x), _as_rows(self.weight), self.bias)
        return logits[:, :, None, None]


class DownConv(nn.Conv2d):
    """A kernel of 4 with stride 2 and padding 1: [B, C, 2h, 2w] to [B, D, h, w]."""

    def __init__(self, maps_in: int, maps_out: int, bias: bool) -> None:
        super().__init__(maps_in, maps_out, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not _gemm_is_faster(x, x.shape[2]) or x.shape[2] % 2:
            return super().forward(x)
        halved: Tensor = _DownConvFunction.apply(x.bfloat16(), self.weight.bfloat16())
        return halved if self.bias is None else halved + self.bias.bfloat16()[:, None, None]


class UpConvTranspose(nn.ConvTranspose2d):
    """The transposed convolution of :class:`DownConv`: [B, D, h, w] to [B, C, 2h, 2w]."""

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__(maps_in, maps_out, 4, 2, 1, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; ``output_size`` is what it is anyway."""
        if not _gemm_is_faster(x, 2 * x.shape[2]):
            return super().forward(x, output_size)
        doubled: Tensor = _UpConvFunction.apply(x.bfloat16(), self.weight.bfloat16())
        return doubled


def _gemm_is_faster(x: Tensor, side: int) -> bool:
    """Whether a product is faster: many small squares, of this side where they are larger."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not has_amx_bf16():
        return False
    return len(x) >= _MIN_BATCH and x.shape[2] == x.shape[3] and side**2 <= _MAX_PIXELS


class _DownConvFunction(torch.autograd.Function):
    """Of maps and weights [D, C, 4, 4]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rows = im2col(x)
        ctx.save_for_backward(rows, weight)
        return _to_maps(rows @ _as_rows(weight).T, x.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        _reject_second_derivative()
        rows, weight = ctx.saved_tensors
        to_x, to_weight = ctx.needs_input_grad
        return (
            conv_transpose_gemm(gradient, weight) if to_x else None,
            _to_weight(_pixels(gradient).T @ rows) if to_weight else None,
        )


class _UpConvFunction(torch.autograd.Function):
    """Of maps [B, D, h, w] and weights [D, C, 4, 4]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return conv_transpose_gemm(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        _reject_second_derivative()
        x, weight = ctx.saved_tensors
        to_x, to_weight = ctx.needs_input_grad
        rows = im2col(gradient)
        return (
            _to_maps(rows @ _as_rows(weight).T, x.shape[2]) if to_x else None,
            _to_weight(_pixels(x).T @ rows) if to_weight else None,
        )


def _reject_second_derivative() -> None:
    """Gradients are enabled in a backward pass where it is going to be differentiated itself."""
    if torch.is_grad_enabled():
        raise RuntimeError("these products have first derivatives only; compute in float32")


def im2col(x: Tensor) -> Tensor:
    """Lay out each window that a kernel meets as a row.

    Args:
        x: [B, C, 2h, 2w].

    Returns:
        [B * h * w, 4 * 4 * C], a pixel's channels side by side.
    """
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, height, width, channels = padded.shape
    picture, line, pixel, _ = padded.stride()
    size = (batch, height // 2 - 1, width // 2 - 1, 4, 4 * channels)
    # Four pixels of a line lie side by side already.
    seen = padded.as_strided(size, (picture, 2 * line, 2 * pixel, line, 1))
    return seen.reshape(-1, 16 * channels)


def conv_transpose_gemm(x: Tensor, weight: Tensor) -> Tensor:
    """Add every pixel's share to the 16 pixels that it came of: a transposed convolution.

    Each pixel of the larger map is met by 2x2 of the smaller one's: by which weights depends on
    whether its line and column are even, so that there are four products.

    Args:
        x: [B, D, h, w].
        weight: [D, C, 4, 4].

    Returns:
        [B, C, 2h, 2w].
    """
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, height, width, channels = padded.shape
    picture, line, pixel, _ = padded.stride()
    size = (batch, height - 2, width - 2, 2, 2 * channels)
    larger = x.new_empty(batch, 2 * (height - 2), 2 * (width - 2), weight.shape[1])
    for down in (0, 1):
        for right in (0, 1):
            met = padded[:, down:, right:]
            strides = (picture, line, pixel, line, 1)
            rows = met.as_strided(size, strides, met.storage_offset()).reshape(-1, 4 * channels)
            # The farther pixel is met by the kernel's later weight.
            kernel = weight[:, :, [3 - down, 1 - down]][:, :, :, [3 - right, 1 - right]]
            product = rows @ kernel.permute(2, 3, 0, 1).reshape(4 * channels, -1)
            larger[:, down::2, right::2] = product.view(*size[:3], weight.shape[1])
    return larger.permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> Tensor:
    """[B, C, h, w] as rows [B * h * w, C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _as_rows(maps: Tensor) -> Tensor:
    """[D, C, h, w] as rows [D, h * w * C]; with channels last they lie so already."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _to_weight(rows: Tensor) -> Tensor:
    return rows.view(len(rows), 4, 4, -1).permute(0, 3, 1, 2)


def _to_maps(rows: Tensor, height: int) -> Tensor:
    """Rows [B * h * w, C] as maps [B, C, h, w] of squares."""
    return rows.view(-1, height, height, rows.shape[1]).permute(0, 3, 1, 2)
