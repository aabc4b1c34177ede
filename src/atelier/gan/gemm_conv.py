"""Convolutions of small maps as matrix products (GEMM), for bfloat16 on CPUs and fused steps.

On a CPU with bfloat16 tile multiplication (AMX), oneDNN's convolutions of maps of up to 8x8 pixels
reach a fifth of the rate of its matrix products, and their weight gradients a twentieth. Here the
windows of a map become the rows of a matrix (Chellapilla, Puri and Simard 2006, "High performance
convolutional neural networks for document processing"). With channels last, that copies long
contiguous runs. On a CPU without AMX only the weight gradients are products, because its other
convolutions are faster than its products. On other devices, and always in float32, the layers use
PyTorch's convolutions, except that ``train.fused`` computes the first and the last layer as
products. The results differ only by rounding. ``docs/measurements/training-speed.md`` has the
rates of all kernels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atelier.core.device import has_amx_bf16

# Pixels of the larger map up to which products are faster, and weight gradients without AMX.
_MAX_PIXELS, _MAX_PIXELS_WITHOUT_AMX = 64, 256
_MIN_BATCH = 32  # in smaller batches the weight gradients cost more than the products save


class LatentConvTranspose(nn.ConvTranspose2d):
    """The generator's first layer: latents [B, D, 1, 1] to maps [B, C, 4, 4].

    Attributes:
        always_gemm: compute a matrix product on every device and in every precision.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, 1, 0, bias=False)
        self.always_gemm = False

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; ``output_size`` belongs to the base class and is not used."""
        if not (self.always_gemm or _gemm_is_faster(x, 4)):
            return super().forward(x, output_size)
        return _to_maps((x.flatten(1) @ _as_rows(self.weight)).view(-1, self.weight.shape[1]), 4)


class LogitConv(nn.Conv2d):
    """The discriminator's last layer: [B, C, h, h] to [B, K, 1, 1] by a kernel of h x h.

    Attributes:
        always_gemm: as for :class:`LatentConvTranspose`.
    """

    def __init__(self, in_channels: int, logits: int, size: int, bias: bool) -> None:
        super().__init__(in_channels, logits, size, 1, 0, bias=bias)
        self.always_gemm = False

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not (self.always_gemm or _gemm_is_faster(x, x.shape[2])):
            return super().forward(x)
        logits = F.linear(_as_rows(x), _as_rows(self.weight), self.bias)
        return logits[:, :, None, None]


class DownConv(nn.Conv2d):
    """Convolution with kernel 4, stride 2 and padding 1: [B, C, 2h, 2w] to [B, D, h, w]."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not _is_small_bf16_on_cpu(x, x.shape[2]) or x.shape[2] % 2:
            return super().forward(x)
        halved: Tensor = _DownConvFunction.apply(
            x.bfloat16(), self.weight.bfloat16(), has_amx_bf16()
        )
        return halved if self.bias is None else halved + self.bias.bfloat16()[:, None, None]


class UpConvTranspose(nn.ConvTranspose2d):
    """The transposed convolution of :class:`DownConv`: [B, D, h, w] to [B, C, 2h, 2w]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, 2, 1, bias=False)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve; ``output_size`` belongs to the base class and is not used."""
        if not _is_small_bf16_on_cpu(x, 2 * x.shape[2]):
            return super().forward(x, output_size)
        doubled: Tensor = _UpConvFunction.apply(
            x.bfloat16(), self.weight.bfloat16(), has_amx_bf16()
        )
        return doubled


def _gemm_is_faster(x: Tensor, size: int) -> bool:
    """Return true if a matrix product is faster than a convolution; arguments as below."""
    return _is_small_bf16_on_cpu(x, size) and has_amx_bf16()


def _is_small_bf16_on_cpu(x: Tensor, size: int) -> bool:
    """Return true for large batches of small square maps in bfloat16 on a CPU.

    Args:
        x: the layer's input, [B, C, h, w].
        size: height of the larger of its input and output maps.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    max_pixels = _MAX_PIXELS if has_amx_bf16() else _MAX_PIXELS_WITHOUT_AMX
    return len(x) >= _MIN_BATCH and x.shape[2] == x.shape[3] and size**2 <= max_pixels


class _DownConvFunction(torch.autograd.Function):
    """Convolution of maps [B, C, 2h, 2w] with weights [D, C, 4, 4].

    The weights' gradient is a product; with ``all_gemm``, the output and the other gradient too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, all_gemm: bool) -> Tensor:
        ctx.all_gemm = all_gemm
        if not all_gemm:
            ctx.save_for_backward(x, weight)
            return F.conv2d(x, weight, stride=2, padding=1)
        rows = im2col(x)
        ctx.save_for_backward(rows, weight)
        return _to_maps(rows @ _as_rows(weight).T, x.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        _reject_second_derivative()
        saved, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        rows = saved if ctx.all_gemm or not needs_weight else im2col(saved)
        transposed = conv_transpose_gemm if ctx.all_gemm else _conv_transpose
        return (
            transposed(gradient, weight) if needs_x else None,
            _to_weight(_pixels(gradient).T @ rows) if needs_weight else None,
            None,
        )


class _UpConvFunction(torch.autograd.Function):
    """Transposed convolution of maps [B, D, h, w] with weights [D, C, 4, 4].

    Products as in :class:`_DownConvFunction`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, all_gemm: bool) -> Tensor:
        ctx.all_gemm = all_gemm
        ctx.save_for_backward(x, weight)
        return (conv_transpose_gemm if all_gemm else _conv_transpose)(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        _reject_second_derivative()
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        rows = im2col(gradient)
        to_x = None
        if needs_x and ctx.all_gemm:
            to_x = _to_maps(rows @ _as_rows(weight).T, x.shape[2])
        elif needs_x:
            to_x = F.conv2d(gradient, weight, stride=2, padding=1)
        return to_x, _to_weight(_pixels(x).T @ rows) if needs_weight else None, None


def _conv_transpose(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv_transpose2d(x, weight, stride=2, padding=1)


def _reject_second_derivative() -> None:
    """Raise if the backward pass is recorded, that is, if it will itself be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError("these products have first derivatives only; compute in float32")


def im2col(x: Tensor) -> Tensor:
    """Return the 4x4 windows of maps as rows of a matrix.

    Args:
        x: [B, C, 2h, 2w].

    Returns:
        [B * h * w, 4 * 4 * C], with the channels of a pixel contiguous.
    """
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, height, width, channels = padded.shape
    image_stride, row_stride, pixel_stride, _ = padded.stride()
    size = (batch, height // 2 - 1, width // 2 - 1, 4, 4 * channels)
    # Four pixels of a row are contiguous already.
    windows = padded.as_strided(
        size, (image_stride, 2 * row_stride, 2 * pixel_stride, row_stride, 1)
    )
    return windows.reshape(-1, 16 * channels)


def conv_transpose_gemm(x: Tensor, weight: Tensor) -> Tensor:
    """Return the transposed convolution with kernel 4, stride 2 and padding 1.

    Each output pixel depends on 2x2 input pixels. The parity of its row and column decides which
    weights apply, so there are four matrix products.

    Args:
        x: [B, D, h, w].
        weight: [D, C, 4, 4].

    Returns:
        [B, C, 2h, 2w].
    """
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, height, width, channels = padded.shape
    image_stride, row_stride, pixel_stride, _ = padded.stride()
    strides = (image_stride, row_stride, pixel_stride, row_stride, 1)
    size = (batch, height - 2, width - 2, 2, 2 * channels)
    output = x.new_empty(batch, 2 * (height - 2), 2 * (width - 2), weight.shape[1])
    for row in (0, 1):
        for column in (0, 1):
            shifted = padded[:, row:, column:]
            windows = shifted.as_strided(size, strides, shifted.storage_offset())
            # The farther input pixel is multiplied by the kernel's later weight.
            kernel = weight[:, :, [3 - row, 1 - row]][:, :, :, [3 - column, 1 - column]]
            rows = windows.reshape(-1, 4 * channels)
            product = rows @ kernel.permute(2, 3, 0, 1).reshape(4 * channels, -1)
            output[:, row::2, column::2] = product.view(*size[:3], weight.shape[1])
    return output.permute(0, 3, 1, 2)


def _pixels(x: Tensor) -> Tensor:
    """Return [B, C, h, w] as rows [B * h * w, C]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _as_rows(maps: Tensor) -> Tensor:
    """Return [D, C, h, w] as rows [D, h * w * C]; with channels last, this copies nothing."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _to_weight(rows: Tensor) -> Tensor:
    """Return rows [D, 4 * 4 * C] as weights [D, C, 4, 4]."""
    return rows.view(len(rows), 4, 4, -1).permute(0, 3, 1, 2)


def _to_maps(rows: Tensor, height: int) -> Tensor:
    """Return rows [B * h * h, C] as square maps [B, C, h, h]."""
    return rows.view(-1, height, height, rows.shape[1]).permute(0, 3, 1, 2)
