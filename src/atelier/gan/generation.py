"""Trained generators, their latents with labels, and the images generated from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atelier.core.arrays import to_uint8
from atelier.core.renamed_settings import renamed_key
from atelier.gan.networks import Architecture


class LatentSpace(Protocol):
    """The inputs of a generator: an architecture or a trained generator."""

    @property
    def latent_size(self) -> int: ...  # noqa: D102
    @property
    def latent_distribution(self) -> Literal["normal", "uniform"]: ...  # noqa: D102
    @property
    def classes(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class TrainedGenerator:
    """A trained generator, its architecture and its device.

    Attributes:
        network: [B, latent_size + classes] to images [B, C, H, W] in [-1, 1], in evaluation mode.
        latent_size: length of a latent vector.
        latent_distribution: ``normal`` for N(0, 1), ``uniform`` for values from -1 to 1.
        classes: number of classes; 0 for an unconditional generator.
        device: device of the network.
        arch: from which the network was built; ``None`` for a model that was logged without it.
    """

    network: nn.Module
    latent_size: int
    latent_distribution: Literal["normal", "uniform"]
    classes: int
    device: torch.device
    arch: Architecture | None = None

    @classmethod
    def from_module(
        cls,
        network: nn.Module,
        input_size: int,
        architecture: Mapping[str, Any],
        device: torch.device,
    ) -> "TrainedGenerator":
        """Wrap a network that was logged with or without its architecture.

        Args:
            network: [B, input_size] to images [B, C, H, W] in [-1, 1], in evaluation mode.
            input_size: latent size plus number of classes.
            architecture: fields of its :class:`~atelier.gan.networks.Architecture`; an empty
                mapping means normal latents without classes.
            device: device of the network.
        """
        fields = with_current_names(architecture)
        classes = fields.get("classes", 0)
        distribution = fields.get("latent_distribution", "normal")
        return cls(network, input_size - classes, distribution, classes, device)

    def weights_digest(self) -> str:
        """Return the SHA-256 of the network's weights in hexadecimal digits."""
        digest = sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(values.numpy())
        return digest.hexdigest()


def with_current_names(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the fields of an architecture that was saved before they were renamed."""
    return {(renamed_key("train", name) or (name,))[0]: v for name, v in architecture.items()}


def draw_latents(
    count: int, space: LatentSpace, seed: int, labels: Sequence[int] | None = None
) -> Tensor:
    """Draw the generator's inputs for a seed, on the CPU.

    Args:
        count: number of latents.
        space: the generator or its architecture.
        seed: seed of the latents.
        labels: ``count`` numbers from 0 to ``space.classes - 1``; by default the classes alternate.
            Ignored if ``space.classes`` is 0.

    Returns:
        float32 [count, latent_size + classes].
    """
    latents = random_latents(count, space, torch.Generator().manual_seed(seed))
    if not space.classes:
        return latents
    classes = torch.arange(count) % space.classes if labels is None else torch.tensor(labels)
    return with_labels(latents, classes, space)


def with_labels(latents: Tensor, labels: Tensor, space: LatentSpace) -> Tensor:
    """Append one-hot labels to latents [B, latent_size]; ``labels`` is int64 [B]."""
    one_hot = torch.nn.functional.one_hot(labels, space.classes)
    return torch.cat([latents, one_hot.to(latents)], 1)


def split_labels(latents: Tensor, space: LatentSpace) -> Tensor | None:
    """Return the one-hot labels [B, classes] at the end of latents; ``None`` without classes."""
    return latents[:, space.latent_size :] if space.classes else None


def random_latents(count: int, space: LatentSpace, generator: torch.Generator) -> Tensor:
    """Draw latents without labels from N(0, 1), or uniformly from -1 to 1.

    Returns:
        float32 [count, latent_size], on the generator's device.
    """
    shape, device = (count, space.latent_size), generator.device
    if space.latent_distribution == "normal":
        return torch.randn(shape, generator=generator, device=device)
    return torch.rand(shape, generator=generator, device=device).mul(2).sub(1)


@torch.inference_mode()
def generate(generator: nn.Module, latents: Tensor, batch_size: int = 256) -> NDArray[np.uint8]:
    """Generate one image per latent vector.

    The generator runs in evaluation mode, so that an image does not depend on the others in its
    batch. Its mode is restored afterwards.

    Args:
        generator: maps [B, latent_size + classes] to [B, C, H, W] in [-1, 1].
        latents: [N, latent_size + classes] float, on any device.
        batch_size: images per batch; bounds the memory.

    Returns:
        uint8 [N, H, W, C], 0 to 255.
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        batches = [
            to_uint8(generator(batch.to(device)), signed=True).cpu().numpy()
            for batch in latents.split(batch_size)
        ]
    finally:
        generator.train(was_training)
    return np.concatenate(batches)
