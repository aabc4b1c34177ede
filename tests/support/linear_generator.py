"""Generator whose images are a linear function of its latents."""

from typing import Literal

import torch
from torch import Tensor, nn

from atelier.gan.generation import TrainedGenerator

SIDE = 16


class LinearImages(nn.Module):
    """Latents [B, D] to images [B, C, 16, 16]."""

    def __init__(self, weight: Tensor, channels: int) -> None:
        super().__init__()
        self.weight, self.channels = nn.Parameter(weight), channels

    def forward(self, latents: Tensor) -> Tensor:
        return (latents @ self.weight.T).view(-1, self.channels, SIDE, SIDE)


def linear_generator(
    deviations: list[float],
    axes: Tensor,
    channels: int = 3,
    distribution: Literal["normal", "uniform"] = "normal",
) -> TrainedGenerator:
    """Return a generator with known principal axes.

    Args:
        deviations: standard deviation of the images along each axis, for latents of variance 1.
        axes: orthonormal rows [D, D], directions of latents.
        channels: of the images.
        distribution: of the latents.
    """
    size = len(deviations)
    stream = torch.Generator().manual_seed(3)
    patterns = torch.linalg.qr(torch.randn(channels * SIDE**2, size, generator=stream)).Q
    weight = patterns @ torch.diag(torch.tensor(deviations)) @ axes
    network = LinearImages(weight, channels).eval()
    return TrainedGenerator(network, size, distribution, 0, torch.device("cpu"))
