"""What metrics look at: feature extractors that turn pictures into vectors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_WIDTHS = (64, 128, 256)


class RandomFeatures(nn.Module):
    """A small VGG-like network with seeded random filters; nothing is downloaded.

    Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models",
    find that random VGG features judge pictures that ImageNet knows nothing of better than
    ImageNet's do. Numbers depend on the seed and compare only with the same seed.

    Float pictures [B, 3, H, W] in [-1, 1] become float features [B, 1024]: the last maps
    averaged over the four quarters of the picture.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        generator = torch.Generator().manual_seed(seed)
        maps_in = 3
        for maps_out in _WIDTHS:
            # The fork keeps the global stream untouched by the layer's default weights.
            with torch.random.fork_rng(devices=[]):
                convolution = nn.Conv2d(maps_in, maps_out, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, generator=generator)
            layers += [convolution, nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            maps_in = maps_out
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Extract the features of a batch."""
        features: Tensor = self.layers(pictures)
        return features


EXTRACTORS = {"random": RandomFeatures}
"""Extractors by the name that ``evaluate.features`` takes; each is built from a seed."""


@torch.inference_mode()
def extract(
    extractor: nn.Module, pictures: NDArray[np.uint8], device: torch.device, batch_size: int = 250
) -> Tensor:
    """Features of all pictures, float32 [N, D] on the CPU.

    Args:
        extractor: maps float [B, 3, H, W] in [-1, 1] to [B, D].
        pictures: uint8 [N, H, W, C]; grey is repeated to three channels.
        device: where to compute.
        batch_size: pictures at a time; bounds the memory.
    """
    extractor = extractor.to(device)
    batches = []
    for start in range(0, len(pictures), batch_size):
        part = as_tensor(pictures[start : start + batch_size]).to(device)
        batches.append(extractor(part.expand(-1, 3, -1, -1)).float().cpu())
    return torch.cat(batches)


def as_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn uint8 [N, H, W, C] into float32 [N, C, H, W] in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
