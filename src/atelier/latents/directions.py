"""Principal directions of a generator's latents.

GANSpace (Härkönen et al. 2020, "GANSpace: discovering interpretable GAN controls",
https://arxiv.org/abs/2004.02546): principal components of the features of many latents, and the
direction in latent space that changes each of them, by linear regression. The features are the
generated images at a small size, which every network has. On the generator of the preset
``sample`` their directions change images more steadily than those of its first or second layer
(``docs/measurements/inversion.md``).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atelier.core.random_streams import torch_generator
from atelier.gan.generation import TrainedGenerator, random_latents, with_labels

_SIDE = 16  # pixels of the reduced images whose components are computed
_BATCH = 128
# Longest step, in standard deviations of the latents. A component that hardly depends on a single
# direction would need a step to latents far outside of those of the training.
_MAX_STEP = 2.0
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions in latent space, from the largest change of the images to the smallest.

    Attributes:
        vectors: float32 [count, latent_size], each of length 1. The value with the largest
            magnitude is positive.
        deviations: float32 [count], the length of the step that changes the component by its
            standard deviation.
        explained: float32 [count], share of the features' variance.
    """

    vectors: Tensor
    deviations: Tensor
    explained: Tensor


def principal_directions(
    generator: TrainedGenerator, count: int = 10, samples: int = 4096, seed: int = 0
) -> Directions:
    """Return the directions of latent space that change the images most.

    Args:
        generator: any generator; labels of a conditional one are drawn at random and not changed.
        count: number of directions, at most ``latent_size``.
        samples: number of latents from which they are estimated.
        seed: of the latents.
    """
    stream = torch_generator(seed, "latents.directions")
    latents = random_latents(samples, generator, stream)
    inputs = latents
    if generator.classes:
        labels = torch.randint(generator.classes, (samples,), generator=stream)
        inputs = with_labels(latents, labels, generator)
    features = torch.cat([_features(generator, batch) for batch in inputs.split(_BATCH)]).double()
    features -= features.mean(0)
    count = min(count, generator.latent_size, features.shape[1])
    values, components = torch.linalg.eigh(features.T @ features / samples)
    variances = values.flip(0).clamp(min=0)
    scores = features @ components.flip(1)[:, :count]
    centered = latents.double() - latents.double().mean(0)
    slopes = torch.linalg.lstsq(centered, scores).solution.T
    lengths = slopes.norm(dim=1).clamp(min=_TINY)
    vectors = slopes / lengths[:, None]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    steps = (variances[:count].sqrt() / lengths).clamp(max=_MAX_STEP * float(centered.std()))
    return Directions(
        (vectors * largest.sign()).float(),
        steps.float(),
        (variances[:count] / variances.sum().clamp(min=_TINY)).float(),
    )


@torch.inference_mode()
def _features(generator: TrainedGenerator, inputs: Tensor) -> Tensor:
    """Return the values of reduced images, float32 [B, F], on the CPU."""
    images: Tensor = generator.network(inputs.to(generator.device)).float()
    return F.adaptive_avg_pool2d(images, min(_SIDE, images.shape[-1])).flatten(1).cpu()
