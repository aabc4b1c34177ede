"""Image features for metrics: extractors, their standardization, and random features."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atelier.core.arrays import to_tensor

MIN_IMAGES_TO_STANDARDIZE = 30  # the standard deviations of fewer images are too uncertain
_RANDOM_CHANNELS = (64, 128, 256)
# These bound the memory. A map of 64 channels takes 64 MB on the CPU, where larger batches are not
# faster, and 1 GB on a GPU, which 2 images at a time of Inception would leave idle.
_PIXELS_PER_BATCH = 2**18
_PIXELS_PER_BATCH_ON_CUDA = 2**22
_MIN_DEVIATION = 0.1  # lower bound of a standard deviation, relative to the mean over features


@dataclass(frozen=True)
class Extractor:
    """Network that computes features of images.

    Attributes:
        network: maps float [B, 3, H, W] in [-1, 1] to [B, D].
        identity: unique name of the network with its weights.
        input_size: side in pixels to which the network resizes images; 0 if it does not.
        calibrated: true if features are compared without standardization, so that metrics are
            comparable with the literature.
    """

    network: nn.Module
    identity: str
    input_size: int = 0
    calibrated: bool = False

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Extract the features of images in batches, float32 [N, D] on the CPU.

        Args:
            images: uint8 [N, H, W, C]; grayscale images are repeated to three channels.
            device: where to compute.
        """
        network = self.network.to(device)
        batch_size = self.batch_size(max(images.shape[1:3]), device)
        batches = []
        for start in range(0, len(images), batch_size):
            # Uploaded as bytes, which are a quarter of the floats.
            pixels = torch.tensor(images[start : start + batch_size]).to(device)
            batch = to_tensor(pixels, signed=True)
            batches.append(network(batch.expand(-1, 3, -1, -1)).float().cpu())
        return torch.cat(batches)

    def batch_size(self, side: int, device: torch.device) -> int:
        """Return how many images of ``side`` pixels share a pass on ``device``."""
        pixels = _PIXELS_PER_BATCH_ON_CUDA if device.type == "cuda" else _PIXELS_PER_BATCH
        return int(max(1, pixels // max(self.input_size, side) ** 2))

    def scale(self, real: Tensor) -> "Standardizer":
        """Compute the scale for comparisons from features of real images, [N, D].

        The images must be in neither of the compared sets. The scale of one of them makes its
        own features smaller than those of the other, so that the KID of two sets of the same
        distribution is above 0 on average. With too few images, features are not scaled.
        """
        if self.calibrated or not self.has_scale(len(real)):
            return Standardizer(torch.zeros(()), torch.ones(()))
        return Standardizer.of(real)

    def has_scale(self, count: int) -> bool:
        """Return true if ``count`` real images suffice to compute the scale of features.

        With few images, distances depend more on the scale than on the compared sets. The KID of
        two sets of drawn shapes, whose expectation is 0, had a standard deviation of 6,500 with
        the scale of 3 images, 24 with 6, 3.2 with 15, 0.6 with 30 and 0.2 with 200.
        """
        return self.calibrated or count >= MIN_IMAGES_TO_STANDARDIZE


@dataclass(frozen=True)
class Standardizer:
    """Standardization of features.

    Attributes:
        mean: subtracted from features, [D].
        deviation: divisor of features, [D].
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, real: Tensor) -> "Standardizer":
        """Compute mean and standard deviation of real features.

        A deviation is at least a tenth of the mean deviation. A feature that is 0 for nearly all
        real images would otherwise dominate all others.

        Args:
            real: [N, D], N at least 2.
        """
        mean, deviation = real.mean(dim=0), real.std(dim=0)
        minimum = max(_MIN_DEVIATION * float(deviation.mean()), 1e-6)
        return cls(mean, deviation.clamp_min(minimum))

    def __call__(self, features: Tensor) -> Tensor:
        """Standardize features, [M, D]."""
        return (features - self.mean) / self.deviation


class RandomFeatures(nn.Module):
    """Small VGG-like network with seeded random filters, which needs no download.

    Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", find that
    random VGG features are better than ImageNet features for images unlike those of ImageNet.
    Metrics depend on the seed, and are comparable only for the same seed.

    Images are float [B, 3, H, W] in [-1, 1], features float [B, 1024]: the last maps, averaged
    over the four quarters of the image.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        generator = torch.Generator().manual_seed(seed)
        channels_in = 3
        for channels_out in _RANDOM_CHANNELS:
            # The layer's default weights must not be drawn from the global generator.
            with torch.random.fork_rng(devices=[]):
                convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, generator=generator)
            layers += [convolution, nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            channels_in = channels_out
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Extract the features of a batch."""
        features: Tensor = self.layers(images)
        return features
