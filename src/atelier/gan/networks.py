"""Generator and discriminator networks, built from a frozen :class:`Architecture`.

Two families. ``dcgan``: Radford, Metz and Chintala 2016, "Unsupervised representation learning
with deep convolutional generative adversarial networks". It has strided convolutions instead of
pooling, batch normalization, ReLU in the generator, leaky ReLU in the discriminator, and weights
drawn from N(0, 0.02). ``mlp``: Goodfellow et al. 2014, "Generative adversarial nets". It has fully
connected layers with leaky ReLU and dropout.

With ``classes`` both networks are conditional. The generator's input is a latent vector followed by
a one-hot label (Mirza and Osindero 2014, "Conditional generative adversarial nets"). The
discriminator has one logit per class and returns the logit of the image's class (Mescheder et al.
2018, "Which training methods for GANs do actually converge?").
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, get_args

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from atelier.core.errors import AtelierError
from atelier.core.setting_types import DiscriminatorBlocks, GeneratorBlocks
from atelier.core.settings import ConvertSettings, NetworkSettings
from atelier.gan.gemm_conv import DownConv, LatentConvTranspose, LogitConv, UpConvTranspose

SIZES: tuple[int, ...] = get_args(ConvertSettings.model_fields["image_size"].annotation)

_LEAKY_SLOPE = 0.2  # as in the DCGAN paper
_FIRST_SIZE = 4  # height and width of the first feature map, as in the DCGAN paper
_MAX_DOUBLINGS = 3  # at most 8 times the base channels: 512 for 64, as in the DCGAN paper


class Architecture(NetworkSettings):
    """Everything from which both networks can be rebuilt: settings and the shape of the data.

    Attributes:
        image_size: height and width of an image in pixels, one of :data:`SIZES`.
        channels: 3 for RGB, 1 for grayscale.
        classes: number of classes; 0 for unconditional networks.
    """

    image_size: int
    channels: int
    classes: Annotated[int, Field(ge=0, le=65_536)] = 0
    # Defaults for files saved before these settings were added.
    generator_blocks: GeneratorBlocks = "plain"
    discriminator_blocks: DiscriminatorBlocks = "plain"
    spectral_norm: bool = False

    @model_validator(mode="after")
    def _check_shapes(self) -> "Architecture":
        """Reject shapes of images for which no network can be built.

        Raises:
            AtelierError: the message names valid values.
        """
        if self.image_size not in SIZES:
            raise AtelierError(
                f"the images are {self.image_size} pixels wide, but the networks need"
                f" one of {', '.join(map(str, SIZES))}; set convert.image_size to one of them."
            )
        if self.channels not in (1, 3):
            raise AtelierError(
                f"the images have {self.channels} channels, but the networks need 1 (grayscale)"
                " or 3 (RGB)."
            )
        if self.network == "dcgan" and self._shrinks_to_one_pixel():
            raise AtelierError(
                "without padding, images of 28 pixels shrink to one pixel, which batch"
                " normalization cannot process; set train.discriminator_padding to 1."
            )
        return self

    def _shrinks_to_one_pixel(self) -> bool:
        unpadded_28 = self.image_size == 28 and self.discriminator_padding == 0
        return unpadded_28 and self.discriminator_norm and self.discriminator_head == "convolution"

    @property
    def input_size(self) -> int:
        """Length of the generator's input: a latent vector and a one-hot label."""
        return self.latent_size + self.classes

    @classmethod
    def from_settings(
        cls, settings: NetworkSettings, image_size: int, channels: int, classes: int = 0
    ) -> "Architecture":
        """Combine the network settings with the shape of the images.

        Raises:
            AtelierError: no network can be built from these values.
        """
        fields = {key: getattr(settings, key) for key in NetworkSettings.model_fields}
        return cls(image_size=image_size, channels=channels, classes=classes, **fields)


class Generator(nn.Module):
    """Latents [B, latent_size + classes] to images [B, C, H, W] in [-1, 1]."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.shape = (arch.channels, arch.image_size, arch.image_size)
        layers = _dcgan_generator(arch) if arch.network == "dcgan" else _mlp_generator(arch)
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.fused: LayerFunctions | None = None

    def forward(self, latents: Tensor) -> Tensor:
        """Generate one image per latent vector."""
        functions = _layer_functions(self, self.fused, latents)
        return functions.run(self.layers, latents).reshape(-1, *self.shape)


class Discriminator(nn.Module):
    """Images [B, C, H, W] in [-1, 1] to logits [B]; a high logit means real."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        layers = _dcgan_discriminator(arch) if arch.network == "dcgan" else _mlp_discriminator(arch)
        self.layers = nn.Sequential(*layers)
        self.fused: LayerFunctions | None = None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return one logit per image; its sigmoid is D(x) in the papers.

        Args:
            images: [B, C, H, W].
            labels: one-hot [B, classes] if the network is conditional.
        """
        with parametrize.cached():
            self._spectral_norm_in_fp32(images.device.type)
            logits = _layer_functions(self, self.fused, images).run(self.layers, images)
        return _select_logits(logits, labels)

    def forward_pair(
        self, real: Tensor, fake: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of two batches, as two calls do, in one pass through the layers.

        Spectral normalization is not allowed: it does one power iteration per pass.

        Args:
            real: [B, C, H, W].
            fake: likewise.
            labels: those of both batches, one-hot [B, classes] if the network is conditional.
        """
        # Autocast rounds real images in the first layer to the type that generated ones have.
        images = torch.cat([real.to(fake.dtype), fake])
        logits = _layer_functions(self, self.fused, real).run_pair(self.layers, images)
        real_logits, fake_logits = _halves(logits)
        return _select_logits(real_logits, labels), _select_logits(fake_logits, labels)

    def _spectral_norm_in_fp32(self, device_type: str) -> None:
        """Compute normalized weights in float32; in bfloat16 they would be off by a percent."""
        with torch.autocast(device_type, enabled=False):
            for layer in self.modules():
                if parametrize.is_parametrized(layer, "weight"):
                    _ = layer.weight  # computed once; the forward pass reads it from the cache


RunLayers = Callable[[nn.Sequential, Tensor], Tensor]


@dataclass(frozen=True)
class LayerFunctions:
    """Functions that run layers: the plain ones below, or compiled ones.

    Attributes:
        batch_size: of the training steps that compiled ones are for; 0 for plain ones.
    """

    run: RunLayers
    run_pair: RunLayers
    batch_size: int


def run_layers(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """Run layers on a batch."""
    result: Tensor = layers(maps)
    return result


def run_layers_on_pair(layers: nn.Sequential, maps: Tensor) -> Tensor:
    """Run layers on two batches [2B, ...], each normalized by its own batch statistics.

    Ghost batch normalization: Hoffer et al. 2017, "Train longer, generalize better". Running
    statistics are updated by the first batch, then by the second.
    """
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            maps = torch.cat([layer(half) for half in _halves(maps)])
        else:
            maps = layer(maps)
    return maps


_PLAIN = LayerFunctions(run_layers, run_layers_on_pair, 0)


def _layer_functions(
    network: nn.Module, fused: LayerFunctions | None, batch: Tensor
) -> LayerFunctions:
    """Return ``fused`` for a training step of its batch size; plain functions for samples."""
    if fused and network.training and len(batch) == fused.batch_size:
        return fused
    return _PLAIN


def _halves(batches: Tensor) -> tuple[Tensor, Tensor]:
    """Split [2B, ...] into two batches, also empty ones."""
    # The gradient of a split is a single concatenation, unlike that of slices.
    first, second = batches.split([len(batches) // 2] * 2)
    return first, second


def _select_logits(logits: Tensor, labels: Tensor | None) -> Tensor:
    """Return the logits [B] of each image's class from [B, K, ...]."""
    logits = logits.flatten(1)
    return logits.flatten() if labels is None else (logits * labels).sum(1)


def build_networks(arch: Architecture, seed: int) -> tuple[Generator, Discriminator]:
    """Build both networks with fresh float32 weights on the CPU.

    The weights depend only on ``arch`` and ``seed``. The global random state is neither used nor
    changed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(arch).apply(_init_weights)
        discriminator = build_discriminator(arch)
    return generator, discriminator


def build_discriminator(arch: Architecture) -> Discriminator:
    """Build a discriminator with fresh weights from PyTorch's global random state."""
    discriminator = Discriminator(arch).apply(_init_weights)
    if arch.spectral_norm:
        _apply_spectral_norm(discriminator)
    return discriminator


def _apply_spectral_norm(network: nn.Module) -> None:
    """Divide every layer's weights by their largest singular value, found by power iteration."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral_norm(layer)


def _init_weights(module: nn.Module) -> None:
    """Initialize as in the DCGAN paper; biases and linear layers keep PyTorch's default."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, UpResBlock | DownResBlock):
        init_shortcut(module)


def _dcgan_generator(arch: Architecture) -> list[nn.Module]:
    """Return the DCGAN generator's layers: 4x4 maps, whose size each block doubles."""
    channels = [*reversed(_channels(arch.generator_channels, arch.image_size)), arch.channels]
    sizes = _sizes(arch.image_size)
    layers: list[nn.Module] = [
        nn.Unflatten(1, (arch.input_size, 1, 1)),
        LatentConvTranspose(arch.input_size, channels[0]),
    ]
    if arch.generator_blocks == "residual":
        return [*layers, *_residual_generator(arch, [*channels[:-1], channels[-2]], sizes)]
    for (size_in, size_out), (in_channels, out_channels) in zip(
        itertools.pairwise(sizes), itertools.pairwise(channels), strict=True
    ):
        layers += norm_act(in_channels, arch.relu_before_norm)
        if arch.generator_blocks == "upsample":
            layers += upsample_conv(in_channels, out_channels, size_out)
            continue
        layers.append(
            UpConvTranspose(in_channels, out_channels)
            if size_out == 2 * size_in
            # From 4 to 7 pixels: a kernel of 3 gives one pixel less than twice the size.
            else nn.ConvTranspose2d(in_channels, out_channels, 3, 2, 1, bias=False)
        )
    return layers


def _residual_generator(
    arch: Architecture, channels: list[int], sizes: list[int]
) -> list[nn.Module]:
    """Return residual blocks up to the image size, and a convolution to the image channels."""
    blocks: list[nn.Module] = [
        UpResBlock(in_channels, out_channels, size, arch.relu_before_norm)
        for (in_channels, out_channels), size in zip(
            itertools.pairwise(channels), sizes[1:], strict=True
        )
    ]
    to_image = nn.Conv2d(channels[-1], arch.channels, 3, 1, 1, bias=False)
    return [*blocks, *norm_act(channels[-1], arch.relu_before_norm), to_image]


def _dcgan_discriminator(arch: Architecture) -> list[nn.Module]:
    """Return the DCGAN discriminator's layers; each convolution or block halves the size."""
    channels = _channels(arch.discriminator_channels, arch.image_size)
    if arch.discriminator_head == "linear":
        channels = channels[:-1]
    norm, padding = arch.discriminator_norm, arch.discriminator_padding
    residual = arch.discriminator_blocks == "residual"
    layers: list[nn.Module] = []
    size = arch.image_size
    for in_channels, out_channels in itertools.pairwise([arch.channels, *channels]):
        if residual and layers:
            layers.append(DownResBlock(in_channels, out_channels))
            size //= 2
            continue
        layers.append(
            DownConv(in_channels, out_channels, bias=not norm)
            if padding
            else nn.Conv2d(in_channels, out_channels, 4, 2, 0, bias=not norm)
        )
        if norm and len(layers) > 1:  # not after the first layer, as in the DCGAN paper
            layers.append(nn.BatchNorm2d(out_channels))
        if not residual:
            layers.append(nn.LeakyReLU(_LEAKY_SLOPE, inplace=True))
        size = (size + 2 * padding - 4) // 2 + 1
    if residual:
        layers.append(nn.LeakyReLU(_LEAKY_SLOPE))
    return [*layers, *_discriminator_head(arch, channels[-1], size)]


def _discriminator_head(arch: Architecture, channels: int, size: int) -> list[nn.Module]:
    """Return the layers from the last maps [B, channels, size, size] to the logits."""
    logits = max(1, arch.classes)
    if arch.discriminator_head == "convolution":
        return [LogitConv(channels, logits, size, bias=not arch.discriminator_norm)]
    return [
        nn.Flatten(),
        nn.Linear(channels * size * size, arch.head_size),
        nn.LeakyReLU(_LEAKY_SLOPE, inplace=True),
        nn.Linear(arch.head_size, logits),
    ]


def _sizes(image_size: int) -> list[int]:
    """Return the sizes of the generator's feature maps, from 4 to the image size."""
    if image_size == 28:
        return [_FIRST_SIZE, 7, 14, 28]
    return [_FIRST_SIZE << level for level in range((image_size // _FIRST_SIZE).bit_length())]


def _channels(base: int, image_size: int) -> list[int]:
    """Return the channels of the feature maps, from the image end to the 4x4 end."""
    levels = len(_sizes(image_size)) - 1
    return [base * 2 ** min(level, _MAX_DOUBLINGS) for level in range(levels)]


def _mlp_generator(arch: Architecture) -> list[nn.Module]:
    units, values = arch.generator_channels, arch.channels * arch.image_size**2
    return _linear_layers([arch.input_size, units, 2 * units, 4 * units, values], arch.dropout)


def _mlp_discriminator(arch: Architecture) -> list[nn.Module]:
    units, values = arch.discriminator_channels, arch.channels * arch.image_size**2
    sizes = [values, 4 * units, 2 * units, units, max(1, arch.classes)]
    return [nn.Flatten(), *_linear_layers(sizes, arch.dropout)]


def _linear_layers(sizes: list[int], dropout: float) -> list[nn.Module]:
    """Return linear layers with leaky ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.LeakyReLU(_LEAKY_SLOPE), nn.Dropout(dropout)]
    return layers[:-2]


def norm_act(channels: int, relu_before_norm: bool, inplace: bool = True) -> list[nn.Module]:
    """Return batch normalization and ReLU, in the order set by ``relu_before_norm``."""
    norm, relu = nn.BatchNorm2d(channels), nn.ReLU(inplace=inplace)
    return [relu, norm] if relu_before_norm else [norm, relu]


def upsample_conv(in_channels: int, out_channels: int, size: int) -> list[nn.Module]:
    """Return nearest-neighbor upsampling to [size, size] and a 3x3 convolution."""
    return [nn.Upsample(size=size), nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False)]


class UpResBlock(nn.Module):
    """Residual block that upsamples maps [B, in, H, W] to [B, out, size, size]."""

    def __init__(
        self, in_channels: int, out_channels: int, size: int, relu_before_norm: bool
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            # Not in place: the shortcut reads the same maps.
            *norm_act(in_channels, relu_before_norm, inplace=False),
            *upsample_conv(in_channels, out_channels, size),
            *norm_act(out_channels, relu_before_norm),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.upsample = nn.Upsample(size=size)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the upsampled shortcut to the output of the layers."""
        # Upsampling after the 1x1 convolution gives the same values at a quarter of the cost.
        upsampled: Tensor = self.layers(maps) + self.upsample(self.shortcut(maps))
        return upsampled


class DownResBlock(nn.Module):
    """Residual block that halves the size, [B, in, H, W] to [B, out, H // 2, W // 2]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(_LEAKY_SLOPE),
            nn.Conv2d(in_channels, in_channels, 3, 1, 1),
            nn.LeakyReLU(_LEAKY_SLOPE, inplace=True),
            nn.Conv2d(in_channels, out_channels, 4, 2, 1),
        )
        self.pool = nn.AvgPool2d(2)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Add the pooled shortcut to the output of the layers."""
        halved: Tensor = self.layers(maps) + self.shortcut(self.pool(maps))
        return halved


@torch.no_grad()
def init_shortcut(block: UpResBlock | DownResBlock) -> None:
    """Initialize a shortcut so that it preserves the variance of its input."""
    nn.init.kaiming_normal_(block.shortcut.weight, nonlinearity="linear")
