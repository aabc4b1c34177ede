"""The DCGAN's two networks, built from a small frozen description.

Radford, Metz and Chintala 2016, "Unsupervised representation learning with deep
convolutional generative adversarial networks": strided convolutions instead of pooling,
batch normalisation in both networks, ReLU in the generator, leaky ReLU in the
discriminator, weights drawn from N(0, 0.02).
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atelier.errors import AtelierError
from atelier.settings import TrainSettings

SIZES = (16, 32, 64, 128, 256)
_SMALLEST = 4  # pixels a side of the first feature map, as in the paper
_MOST_DOUBLINGS = 3  # feature maps stop doubling at 8 times the width: 512 for 64, as in the paper


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build both networks again.

    Attributes:
        image_size: height and width of a picture in pixels, one of :data:`SIZES`.
        channels: 3 for RGB, 1 for grey.
        latent_size: numbers in a latent vector.
        generator_width: feature maps before the picture.
        discriminator_width: feature maps after the picture.
    """

    image_size: int
    channels: int
    latent_size: int
    generator_width: int
    discriminator_width: int

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            AtelierError: the picture size or the channel count has no network.
        """
        if self.image_size not in SIZES:
            raise AtelierError(
                f"convert.image_size is {self.image_size}, but the DCGAN needs"
                f" one of {', '.join(map(str, SIZES))}."
            )
        if self.channels not in (1, 3):
            raise AtelierError(
                f"the pictures have {self.channels} channels, but the DCGAN needs"
                " 1 (grey) or 3 (RGB)."
            )


def architecture(settings: TrainSettings, image_size: int, channels: int) -> Architecture:
    """Describe the networks that ``settings`` ask for and that fit the pictures.

    Raises:
        AtelierError: no network fits; the sentence says which size would.
    """
    return Architecture(
        image_size=image_size,
        channels=channels,
        latent_size=settings.latent_size,
        generator_width=settings.generator_width,
        discriminator_width=settings.discriminator_width,
    )


class Generator(nn.Module):
    """Latents [B, latent_size] to pictures [B, channels, size, size] in [-1, 1]."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = _widths(arch.generator_width, arch.image_size)[::-1]
        self.layers = nn.Sequential(
            *_up(arch.latent_size, widths[0], stride=1, padding=0),
            *itertools.chain.from_iterable(
                _up(wide, narrow, stride=2, padding=1)
                for wide, narrow in itertools.pairwise(widths)
            ),
            nn.ConvTranspose2d(widths[-1], arch.channels, 4, 2, 1, bias=False),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Make one picture of each latent vector."""
        pictures: Tensor = self.layers(latents[:, :, None, None])
        return pictures


class Discriminator(nn.Module):
    """Pictures [B, channels, size, size] in [-1, 1] to logits [B]; high means real."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        widths = _widths(arch.discriminator_width, arch.image_size)
        self.layers = nn.Sequential(
            nn.Conv2d(arch.channels, widths[0], 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            *itertools.chain.from_iterable(
                _down(narrow, wide) for narrow, wide in itertools.pairwise(widths)
            ),
            nn.Conv2d(widths[-1], 1, _SMALLEST, 1, 0, bias=False),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Judge each picture by a logit; its sigmoid is the paper's D(x)."""
        logits: Tensor = self.layers(pictures)
        return logits.flatten()


def build(arch: Architecture, seed: int) -> tuple[Generator, Discriminator]:
    """Build both networks with fresh weights, float32, on the CPU.

    The weights depend on ``arch`` and ``seed`` alone; the global random state is neither
    used nor changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(arch).apply(_initialise)
        discriminator = Discriminator(arch).apply(_initialise)
    return generator, discriminator


def _initialise(module: nn.Module) -> None:
    """Draw weights as the DCGAN paper does: N(0, 0.02), batch normalisation N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _widths(width: int, image_size: int) -> list[int]:
    """Feature maps of every level, from the picture's side to the 4x4 side."""
    levels = (image_size // _SMALLEST).bit_length() - 1
    return [width * 2 ** min(level, _MOST_DOUBLINGS) for level in range(levels)]


def _up(maps_in: int, maps_out: int, stride: int, padding: int) -> list[nn.Module]:
    return [
        nn.ConvTranspose2d(maps_in, maps_out, 4, stride, padding, bias=False),
        nn.BatchNorm2d(maps_out),
        nn.ReLU(inplace=True),
    ]


def _down(maps_in: int, maps_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(maps_in, maps_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(maps_out),
        nn.LeakyReLU(0.2, inplace=True),
    ]
