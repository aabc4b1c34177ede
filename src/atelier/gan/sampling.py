"""Sampling by seed, truncation and interpolation."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError
from atelier.gan.generation import TrainedGenerator

Images = NDArray[np.uint8]

MAX_SEED = 2**63 - 1
# One in a hundred values of N(0, 1) is within this; below it, resampling takes too long.
MIN_TRUNCATION = 0.01


def latents_for_seeds(
    seeds: Iterable[int],
    generator: TrainedGenerator,
    truncation: float | None = None,
    labels: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Yield the generator's input for each seed; it depends on that seed only.

    Truncation is that of Brock, Donahue and Simonyan 2019, "Large scale GAN training for high
    fidelity natural image synthesis": values beyond a threshold are drawn again. Images become
    closer to the average image and less diverse.

    Args:
        seeds: 0 to :data:`MAX_SEED`.
        generator: the generator to sample from.
        truncation: the threshold, at least :data:`MIN_TRUNCATION`; ``None`` for no truncation.
        labels: classes of the images; by default all. Seeds take turns: a seed has the class at
            the position of the seed modulo their number.

    Yields:
        float32 [latent_size + classes], on the CPU.

    Raises:
        AtelierError: the truncation is too small, the latents are not normal, or the class does
            not exist.
    """
    _validate_options(generator, truncation, labels)
    labels = labels or range(generator.classes)
    for seed in seeds:
        one_hot = torch.zeros(generator.classes)
        if labels:
            one_hot[labels[seed % len(labels)]] = 1
        yield torch.cat([_latent_for_seed(generator, seed, truncation), one_hot])


def _validate_options(
    generator: TrainedGenerator, truncation: float | None, labels: Sequence[int]
) -> None:
    for label in labels:
        if not 0 <= label < generator.classes:
            valid = f"classes 0 to {generator.classes - 1}" if generator.classes else "no classes"
            raise AtelierError(f"there is no class {label}: this generator has {valid}.")
    if truncation is not None and generator.latent_distribution != "normal":
        raise AtelierError(
            "truncation requires normal latents, but this generator's are uniform from -1 to 1;"
            " remove --truncation."
        )
    if truncation is not None and not truncation >= MIN_TRUNCATION:
        raise AtelierError(
            f"the truncation is {truncation:g}, but it must be {MIN_TRUNCATION} or more, for"
            " example 1.5."
        )


def _latent_for_seed(generator: TrainedGenerator, seed: int, truncation: float | None) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    if generator.latent_distribution == "uniform":
        return torch.rand(generator.latent_size, generator=stream).mul(2).sub(1)
    latent = torch.randn(generator.latent_size, generator=stream)
    while truncation is not None and (beyond := latent.abs() > truncation).any():
        latent[beyond] = torch.randn(int(beyond.sum()), generator=stream)
    return latent


def slerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Interpolate between two latents along a great circle (spherical linear interpolation).

    Shoemake 1985, "Animating rotation with quaternion curves". White 2016, "Sampling generative
    networks": linear interpolation of long latents gives vectors much shorter than those of the
    training; slerp preserves their length.

    Args:
        start: [latent_size].
        end: [latent_size].
        weight: 0 returns ``start`` bit for bit, 1 returns ``end``.

    Returns:
        [latent_size]. Parallel vectors have no unique great circle and are interpolated linearly.
    """
    cosine = torch.nn.functional.cosine_similarity(start.double(), end.double(), dim=0)
    angle = math.acos(max(-1.0, min(1.0, float(cosine))))
    sine = math.sin(angle)
    if sine < 1e-6:
        return torch.lerp(start, end, weight)
    return start * (math.sin((1 - weight) * angle) / sine) + end * (math.sin(weight * angle) / sine)


def within_training(latent: Tensor, generator: TrainedGenerator) -> Tensor:
    """Limit a latent to values that the training had: uniform ones are from -1 to 1.

    Args:
        latent: [latent_size], without label.
        generator: the generator of the latent.
    """
    is_uniform = generator.latent_distribution == "uniform"
    return latent.clamp(-1, 1) if is_uniform else latent


def interpolation_loop(
    inputs: Sequence[Tensor], frames: int, generator: TrainedGenerator
) -> Iterator[Tensor]:
    """Interpolate from each latent to the next by :func:`slerp`, and from the last to the first.

    All frames have the label of the first input, since generators are not trained on mixed labels.

    Args:
        inputs: at least one, [latent_size + classes].
        frames: frames from each latent to the next; the first of them is the latent itself.
        generator: the generator of the inputs.

    Yields:
        ``len(inputs) * frames`` vectors [latent_size + classes].
    """
    size, label = generator.latent_size, inputs[0][generator.latent_size :]
    for start, end in pairwise([*inputs, inputs[0]]):
        for frame in range(frames):
            moved = slerp(start[:size], end[:size], frame / frames)
            yield torch.cat([within_training(moved, generator), label])


def generate_one_by_one(generator: TrainedGenerator, inputs: Iterable[Tensor]) -> Iterator[Images]:
    """Yield an image uint8 [H, W, C], 0 to 255, for each input [latent_size + classes].

    Batches of different sizes may round sums differently. One by one, the image of a seed does not
    depend on the other seeds.
    """
    for latent in inputs:
        with torch.inference_mode():
            images = to_uint8(generator.network(latent[None].to(generator.device)), signed=True)
        yield images[0].cpu().numpy()
