"""Replicated border of feature maps that keeps the memory format channels last.

PyTorch's replicated padding on a GPU converts channels-last maps to channels first, and the
convolution after it converts them back.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def replicate_border(maps: Tensor) -> Tensor:
    """Repeat the border of maps ``[B, C, H, W]`` by one position on each side.

    Equal to ``F.pad(maps, (1, 1, 1, 1), mode="replicate")``, except for the order in which the
    gradient of a corner is summed. It takes more launches than PyTorch's function.
    """
    padded: Tensor = _ReplicateBorder.apply(maps)
    return padded


def with_channels_last_padding(vgg: nn.Sequential) -> nn.Sequential:
    """Return ``vgg`` with :func:`replicate_border` in its replicating convolutions.

    The weights are shared.
    """
    return nn.Sequential(
        *(
            _ReplicatingConv2d(layer)
            if isinstance(layer, nn.Conv2d) and layer.padding_mode == "replicate"
            else layer
            for layer in vgg
        )
    )


class _ReplicatingConv2d(nn.Conv2d):
    """Convolution of 3 x 3 with the weights of another one."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.in_channels, layer.out_channels, 3, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(replicate_border(maps), self.weight, self.bias)


class _ReplicateBorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """Copy the maps, then the columns beside them, then the rows with their corners."""
        images, channels, height, width = maps.shape
        shape = (images, channels, height + 2, width + 2)
        layout = _memory_format(maps)
        padded = torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=layout)
        padded[:, :, 1:-1, 1:-1] = maps
        padded[:, :, 1:-1, _ends(width + 2)] = maps[..., _ends(width)]
        padded[:, :, _ends(height + 2)] = padded[:, :, 1:-1][:, :, _ends(height)]
        return padded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Add the gradients of the copies to those of the border."""
        inner = gradient[:, :, 1:-1, 1:-1].clone(memory_format=_memory_format(gradient))
        height, width = inner.shape[2:]
        top_and_bottom, sides = _ends(height + 2), _ends(width + 2)
        rows, columns = gradient[:, :, top_and_bottom, 1:-1], gradient[:, :, 1:-1, sides]
        corners = gradient[:, :, top_and_bottom, sides]
        if height == 1:
            rows, corners = rows.sum(2, keepdim=True), corners.sum(2, keepdim=True)
        if width == 1:
            columns, corners = columns.sum(3, keepdim=True), corners.sum(3, keepdim=True)
        inner[:, :, _ends(height)].add_(rows)
        inner[..., _ends(width)].add_(columns)
        inner[:, :, _ends(height), _ends(width)].add_(corners)
        return inner


def _ends(length: int) -> slice:
    """Return the first and the last of ``length`` positions, as one view for one launch."""
    return slice(None, None, max(1, length - 1))


def _memory_format(maps: Tensor) -> torch.memory_format:
    is_channels_last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_channels_last else torch.contiguous_format
