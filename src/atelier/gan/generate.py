"""Pictures from latents."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atelier.gan.networks import Architecture


def draw_latents(
    count: int, arch: Architecture, seed: int, labels: Sequence[int] | None = None
) -> Tensor:
    """Draw what the generator takes, on the CPU, the same for a seed; see :func:`random_latents`.

    Args:
        count: of latents.
        arch: the generator's.
        seed: of their random stream.
        labels: what the pictures shall show, ``count`` numbers from 0 to ``arch.classes - 1``;
            left out, the classes take turns. Of no use where ``arch`` has none.

    Returns:
        float32 [count, latent_size + classes].
    """
    latents = random_latents(count, arch, torch.Generator().manual_seed(seed))
    if not arch.classes:
        return latents
    wanted = torch.arange(count) % arch.classes if labels is None else torch.tensor(labels)
    return with_labels(latents, wanted, arch)


def with_labels(latents: Tensor, labels: Tensor, arch: Architecture) -> Tensor:
    """Put one-hot labels behind latents [B, latent_size]; ``labels`` is int64 [B]."""
    one_hot = torch.nn.functional.one_hot(labels, arch.classes)
    return torch.cat([latents, one_hot.to(latents)], 1)


def split_labels(latents: Tensor, arch: Architecture) -> Tensor | None:
    """The one-hot labels [B, classes] behind latents; ``None`` where there are no classes."""
    return latents[:, arch.latent_size :] if arch.classes else None


def random_latents(count: int, arch: Architecture, generator: torch.Generator) -> Tensor:
    """Draw latents as ``arch`` says, from N(0, 1) or uniformly from -1 to 1.

    Returns:
        float32 [count, latent_size], on the generator's device.
    """
    shape, device = (count, arch.latent_size), generator.device
    if arch.latent_distribution == "normal":
        return torch.randn(shape, generator=generator, device=device)
    return torch.rand(shape, generator=generator, device=device).mul(2).sub(1)


@torch.inference_mode()
def generate(generator: nn.Module, latents: Tensor, batch_size: int = 256) -> NDArray[np.uint8]:
    """Make a picture of every latent vector.

    The generator runs in evaluation mode, so that a picture does not depend on the others
    in its batch; its mode is put back afterwards.

    Args:
        generator: maps [B, latent_size + classes] to [B, C, H, W] in [-1, 1].
        latents: [N, latent_size + classes] float, on any device.
        batch_size: pictures made at a time; bounds the memory.

    Returns:
        uint8 [N, H, W, C], 0 to 255.
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        batches = [
            _round_to_uint8(generator(part.to(device))) for part in latents.split(batch_size)
        ]
    finally:
        generator.train(was_training)
    return np.concatenate(batches)


def to_uint8(pictures: Tensor) -> Tensor:
    """Turn [B, C, H, W] in [-1, 1] into uint8 [B, H, W, C], 0 to 255, on the same device."""
    scaled = pictures.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous()


def _round_to_uint8(pictures: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_uint8(pictures).cpu().numpy()
    return pixels
