"""Inversion of a generator: the latent whose image is nearest to a target image.

Zhu et al. 2016, "Generative visual manipulation on the natural image manifold"
(https://arxiv.org/abs/1609.03552): the latent is optimized by L-BFGS from several starts, for a
distance of pixels and of features of a classification network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from atelier.core.arrays import to_tensor, to_uint8
from atelier.core.errors import AtelierError
from atelier.core.events import Events
from atelier.core.progress import Progress
from atelier.core.random_streams import torch_generator
from atelier.core.setting_types import Count, CountOrZero, Section, Seed, Weight
from atelier.gan.generation import TrainedGenerator, random_latents, with_labels
from atelier.latents.lbfgs import Minima, minimize
from atelier.style.vgg import build_vgg19, device_of, feature_maps, preprocess

LAYERS = (1, 6, 11, 20)  # relu1_1, relu2_1, relu3_1 and relu4_1 of VGG19
_SCALES = (1, 2, 4, 8)  # factors by which images are reduced for the distance of pixels
_BATCH = 128
_EPSILON = 1e-8


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

    candidates: Annotated[int, Field(ge=1, le=65_536)] = 1024
    starts: Annotated[int, Field(ge=1, le=256)] = 8
    iterations: Count = 150
    refined: Annotated[int, Field(ge=1, le=256)] = 2
    refinements: CountOrZero = 40
    pixel_weight: Weight = 1.0
    feature_weight: Weight = 0.1
    prior_weight: Weight = 0.01
    seed: Seed = 0


@dataclass(frozen=True, eq=False)
class Inversion:
    """Result of an inversion.

    Attributes:
        latent: float32 [latent_size + classes], on the CPU.
        image: its image, uint8 [H, W, C].
        psnr: peak signal-to-noise ratio of the image and the target in dB.
        losses: of the best start after each evaluation.
    """

    latent: Tensor
    image: NDArray[np.uint8]
    psnr: float
    losses: tuple[float, ...]


def load_features(device: torch.device) -> nn.Sequential:
    """Return the network whose features :func:`invert` compares: VGG19's original weights."""
    return build_vgg19("vgg19_caffe", "average", 0, max(LAYERS)).to(device)


def invert(
    generator: TrainedGenerator,
    target: NDArray[np.uint8],
    options: InversionOptions | None = None,
    *,
    vgg: nn.Sequential | None,
    events: Events | None = None,
    labels: Sequence[int] = (),
    stop_requested: Callable[[], bool] = lambda: False,
) -> Inversion:
    """Find the latent whose image is nearest to a target.

    The result is the same for the same arguments on one machine.

    Args:
        generator: the generator.
        target: uint8 [H, W, C], of the generator's size and channels.
        options: starts, iterations and weights.
        vgg: from :func:`load_features`, on the generator's device; ``None`` for pixels only.
        events: receives the progress.
        labels: classes to search; by default all.
        stop_requested: called after each evaluation; if true, the best latent so far is returned.

    Raises:
        AtelierError: the target has another shape, or a class does not exist.
    """
    options = options or InversionOptions()
    search = _Search(generator, target, options, vgg)
    events = events or Events()
    starts, labels_of_starts = search.starts(labels)
    losses: list[float] = []
    done, total = 0, options.iterations + options.refinements

    def run(minima: Minima, loss: Callable[[Tensor], Tensor], count: int) -> Minima:
        nonlocal done
        for minima in islice(minimize(loss, minima.points), count):
            done += 1
            losses.append(float(minima.losses.min()))
            events.on_progress(Progress(done, total, f"loss {losses[-1]:.4f}"))
            if stop_requested():
                break
        return minima

    minima = run(Minima(starts, starts.new_zeros(len(starts))), partial_loss(search.pixel_loss, labels_of_starts), options.iterations)
    if vgg is not None and options.refinements and not stop_requested():
        nearest = minima.losses.argsort()[: options.refined]
        labels_of_starts = labels_of_starts[nearest] if generator.classes else labels_of_starts
        minima = run(
            Minima(minima.points[nearest], minima.losses[nearest]),
            partial_loss(search.full_loss, labels_of_starts),
            options.refinements,
        )
    best = int(minima.losses.argmin())
    return search.result(minima.points[best : best + 1], labels_of_starts[best : best + 1], losses)


def partial_loss(loss, labels):
    return lambda points: loss(points, labels)


class _Search:
    """Losses of latents for one target."""

    def __init__(
        self,
        generator: TrainedGenerator,
        target: NDArray[np.uint8],
        options: InversionOptions,
        vgg: nn.Sequential | None,
    ) -> None:
        self.generator, self.options, self.vgg = generator, options, vgg
        self.pixels = target
        self.target = to_tensor(torch.from_numpy(target[None].copy()), signed=True).to(
            generator.device
        )
        self.target_features = self._features(self.target) if vgg is not None else {}

    def latents(self, points: Tensor, labels: Tensor) -> Tensor:
        """Return the generator's inputs of points that are N(0, 1)."""
        latents = points
        if self.generator.latent_distribution == "uniform":
            latents = torch.erf(points / 2**0.5)
        return with_labels(latents, labels, self.generator) if self.generator.classes else latents

    def images(self, points: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.generator.network(self.latents(points, labels)).float()
        return images

    @torch.no_grad()
    def starts(self, labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the nearest of random points [starts, latent_size], and their labels."""
        generator, options = self.generator, self.options
        for label in labels:
            if not 0 <= label < generator.classes:
                raise AtelierError(f"there is no class {label}.")
        stream = torch_generator(options.seed, "latents.inversion")
        points = torch.randn(options.candidates, generator.latent_size, generator=stream)
        points = points.to(generator.device)
        classes = torch.tensor(list(labels or range(max(1, generator.classes))))
        numbers = classes[torch.arange(options.candidates) % len(classes)].to(generator.device)
        distances = torch.cat(
            [
                self._pixel_distance(self.images(batch, part))
                for batch, part in zip(points.split(_BATCH), numbers.split(_BATCH), strict=True)
            ]
        )
        nearest = distances.argsort()[: options.starts]
        return points[nearest], numbers[nearest]

    def pixel_loss(self, points: Tensor, labels: Tensor) -> Tensor:
        distance = self._pixel_distance(self.images(points, labels))
        return self.options.pixel_weight * distance + self._prior(points)

    def full_loss(self, points: Tensor, labels: Tensor) -> Tensor:
        images = self.images(points, labels)
        distance = self.options.pixel_weight * self._pixel_distance(images)
        return (
            distance
            + self.options.feature_weight * self._feature_distance(images)
            + self._prior(points)
        )

    def _prior(self, points: Tensor) -> Tensor:
        excess = (points.square().mean(1) - 1).clamp(min=0)
        return self.options.prior_weight * excess.square()

    def _pixel_distance(self, images: Tensor) -> Tensor:
        """Return the mean squared difference at several sizes, for colors from 0 to 1."""
        difference = (images - self.target) / 2
        sizes = [F.avg_pool2d(difference, scale) for scale in _SCALES]
        return torch.stack([each.square().flatten(1).mean(1) for each in sizes]).sum(0)

    def _features(self, images: Tensor) -> dict[int, Tensor]:
        if self.vgg is None:
            return {}
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        maps = feature_maps(self.vgg, preprocess((rgb + 1) / 2, "caffe"), LAYERS)
        return {layer: F.normalize(values, dim=1, eps=_EPSILON) for layer, values in maps.items()}

    def _feature_distance(self, images: Tensor) -> Tensor:
        """Return the mean squared distance of normalized features, as in LPIPS without weights."""
        maps = self._features(images)
        distances = [
            (maps[layer] - target).square().sum(1).flatten(1).mean(1)
            for layer, target in self.target_features.items()
        ]
        return torch.stack(distances).mean(0)

    @torch.no_grad()
    def result(self, point: Tensor, label: Tensor, losses: Sequence[float]) -> Inversion:
        latent = self.latents(point, label)
        image = to_uint8(self.generator.network(latent), signed=True)[0].cpu().numpy()
        return Inversion(latent[0].cpu(), image, psnr(image, self.pixels), tuple(losses))


def psnr(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of two images in dB; infinity for equal ones."""
    error = np.square(image.astype(np.float64) - target).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
