"""Generator and discriminator, built from a small frozen description.

Two families. ``dcgan``: Radford, Metz and Chintala 2016, "Unsupervised representation
learning with deep convolutional generative adversarial networks": strided convolutions
instead of pooling, batch normalisation, ReLU in the generator, leaky ReLU in the
discriminator, weights drawn from N(0, 0.02). ``mlp``: Goodfellow et al. 2014, fully
connected layers with leaky ReLU and dropout.

With ``classes`` both networks know what a picture shows: the generator's latents end in a one-hot
label (Mirza and Osindero 2014, "Conditional generative adversarial nets"), and the discriminator
has a logit for each class, of which the picture's own counts (Mescheder et al. 2018, "Which
training methods for GANs do actually converge?").
"""

import itertools
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from atelier.core.errors import AtelierError
from atelier.core.settings import ConvertSettings, NetworkSettings
from atelier.gan.gemm_conv import DownConv, LatentConvTranspose, LogitConv, UpConvTranspose

_LEAKY_SLOPE = 0.2  # of leaky ReLU, as in the DCGAN paper


def norm_act(maps: int, activation_first: bool) -> list[nn.Module]:
    """Batch normalisation and ReLU, in the order that is asked for."""
    norm, relu = nn.BatchNorm2d(maps), nn.ReLU(inplace=True)
    return [relu, norm] if activation_first else [norm, relu]


def upsample_conv(maps_in: int, maps_out: int, side: int) -> list[nn.Module]:
    """Enlarge to ``side`` by the nearest pixel, and convolve."""
    return [nn.Upsample(size=side), nn.Conv2d(maps_in, maps_out, 3, 1, 1, bias=False)]


class UpResBlock(nn.Module):
    """A residual block that enlarges feature maps [B, in, ...] to [B, out, side, side]."""

    def __init__(self, maps_in: int, maps_out: int, side: int, activation_first: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # Not in place: the shortcut takes the same maps.
            *(_scaled_shortcut(layer) for layer in norm_act(maps_in, activation_first)),
            *upsample_conv(maps_in, maps_out, side),
            *norm_act(maps_out, activation_first),
            nn.Conv2d(maps_out, maps_out, 3, 1, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(maps_in, maps_out, 1, bias=False)
        # After the convolution of single pixels: the same numbers, at a quarter of the cost.
        self.enlarge = nn.Upsample(size=side)

    def forward(self, maps: Tensor) -> Tensor:
        """Enlarge the maps."""
        grown: Tensor = self.layers(maps) + self.enlarge(self.shortcut(maps))
        return grown


class DownResBlock(nn.Module):
    """A residual block that halves feature maps, [B, in, H, W] to [B, out, H // 2, W // 2]."""

    def __init__(self, maps_in: int, maps_out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(_LEAKY_SLOPE),
            nn.Conv2d(maps_in, maps_in, 3, 1, 1),
            nn.LeakyReLU(_LEAKY_SLOPE, inplace=True),
            nn.Conv2d(maps_in, maps_out, 4, 2, 1),
        )
        self.shrink = nn.AvgPool2d(2)
        self.shortcut = nn.Conv2d(maps_in, maps_out, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Halve the maps."""
        shrunk: Tensor = self.layers(maps) + self.shortcut(self.shrink(maps))
        return shrunk


@torch.no_grad()
def init_shortcut(block: UpResBlock | DownResBlock) -> None:
    """Draw a shortcut's weights so that maps leave it as strong as they came."""
    nn.init.kaiming_normal_(block.shortcut.weight, nonlinearity="linear")


def _scaled_shortcut(layer: nn.Module) -> nn.Module:
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer


SIZES: tuple[int, ...] = get_args(ConvertSettings.model_fields["image_size"].annotation)
_FIRST_SIDE = 4  # pixels a side of the first feature map, as in the paper
_MAX_DOUBLINGS = 3  # feature maps stop doubling at 8 times the width: 512 for 64, as in the paper
# As in the settings, which name their own bounds; files are checked by these.
_BOUNDS = {
    "latent_size": (1, 65_536),
    "generator_channels": (1, 4096),
    "discriminator_channels": (1, 4096),
    "discriminator_padding": (0, 1),
    "head_size": (1, 65_536),
    "dropout": (0, 1),
    "classes": (0, 65_536),
}


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build both networks again.

    Attributes:
        image_size: height and width of a picture in pixels, one of :data:`SIZES`.
        channels: 3 for RGB, 1 for grey.
        network: ``dcgan`` or ``mlp``.
        latent_size: numbers in a latent vector.
        latent_distribution: drawn from N(0, 1), or uniformly from -1 to 1.
        generator_channels: feature maps (or units) before the picture; of the mlp, the first layer's.
        discriminator_channels: feature maps after the picture; of the mlp, the last layer's units.
        relu_before_norm: ReLU before batch normalisation in the generator, instead of after.
        discriminator_norm: batch normalisation in the discriminator; without it, biases.
        discriminator_padding: of its strided convolutions, 1 (a side is halved) or 0.
        discriminator_head: how the last maps become a logit, by a ``convolution`` over all of
            them, or by two ``linear`` layers after one convolution less.
        head_size: units between the two linear layers.
        dropout: of the mlp's hidden layers.
        generator_blocks: how the dcgan's generator grows: by ``plain`` transposed convolutions, or
            as :mod:`atelier.gan.networks` says.
        discriminator_blocks: likewise, how the discriminator shrinks.
        spectral_norm: each of the discriminator's layers is divided by its largest singular value
            (Miyato et al. 2018, "Spectral normalization for GANs").
        classes: of pictures that the networks tell apart; 0 for none.
    """

    image_size: int
    channels: int
    network: Literal["dcgan", "mlp"]
    latent_size: int
    latent_distribution: Literal["normal", "uniform"]
    generator_channels: int
    discriminator_channels: int
    relu_before_norm: bool
    discriminator_norm: bool
    discriminator_padding: int
    discriminator_head: Literal["convolution", "linear"]
    head_size: int
    dropout: float
    # Files of before these existed lack them.
    generator_blocks: Literal["plain", "upsample", "residual"] = "plain"
    discriminator_blocks: Literal["plain", "residual"] = "plain"
    spectral_norm: bool = False
    classes: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be built.

        Raises:
            AtelierError: no network has this picture size, channel count, latent length, width or
                padding; the sentence says which would do.
        """
        if self.image_size not in SIZES:
            raise AtelierError(
                f"the pictures are {self.image_size} pixels wide, but the networks need"
                f" one of {', '.join(map(str, SIZES))}; set convert.image_size to one of them."
            )
        if self.channels not in (1, 3):
            raise AtelierError(
                f"the pictures have {self.channels} channels, but the networks need 1 (grey)"
                " or 3 (RGB)."
            )
        if self.latent_size < 1:
            raise AtelierError(
                f"latents of {self.latent_size} numbers hold nothing; set train.latent_size to 1 or"
                " more, such as 100."
            )
        for name, (least, most) in _BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise AtelierError(
                    f"{name} is {getattr(self, name)}, but networks have {least} to {most}."
                )
        if self.network == "dcgan" and self._narrows_to_one_pixel():
            raise AtelierError(
                "without padding, pictures of 28 pixels shrink to a single one, which batch"
                " normalisation cannot take; set train.discriminator_padding to 1."
            )

    def _narrows_to_one_pixel(self) -> bool:
        narrow = self.image_size == 28 and self.discriminator_padding == 0
        return narrow and self.discriminator_norm and self.discriminator_head == "convolution"

    @property
    def input_size(self) -> int:
        """Numbers that the generator takes: a latent vector, and a one-hot label behind it."""
        return self.latent_size + self.classes

    @classmethod
    def from_settings(
        cls, settings: NetworkSettings, image_size: int, channels: int, classes: int = 0
    ) -> "Architecture":
        """Describe the networks that ``settings`` ask for and that fit the pictures.

        Raises:
            AtelierError: no network fits; the sentence says which size would.
        """
        wanted = {key: getattr(settings, key) for key in NetworkSettings.model_fields}
        return cls(image_size=image_size, channels=channels, classes=classes, **wanted)


class Generator(nn.Module):
    """Latents [B, latent_size + classes] to pictures [B, channels, size, size] in [-1, 1]."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.shape = (arch.channels, arch.image_size, arch.image_size)
        layers = _generator_layers(arch) if arch.network == "dcgan" else _dense_generator(arch)
        self.layers = nn.Sequential(*layers, nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """Make one picture of each latent vector."""
        pictures: Tensor = self.layers(latents)
        return pictures.reshape(-1, *self.shape)


class Discriminator(nn.Module):
    """Pictures [B, channels, size, size] in [-1, 1] to logits [B]; high means real."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        layers = (
            _discriminator_layers(arch) if arch.network == "dcgan" else _dense_discriminator(arch)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures: Tensor, labels: Tensor | None = None) -> Tensor:
        """Judge each picture by a logit; its sigmoid is the papers' D(x).

        Args:
            pictures: [B, channels, size, size].
            labels: one-hot [B, classes], where the networks know classes.
        """
        with parametrize.cached():
            self._divide_in_full(pictures.device.type)
            logits: Tensor = self.layers(pictures).flatten(1)
        return logits.flatten() if labels is None else (logits * labels).sum(1)

    def _divide_in_full(self, device: str) -> None:
        """Normalise weights in float32; a singular value in bfloat16 would be off by a percent."""
        with torch.autocast(device, enabled=False):
            for layer in self.modules():
                if parametrize.is_parametrized(layer, "weight"):
                    _ = layer.weight  # computed once, and kept while it is judged


def build_networks(arch: Architecture, seed: int) -> tuple[Generator, Discriminator]:
    """Build both networks with fresh weights, float32, on the CPU.

    The weights depend on ``arch`` and ``seed`` alone; the global random state is neither
    used nor changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(arch).apply(_init_weights)
        discriminator = Discriminator(arch).apply(_init_weights)
        if arch.spectral_norm:
            _apply_spectral_norm(discriminator)
    return generator, discriminator


def _apply_spectral_norm(network: nn.Module) -> None:
    """Divide every layer's weights by their largest singular value, found by power iteration."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral_norm(layer)


def _init_weights(module: nn.Module) -> None:
    """Draw weights as the DCGAN paper does; biases and linear layers stay as torch draws them."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, UpResBlock | DownResBlock):
        init_shortcut(module)


def _sides(image_size: int) -> list[int]:
    """The side of every feature map of the generator, from 4 to the picture's."""
    if image_size == 28:
        return [_FIRST_SIDE, 7, 14, 28]
    return [_FIRST_SIDE << level for level in range((image_size // _FIRST_SIDE).bit_length())]


def _channels(width: int, image_size: int) -> list[int]:
    """Feature maps of every level, from the picture's end to the 4x4 end."""
    levels = len(_sides(image_size)) - 1
    return [width * 2 ** min(level, _MAX_DOUBLINGS) for level in range(levels)]


def _generator_layers(arch: Architecture) -> list[nn.Module]:
    """The dcgan's generator: 4x4, then twice the side by each transposed convolution or block."""
    maps = [*reversed(_channels(arch.generator_channels, arch.image_size)), arch.channels]
    sides = _sides(arch.image_size)
    layers: list[nn.Module] = [
        nn.Unflatten(1, (arch.input_size, 1, 1)),
        LatentConvTranspose(arch.input_size, maps[0]),
    ]
    if arch.generator_blocks == "residual":
        return [*layers, *_generator_blocks(arch, [*maps[:-1], maps[-2]], sides)]
    for (narrow, wide), (maps_in, maps_out) in zip(
        itertools.pairwise(sides), itertools.pairwise(maps), strict=True
    ):
        layers += norm_act(maps_in, arch.relu_before_norm)
        if arch.generator_blocks == "upsample":
            layers += upsample_conv(maps_in, maps_out, wide)
            continue
        layers.append(
            UpConvTranspose(maps_in, maps_out)
            if wide == 2 * narrow
            # 4 to 7 pixels is not twice: a kernel of 3 leaves one out.
            else nn.ConvTranspose2d(maps_in, maps_out, 3, 2, 1, bias=False)
        )
    return layers


def _generator_blocks(arch: Architecture, maps: list[int], sides: list[int]) -> list[nn.Module]:
    """Residual blocks to the picture's side, and a convolution to its channels."""
    blocks: list[nn.Module] = [
        UpResBlock(maps_in, maps_out, side, arch.relu_before_norm)
        for (maps_in, maps_out), side in zip(itertools.pairwise(maps), sides[1:], strict=True)
    ]
    to_channels = nn.Conv2d(maps[-1], arch.channels, 3, 1, 1, bias=False)
    return [*blocks, *norm_act(maps[-1], arch.relu_before_norm), to_channels]


def _discriminator_layers(arch: Architecture) -> list[nn.Module]:
    """The dcgan's discriminator: about half the side by each strided convolution or block."""
    widths = _channels(arch.discriminator_channels, arch.image_size)
    if arch.discriminator_head == "linear":
        widths = widths[:-1]
    norm, padding = arch.discriminator_norm, arch.discriminator_padding
    residual = arch.discriminator_blocks == "residual"
    layers: list[nn.Module] = []
    side = arch.image_size
    for maps_in, maps_out in itertools.pairwise([arch.channels, *widths]):
        if residual and layers:
            layers.append(DownResBlock(maps_in, maps_out))
            side //= 2
            continue
        layers.append(
            DownConv(maps_in, maps_out, bias=not norm)
            if padding
            else nn.Conv2d(maps_in, maps_out, 4, 2, 0, bias=not norm)
        )
        if norm and len(layers) > 1:  # the first layer has none, as in the paper
            layers.append(nn.BatchNorm2d(maps_out))
        if not residual:
            layers.append(nn.LeakyReLU(_LEAKY_SLOPE, inplace=True))
        side = (side + 2 * padding - 4) // 2 + 1
    if residual:
        layers.append(nn.LeakyReLU(_LEAKY_SLOPE))
    logits = max(1, arch.classes)
    if arch.discriminator_head == "convolution":
        return [*layers, LogitConv(widths[-1], logits, side, bias=not norm)]
    head = nn.Linear(widths[-1] * side * side, arch.head_size)
    leaky = nn.LeakyReLU(_LEAKY_SLOPE, inplace=True)
    return [*layers, nn.Flatten(), head, leaky, nn.Linear(arch.head_size, logits)]


def _dense_generator(arch: Architecture) -> list[nn.Module]:
    width, pixels = arch.generator_channels, arch.channels * arch.image_size**2
    return _dense([arch.input_size, width, 2 * width, 4 * width, pixels], arch.dropout)


def _dense_discriminator(arch: Architecture) -> list[nn.Module]:
    width, pixels = arch.discriminator_channels, arch.channels * arch.image_size**2
    logits = max(1, arch.classes)
    return [nn.Flatten(), *_dense([pixels, 4 * width, 2 * width, width, logits], arch.dropout)]


def _dense(units: list[int], dropout: float) -> list[nn.Module]:
    """Linear layers with leaky ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for units_in, units_out in itertools.pairwise(units):
        layers += [nn.Linear(units_in, units_out), nn.LeakyReLU(_LEAKY_SLOPE), nn.Dropout(dropout)]
    return layers[:-2]
