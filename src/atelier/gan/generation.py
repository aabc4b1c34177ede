"""Latents with labels, and the images generated from them."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atelier.core.arrays import to_uint8
from atelier.gan.networks import Architecture


def draw_latents(
    count: int, arch: Architecture, seed: int, labels: Sequence[int] | None = None
) -> Tensor:
    """Draw the generator's inputs for a seed, on the CPU.

    Args:
        count: number of latents.
        arch: the generator's architecture.
        seed: seed of the latents.
        labels: ``count`` numbers from 0 to ``arch.classes - 1``; by default the classes alternate.
            Ignored if ``arch.classes`` is 0.

    Returns:
        float32 [count, latent_size + classes].
    """
    latents = random_latents(count, arch, torch.Generator().manual_seed(seed))
    if not arch.classes:
        return latents
    classes = torch.arange(count) % arch.classes if labels is None else torch.tensor(labels)
    return with_labels(latents, classes, arch)


def with_labels(latents: Tensor, labels: Tensor, arch: Architecture) -> Tensor:
    """Append one-hot labels to latents [B, latent_size]; ``labels`` is int64 [B]."""
    one_hot = torch.nn.functional.one_hot(labels, arch.classes)
    return torch.cat([latents, one_hot.to(latents)], 1)


def split_labels(latents: Tensor, arch: Architecture) -> Tensor | None:
    """Return the one-hot labels [B, classes] at the end of latents; ``None`` without classes."""
    return latents[:, arch.latent_size :] if arch.classes else None


def random_latents(count: int, arch: Architecture, generator: torch.Generator) -> Tensor:
    """Draw latents without labels from N(0, 1), or uniformly from -1 to 1.

    Returns:
        float32 [count, latent_size], on the generator's device.
    """
    shape, device = (count, arch.latent_size), generator.device
    if arch.latent_distribution == "normal":
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
