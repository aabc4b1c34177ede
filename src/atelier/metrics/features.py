"""What metrics look at: pictures turned into vectors by a network."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_WIDTHS = (64, 128, 256)
_PIXELS = 2**18  # looked at together; bounds the memory
MIN_IMAGES_TO_STANDARDIZE = 30  # real images; the deviations of fewer are too uncertain
_MIN_DEVIATION = 0.1  # of the features' mean deviation


@dataclass(frozen=True)
class Extractor:
    """A network that turns pictures into features.

    Attributes:
        network: maps float [B, 3, H, W] in [-1, 1] to [B, D].
        identity: tells it, with its weights, from all others.
        input_size: what it enlarges pictures to, in pixels; 0: nothing.
        calibrated: whether its features are compared as they are, so that the numbers are those
            of the literature. Those of other networks are standardised first.
    """

    network: nn.Module
    identity: str
    input_size: int = 0
    calibrated: bool = False

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Extract the features of all pictures, float32 [N, D] on the CPU.

        Args:
            pictures: uint8 [N, H, W, C]; grey is repeated to three channels.
            device: where to compute.
        """
        network = self.network.to(device)
        together = max(1, _PIXELS // max(self.input_size, *pictures.shape[1:3]) ** 2)
        batches = []
        for start in range(0, len(pictures), together):
            part = to_float_tensor(pictures[start : start + together]).to(device)
            batches.append(network(part.expand(-1, 3, -1, -1)).float().cpu())
        return torch.cat(batches)

    def scale(self, real: Tensor) -> "Standardizer":
        """Choose the scale that features are compared on, by those of real pictures, [N, D].

        The pictures must be in neither of the sets that are compared. The scale of one of them
        makes its own features smaller than those of the other, so that KID is above 0 on average
        for sets of the same distribution. Features stay as they are if there are too few.
        """
        if self.calibrated or not self.has_scale(len(real)):
            return Standardizer(torch.zeros(()), torch.ones(()))
        return Standardizer.of(real)

    def has_scale(self, count: int) -> bool:
        """Return true if features can be compared on the scale of so many real images.

        With few, a distance depends on them more than on what is compared. The KID of two sets of
        drawn shapes, whose expectation is 0, had a standard deviation of 6,500 on the scale of 3
        images, 24 of 6, 3.2 of 15, 0.6 of 30 and 0.2 of 200.
        """
        return self.calibrated or count >= MIN_IMAGES_TO_STANDARDIZE


@dataclass(frozen=True)
class Standardizer:
    """Features are compared after taking ``mean`` and dividing by ``deviation``, both [D]."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, real: Tensor) -> "Standardizer":
        """Standardise by real features, [N, D], since most networks' have no scale of their own.

        A deviation counts as a tenth of the mean one at least: a feature that is silent for
        nearly every real picture would drown all others by the few that it answers.

        Args:
            real: N at least 2, for the deviation.
        """
        mean, deviation = real.mean(dim=0), real.std(dim=0)
        least = max(_MIN_DEVIATION * float(deviation.mean()), 1e-6)
        return cls(mean, deviation.clamp_min(least))

    def __call__(self, features: Tensor) -> Tensor:
        """Bring features, [M, D], to this scale."""
        return (features - self.mean) / self.deviation


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


def to_float_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turn uint8 [N, H, W, C] into float32 [N, C, H, W] in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
