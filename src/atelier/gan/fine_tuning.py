"""Fine-tuning: networks of an earlier training as initial weights, and frozen layers.

Wang et al. 2018, "Transferring GANs: generating images from limited data"; Mo, Cho and Shin 2020,
"Freeze the discriminator: a simple baseline for fine-tuning GANs" (FreezeD).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from atelier.core.errors import AtelierError
from atelier.core.paths import NETWORKS
from atelier.core.settings import Settings
from atelier.gan.networks import Architecture, Discriminator, Generator, build_discriminator
from atelier.gan.serialization import read_state


@dataclass(frozen=True)
class PretrainedNetworks:
    """State of both networks of an earlier training, on the CPU.

    Attributes:
        arch: from which they were built.
        generator: tensors of the generator by name.
        discriminator: tensors of the discriminator by name.
    """

    arch: Architecture
    generator: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor]

    def load_into(self, generator: Generator, discriminator: Discriminator) -> None:
        """Replace the weights and statistics of networks of the same architecture."""
        generator.load_state_dict(self.generator)
        discriminator.load_state_dict(self.discriminator)


def load_pretrained(folder: Path) -> PretrainedNetworks:
    """Read ``generator.safetensors`` and ``discriminator.safetensors`` of a folder.

    Raises:
        AtelierError: a file is missing, damaged or holds another network.
    """
    generator_file, discriminator_file = (folder / name for name in NETWORKS)
    arch, generator = read_state(generator_file, "generator")
    other, discriminator = read_state(discriminator_file, "discriminator")
    if other != arch:
        name = next(n for n in Architecture.model_fields if getattr(arch, n) != getattr(other, n))
        raise AtelierError(
            f"the two networks in {folder} are of different trainings: {name} is"
            f" {getattr(arch, name)} in the generator and {getattr(other, name)} in the"
            " discriminator; get both files from one training."
        )
    return PretrainedNetworks(arch, generator, discriminator)


def require_same_architecture(found: Architecture, needed: Architecture) -> None:
    """Raise if networks do not have the architecture of this training.

    Args:
        found: of the networks of ``train.start_from``.
        needed: of the settings and the training images.

    Raises:
        AtelierError: the message names the first difference.
    """
    for name in Architecture.model_fields:
        value, other = getattr(found, name), getattr(needed, name)
        if value != other:
            raise AtelierError(
                f"the networks of train.start_from have {name}: {value}, but this training has"
                f" {other}; {_advice(name, value, other)}, or choose other networks."
            )


def require_same_settings(found: Architecture, settings: Settings) -> None:
    """Raise if networks do not fit the settings; the images decide the number of classes.

    Raises:
        AtelierError: as for :func:`require_same_architecture` and :func:`freeze_layers`.
    """
    classes = found.classes if settings.train.conditional else 0
    convert = settings.convert
    needed = Architecture.from_settings(
        settings.train, convert.image_size, convert.channels, classes
    )
    require_same_architecture(found, needed)
    with torch.device("meta"):  # without memory
        freeze_layers(build_discriminator(needed), settings.train.freeze_discriminator)


def _advice(name: str, value: object, other: object) -> str:
    """Return the change with which networks of an architecture can be trained."""
    if name == "image_size":
        return f"set convert.image_size to {value}"
    if name == "channels":
        return f"set convert.color to {'rgb' if value == 3 else 'grey'}"
    if name != "classes":
        return f"set train.{name} to {str(value).lower() if isinstance(value, bool) else value}"
    if value and other:
        return f"use images of {value} classes"
    return f"set train.conditional to {'true' if value else 'false'}"


def freeze_layers(discriminator: Discriminator, count: int) -> None:
    """Exclude the first layers of a discriminator, next to the image, from the training.

    A layer is a convolution, a residual block or a linear layer, with the normalization after it.
    The singular vectors of spectral normalization are kept too. Batch normalization continues to
    use the statistics of the batch, as in FreezeD.

    Args:
        discriminator: changed in place.
        count: ``train.freeze_discriminator``.

    Raises:
        AtelierError: no layer would be trained.
    """
    if not count:
        return
    layers: list[list[nn.Module]] = []
    for module in discriminator.layers:
        if isinstance(module, nn.BatchNorm2d):
            layers[-1].append(module)
        elif any(True for _ in module.parameters()):
            layers.append([module])
    if count >= len(layers):
        raise AtelierError(
            f"train.freeze_discriminator is {count}, but the discriminator has {len(layers)}"
            f" layers, and one of them must be trained; set it to {len(layers) - 1} or less."
        )
    for module in (module for layer in layers[:count] for module in layer):
        module.requires_grad_(False)
        for part in module.modules():
            if parametrize.is_parametrized(part, "weight"):
                part.parametrizations.weight.eval()  # type: ignore[union-attr]
