"""What networks are put together from besides strided convolutions.

``upsample``: Odena et al. 2016, "Deconvolution and checkerboard artifacts": the nearest pixel, then
a convolution of 3x3, which unlike a transposed convolution reaches every pixel equally often.

``residual``: He et al. 2016, "Identity mappings in deep residual networks", as generators and
discriminators have them since Gulrajani et al. 2017 (WGAN-GP) and Miyato et al. 2018 (SNGAN),
though with strided convolutions at half of the picture's side first, which cost a quarter.
"""

import torch
from torch import Tensor, nn

_SLOPE = 0.2  # of leaky ReLU, as in the DCGAN paper


def normalised(maps: int, activation_first: bool) -> list[nn.Module]:
    """Batch normalisation and ReLU, in the order that is asked for."""
    norm, relu = nn.BatchNorm2d(maps), nn.ReLU(inplace=True)
    return [relu, norm] if activation_first else [norm, relu]


def upsampled(maps_in: int, maps_out: int, side: int) -> list[nn.Module]:
    """Enlarge to ``side`` by the nearest pixel, and convolve."""
    return [nn.Upsample(size=side), nn.Conv2d(maps_in, maps_out, 3, 1, 1, bias=False)]


class Growing(nn.Module):
    """A residual block that enlarges feature maps [B, in, ...] to [B, out, side, side]."""

    def __init__(self, maps_in: int, maps_out: int, side: int, activation_first: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # Not in place: the shortcut takes the same maps.
            *(_kept(layer) for layer in normalised(maps_in, activation_first)),
            *upsampled(maps_in, maps_out, side),
            *normalised(maps_out, activation_first),
            nn.Conv2d(maps_out, maps_out, 3, 1, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(maps_in, maps_out, 1, bias=False)
        # After the convolution of single pixels: the same numbers, at a quarter of the cost.
        self.enlarge = nn.Upsample(size=side)

    def forward(self, maps: Tensor) -> Tensor:
        """Enlarge the maps."""
        grown: Tensor = self.layers(maps) + self.enlarge(self.shortcut(maps))
        return grown


class Shrinking(nn.Module):
    """A residual block that halves feature maps, [B, in, H, W] to [B, out, H // 2, W // 2]."""

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(maps_in, maps_in, 3, 1, 1),
            nn.LeakyReLU(_SLOPE, inplace=True),
            nn.Conv2d(maps_in, maps_out, 4, 2, 1),
        )
        self.shrink = nn.AvgPool2d(2)
        self.shortcut = nn.Conv2d(maps_in, maps_out, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Halve the maps."""
        shrunk: Tensor = self.layers(maps) + self.shortcut(self.shrink(maps))
        return shrunk


@torch.no_grad()
def keep_scale(block: Growing | Shrinking) -> None:
    """Draw a shortcut's weights so that maps leave it as strong as they came."""
    nn.init.kaiming_normal_(block.shortcut.weight, nonlinearity="linear")


def _kept(layer: nn.Module) -> nn.Module:
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer
