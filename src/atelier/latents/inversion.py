"""Inversion of a generator: the latent whose image is nearest to a target image.

Zhu et al. 2016, "Generative visual manipulation on the natural image manifold"
(https://arxiv.org/abs/1609.03552): the latent is optimized by L-BFGS for a distance of pixels and
of features of a classification network. The nearest of many random latents are the starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atelier.core.arrays import to_tensor, to_uint8
from atelier.core.errors import AtelierError
from atelier.core.events import Events
from atelier.core.progress import Progress
from atelier.core.random_streams import torch_generator
from atelier.core.setting_types import Count, CountOrZero, Section, Seed, Weight
from atelier.gan.generation import TrainedGenerator, with_labels
from atelier.latents.bounds import batch_size
from atelier.latents.distances import FeatureDistance, PixelDistance
from atelier.latents.lbfgs import Minima, minimize

# PSNR in dB, and the similarity of images with at least this PSNR.
_SIMILARITY = (
    (30.0, "the same image, except for details"),
    (24.0, "very similar"),
    (18.0, "similar pose and colors, not the same face"),
    (0.0, "only the main colors are similar; this generator has no such image"),
)
# PSNR in dB of the distance of pixels, from which features are not compared: the image is found.
_FOUND = 35.0


class InversionOptions(Section):
    """Options of an inversion.

    Attributes:
        candidates: number of random latents, of which the nearest are the starts.
        starts: number of latents that are optimized at once.
        iterations: evaluations of the distance of pixels.
        refined: number of the nearest latents that are then optimized for features too.
        refinements: evaluations of the distance of pixels and features.
        pixel_weight: weight of the distance of pixels.
        feature_weight: weight of the distance of features.
        prior_weight: weight of the penalty on latents that are longer than random ones.
        seed: of the random latents.
    """

    candidates: Annotated[int, Field(ge=1, le=65_536)] = 512
    starts: Annotated[int, Field(ge=1, le=256)] = 4
    iterations: Count = 100
    refined: Annotated[int, Field(ge=1, le=256)] = 2
    refinements: CountOrZero = 25
    pixel_weight: Weight = 1.0
    feature_weight: Weight = 1.0
    prior_weight: Weight = 1.0
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class Inversion:
    """Result of an inversion.

    Attributes:
        latent: float32 [latent_size + classes], on the CPU.
        image: its image, uint8 [H, W, C].
        psnr: peak signal-to-noise ratio of the image and the target in dB.
        losses: smallest loss after each evaluation; features are added to it at the end.
    """

    latent: Tensor
    image: NDArray[np.uint8]
    psnr: float
    losses: tuple[float, ...]


def invert(
    generator: TrainedGenerator,
    target: NDArray[np.uint8],
    options: InversionOptions | None = None,
    *,
    vgg: nn.Sequential | None,
    events: Events | None = None,
    labels: Sequence[int] = (),
) -> Inversion:
    """Find the latent whose image is nearest to a target.

    The result is the same for the same arguments on one machine.

    Args:
        generator: the generator.
        target: uint8 [H, W, C], of the generator's size and channels.
        options: starts, iterations and weights.
        vgg: from :func:`~atelier.latents.distances.load_vgg`, on the generator's device; ``None``
            compares pixels only.
        events: receives the progress.
        labels: classes to search; by default all.

    Raises:
        AtelierError: a class does not exist.
    """
    options = options or InversionOptions()
    _check_labels(labels, generator)
    pixels = to_tensor(torch.from_numpy(target.copy())[None], signed=True).to(generator.device)
    problem = _Problem(generator, options, PixelDistance(pixels))
    if vgg is None or not options.feature_weight:
        options = options.model_copy(update={"refinements": 0})
    run = _Run(events or Events(), options.iterations + options.refinements)
    best = run.minimize(problem, problem.starts(labels), options.iterations)
    result = problem.result(best.nearest(1), target, run.losses)
    if vgg is None or not options.refinements or result.psnr > _FOUND:
        return result
    refined = _Problem(generator, options, problem.pixels, FeatureDistance(vgg, pixels))
    best = run.minimize(refined, best.nearest(options.refined), options.refinements)
    return refined.result(best.nearest(1), target, run.losses)


def psnr(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two images in dB; infinity for equal ones."""
    error = np.square(image.astype(np.float64) - target).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def psnr_text(psnr: float) -> str:
    """Return a PSNR in dB with its meaning, for example ``PSNR 26.0 dB: very similar``."""
    meaning = next(text for limit, text in _SIMILARITY if psnr >= limit or not limit)
    return f"PSNR {psnr:.1f} dB: {meaning}"


def _check_labels(labels: Sequence[int], generator: TrainedGenerator) -> None:
    for label in labels:
        if not 0 <= label < generator.classes:
            valid = f"classes 0 to {generator.classes - 1}" if generator.classes else "no classes"
            raise AtelierError(f"there is no class {label}: this generator has {valid}.")


@dataclass(frozen=True, eq=False)
class _Points:
    """Points that are optimized.

    Attributes:
        values: float32 [B, latent_size], distributed like N(0, 1).
        labels: int64 [B]; ignored without classes.
        losses: float32 [B].
    """

    values: Tensor
    labels: Tensor
    losses: Tensor

    def nearest(self, count: int) -> "_Points":
        """Return the points with the smallest losses."""
        order = self.losses.argsort()[:count]
        return _Points(self.values[order], self.labels[order], self.losses[order])


@dataclass(frozen=True, eq=False)
class _Problem:
    """Loss of points for a target image."""

    generator: TrainedGenerator
    options: InversionOptions
    pixels: PixelDistance
    features: FeatureDistance | None = None

    def latents(self, points: _Points) -> Tensor:
        """Return the generator's inputs [B, latent_size + classes]."""
        latents = points.values
        if self.generator.latent_distribution == "uniform":
            # The distribution function of N(0, 1), scaled to -1 to 1.
            latents = torch.erf(latents / 2**0.5)
        if not self.generator.classes:
            return latents
        return with_labels(latents, points.labels, self.generator)

    def loss(self, points: _Points) -> Tensor:
        """Return the loss of each point, [B]."""
        options = self.options
        images = self.generator.network(self.latents(points)).float()
        loss = options.pixel_weight * self.pixels(images)
        if self.features is not None:
            loss = loss + options.feature_weight * self.features(images)
        excess = (points.values.square().mean(1) - 1).clamp(min=0)
        return loss + options.prior_weight * excess.square()

    @torch.no_grad()
    def result(
        self, point: _Points, target: NDArray[np.uint8], losses: Sequence[float]
    ) -> Inversion:
        """Return the result of a single point."""
        latent = self.latents(point)
        image = to_uint8(self.generator.network(latent), signed=True)[0].cpu().numpy()
        return Inversion(latent[0].cpu(), image, psnr(image, target), tuple(losses))

    @torch.no_grad()
    def starts(self, labels: Sequence[int]) -> _Points:
        """Return the nearest of random points; classes take turns among all of them."""
        generator, options = self.generator, self.options
        stream = torch_generator(options.seed, "latents.inversion")
        values = torch.randn(options.candidates, generator.latent_size, generator=stream)
        classes = torch.tensor(list(labels or range(max(1, generator.classes))))
        numbers = classes[torch.arange(options.candidates) % len(classes)]
        values, numbers = values.to(generator.device), numbers.to(generator.device)
        batch = batch_size(generator)
        losses = [
            self.loss(_Points(*some, values[:0]))
            for some in zip(values.split(batch), numbers.split(batch), strict=True)
        ]
        return _Points(values, numbers, torch.cat(losses)).nearest(options.starts)


@dataclass
class _Run:
    """Evaluations of an inversion: progress and losses."""

    events: Events
    total: int
    losses: list[float] = field(default_factory=list)

    def minimize(self, problem: _Problem, start: _Points, evaluations: int) -> _Points:
        """Return the best points after a number of evaluations."""

        def loss(values: Tensor) -> Tensor:
            return problem.loss(_Points(values, start.labels, start.losses))

        best = Minima(start.values, start.losses)
        for best in islice(minimize(loss, start.values), evaluations):
            self.losses.append(float(best.losses.min()))
            note = f"loss {self.losses[-1]:.4f}"
            self.events.on_progress(Progress(len(self.losses), self.total, note))
        return _Points(best.points, start.labels, best.losses)
