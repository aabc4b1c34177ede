"""Conversions between uint8 images and float tensors, and constants on a device."""

import functools

import torch
from torch import Tensor


def to_tensor(pixels: Tensor, *, signed: bool) -> Tensor:
    """Convert uint8 images to a float tensor on the same device.

    Args:
        pixels: uint8 [B, H, W, C].
        signed: True for values from -1 to 1, as GANs use them; False for 0 to 1.

    Returns:
        float32 [B, C, H, W], channels last in memory.
    """
    values = pixels.permute(0, 3, 1, 2).float()
    return values.div(127.5).sub(1) if signed else values / 255


def to_uint8(images: Tensor, *, signed: bool) -> Tensor:
    """Convert a float tensor to uint8 images on the same device, rounded and clamped.

    Args:
        images: float [B, C, H, W].
        signed: True for values from -1 to 1; False for 0 to 1.

    Returns:
        uint8 [B, H, W, C], contiguous.
    """
    levels = images.float().add(1).mul(127.5) if signed else images.detach() * 255
    return levels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return a constant for each channel, ``[1, C, 1, 1]``, of the type and device of ``like``."""
    return _constant(values, like.dtype, like.device)


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return values as ``[1, C, 1, 1]``, cached because each upload synchronizes the GPU."""
    # A tensor made in inference mode could not take part in a later computation of gradients.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)
