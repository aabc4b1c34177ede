"""Size of a generator's images, and the number of them that fit into memory."""

import torch

from atelier.gan.generation import TrainedGenerator

_LARGEST_BATCH = 128
_PIXELS_PER_BATCH = _LARGEST_BATCH * 64 * 64


def image_shape(generator: TrainedGenerator) -> tuple[int, int, int]:
    """Return height, width and channels of a generator's images."""
    latent = torch.zeros(1, generator.latent_size + generator.classes, device=generator.device)
    with torch.inference_mode():
        _, channels, height, width = generator.network(latent).shape
    return height, width, channels


def batch_size(generator: TrainedGenerator) -> int:
    """Return the number of images to generate at once: fewer of larger images, at most 128."""
    height, width, _ = image_shape(generator)
    return max(1, min(_LARGEST_BATCH, _PIXELS_PER_BATCH // (height * width)))
