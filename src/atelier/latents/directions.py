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

from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.random_streams import torch_generator
from atelier.gan.generation import TrainedGenerator, random_latents, with_labels
from atelier.latents.bounds import batch_size

_SIDE = 16  # pixels of the reduced images whose components are computed
# With fewer samples for each value of a latent, directions overfit: they fit the samples only.
_SAMPLES_PER_VALUE = 10
_LEAST_SAMPLES, _MOST_SAMPLES = 2048, 20_480
_SAMPLES_PER_CLASS = 32  # from which the mean of a class is estimated
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
        explained: float32 [count], share of the features' variance, within classes if there are
            any.
    """

    vectors: Tensor
    deviations: Tensor
    explained: Tensor


MAX_LATENT_SIZE = _MOST_SAMPLES // _SAMPLES_PER_VALUE
"""Size of latents up to which directions are computed; more would take too many images."""


def principal_directions(
    generator: TrainedGenerator,
    count: int = 10,
    samples: int | None = None,
    seed: int = 0,
    *,
    report: ProgressCallback = silent,
) -> Directions:
    """Return the directions of latent space that change the images most.

    Args:
        generator: any generator; labels of a conditional one are drawn at random and not changed.
        count: number of directions, at most ``latent_size``. There are none if latents are larger
            than :data:`MAX_LATENT_SIZE`.
        samples: number of latents from which they are estimated; by default 2,048, or ten for each
            value of a latent if these are more.
        seed: of the latents.
        report: receives the number of generated images.
    """
    size = generator.latent_size
    if size > MAX_LATENT_SIZE:
        return Directions(torch.zeros(0, size), torch.zeros(0), torch.zeros(0))
    samples = samples or max(_LEAST_SAMPLES, _SAMPLES_PER_VALUE * size)
    stream = torch_generator(seed, "latents.directions")
    inputs = latents = random_latents(samples, generator, stream)
    labels = torch.zeros(samples, dtype=torch.int64)
    if generator.classes:
        # Of many classes only some are drawn, so that each has enough samples for its mean.
        classes = torch.randperm(generator.classes, generator=stream)
        classes = classes[: max(1, samples // _SAMPLES_PER_CLASS)]
        labels = torch.randint(len(classes), (samples,), generator=stream)
        inputs = with_labels(latents, classes[labels], generator)
    # A direction does not change the class, so the differences of classes are no part of it.
    features = _centered(_all_features(generator, inputs, report).double(), labels)
    count = min(count, size, features.shape[1])
    values, components = torch.linalg.eigh(features.T @ features / samples)
    variances = values.flip(0).clamp(min=0)
    scores = features @ components.flip(1)[:, :count]
    centered = _centered(latents.double(), labels)
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


def _centered(values: Tensor, labels: Tensor) -> Tensor:
    """Subtract the mean of each label's rows; ``values`` is [N, D], ``labels`` [N]."""
    counts = labels.bincount()
    sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, labels, values)
    return values - (sums / counts.clamp(min=1)[:, None])[labels]


def _all_features(generator: TrainedGenerator, inputs: Tensor, report: ProgressCallback) -> Tensor:
    features: list[Tensor] = []
    for batch in inputs.split(batch_size(generator)):
        features.append(_features(generator, batch))
        report(Progress(sum(map(len, features)), len(inputs)))
    return torch.cat(features)


@torch.inference_mode()
def _features(generator: TrainedGenerator, inputs: Tensor) -> Tensor:
    """Return the values of reduced images, float32 [B, F], on the CPU."""
    images: Tensor = generator.network(inputs.to(generator.device)).float()
    return F.adaptive_avg_pool2d(images, min(_SIDE, images.shape[-1])).flatten(1).cpu()
