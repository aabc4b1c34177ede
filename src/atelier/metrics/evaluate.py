"""Judging generated pictures against real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.errors import AtelierError
from atelier.metrics.cache import FeatureCache
from atelier.metrics.diversity import diversity
from atelier.metrics.extractors import WEIGHTS, build_extractor
from atelier.metrics.fid import frechet_distance
from atelier.metrics.kid import FEWEST_PICTURES, Kid, kernel_distance
from atelier.metrics.neighbours import (
    NEIGHBOURS,
    Nearest,
    Overlap,
    memorised,
    nearest,
    overlap,
)
from atelier.metrics.swd import sliced_wasserstein
from atelier.progress import Progress, Report, silent
from atelier.settings import EvaluateSettings

Pictures = NDArray[np.uint8]
_FEWEST = 16


@dataclass(frozen=True)
class Scores:
    """How a set of pictures compares with real ones.

    Attributes:
        kid: kernel distance of the features; less is better.
        fid: Fréchet distance of the features; less is better.
        overlap: precision, recall, density and coverage; more is better.
        swd: sliced Wasserstein distance x 1,000 by scale in pixels; less is better.
        diversity: how different the pictures are from each other.
    """

    kid: Kid
    fid: float
    overlap: Overlap
    swd: dict[int, float]
    diversity: float

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Plain numbers by name; of the sliced Wasserstein distance the mean over scales."""
        values = {
            "kid": self.kid.value,
            "kid_error": self.kid.error,
            "fid": self.fid,
            "precision": self.overlap.precision,
            "recall": self.overlap.recall,
            "density": self.overlap.density,
            "coverage": self.overlap.coverage,
            "swd": sum(self.swd.values()) / len(self.swd),
            "diversity": self.diversity,
        }
        return {f"{prefix}{name}": value for name, value in values.items()}


@dataclass(frozen=True)
class RealPictures:
    """The real pictures that an evaluation looks at, drawn by its seed.

    Attributes:
        reference: what generated pictures are compared with.
        other: as many other real ones: the mark to reach.
        training: what is searched for the nearest of each generated picture.
        held_out: whether the training did not see the reference.
    """

    reference: Pictures
    other: Pictures
    training: Pictures
    held_out: bool

    @classmethod
    def draw(
        cls, settings: EvaluateSettings, training: Pictures, held_out: Pictures
    ) -> "RealPictures":
        """Take as many as the settings ask for, or as many as there are.

        Raises:
            AtelierError: there are too few real pictures.
        """
        unseen = len(held_out) >= _FEWEST
        most = min(len(held_out), len(training)) if unseen else len(training) // 2
        count = min(settings.samples, most)
        if count < _FEWEST:
            raise AtelierError(
                f"there are {len(training)} pictures, but numbers need at least {2 * _FEWEST};"
                " add pictures."
            )
        rng = np.random.default_rng(settings.seed)
        seen = training[rng.permutation(len(training))[: max(2 * count, settings.nearest_among)]]
        if unseen:
            reference = held_out[rng.permutation(len(held_out))[:count]]
            return cls(reference, seen[:count], seen, True)
        return cls(seen[:count], seen[count : 2 * count], seen, False)


@dataclass(frozen=True)
class Evaluation:
    """Scores of generated pictures, and of other real pictures as the mark to reach.

    Attributes:
        generated: the scores of generated pictures.
        other_real: the same of other real pictures, as many.
        by_epoch: the KID of the few samples that the training kept of each epoch.
        memorised: share of generated pictures that are nearer to a training picture than 99% of
            real pictures are that the training did not see.
        nearest: the nearest of ``training`` of each generated picture.
        training: the training pictures that were searched, uint8 [N, H, W, C].
        measured_with: what the numbers depend on and are never shown without.
    """

    generated: Scores
    other_real: Scores
    by_epoch: dict[int, Kid]
    memorised: float
    nearest: Nearest
    training: Pictures
    measured_with: dict[str, str | int]

    def metrics(self) -> dict[str, Any]:
        """Plain numbers for a metrics file, with what they were measured with."""
        return {
            **self.generated.metrics(),
            "memorised": self.memorised,
            **self.other_real.metrics("real_"),
            "measured_with": self.measured_with,
        }

    def epoch_rows(self) -> list[tuple[int, float, float]]:
        """Rows (epoch, KID, its standard error) for a plot."""
        return [(epoch, kid.value, kid.error) for epoch, kid in sorted(self.by_epoch.items())]

    def swd_rows(self) -> list[tuple[int, float, float]]:
        """Rows (pixels, generated, other real) for a plot, a row per scale, coarsest first."""
        return [
            (size, self.generated.swd[size], real)
            for size, real in sorted(self.other_real.swd.items())
        ]

    def closest(self, count: int) -> tuple[NDArray[np.int64], Pictures]:
        """Tell the generated pictures that are nearest to the training, the nearest first.

        Returns:
            Their places among the generated pictures, and the training picture next to each,
            uint8 [count, H, W, C].
        """
        places = self.nearest.distance.argsort(stable=True)[:count].numpy()
        return places, self.training[self.nearest.place[places].numpy()]


def evaluate(
    settings: EvaluateSettings,
    training: Pictures,
    held_out: Pictures,
    generated: Pictures,
    device: torch.device,
    report: Report = silent,
    epochs: Mapping[int, Pictures] | None = None,
    cache: FeatureCache | None = None,
    weights: Path = WEIGHTS,
) -> Evaluation:
    """Compare generated pictures with real ones, and real ones with other real ones.

    Args:
        settings: the ``evaluate`` section.
        training: what the generator learned from, uint8 [N, H, W, C].
        held_out: what it never saw, uint8 [M, H, W, C]. Where these are fewer than 16, half of
            the training pictures take their place.
        generated: uint8 [settings.samples, H, W, C].
        device: where features are extracted.
        report: counts the steps.
        epochs: a few samples of each epoch, uint8 [n, H, W, C], for KID over the training. It is
            unbiased, so that few do, but for its spread; fewer than three have none. Of these
            epochs, ``settings.epochs`` are measured, spread evenly, the last among them.
        cache: where features of real pictures may be found, and are kept.
        weights: the folder of files of weights.

    Raises:
        AtelierError: there are too few real pictures, or weights cannot be had.
    """
    real = RealPictures.draw(settings, training, held_out)
    count = len(real.reference)
    generated = generated[:count]
    extractor = build_extractor(settings.features, settings.seed, weights)
    cache = cache or FeatureCache()
    report(Progress(0, 4, "features of real pictures"))
    reference = cache.features(extractor, real.reference, device)
    scale = extractor.scale(reference)
    reference = scale(reference)
    seen = scale(cache.features(extractor, real.training, device))
    made = scale(extractor(generated, device))

    def score(features: Tensor, pictures: Pictures) -> Scores:
        return Scores(
            kid=kernel_distance(reference, features),
            fid=frechet_distance(reference, features),
            overlap=overlap(reference, features),
            swd=sliced_wasserstein(real.reference, pictures, settings.seed),
            diversity=diversity(pictures, settings.seed),
        )

    report(Progress(1, 4, "generated pictures"))
    of_generated = score(made, generated)
    report(Progress(2, 4, "other real pictures"))
    of_others = score(seen[:count] if real.held_out else seen[count : 2 * count], real.other)
    report(Progress(3, 4, "nearest training pictures"))
    by_epoch = {
        number: kernel_distance(reference, scale(extractor(samples, device)))
        for number, samples in spread(epochs or {}, settings.epochs).items()
        if len(samples) >= FEWEST_PICTURES
    }
    found = nearest(made, seen)
    result = Evaluation(
        generated=of_generated,
        other_real=of_others,
        by_epoch=by_epoch,
        memorised=memorised(found, nearest(reference, seen, leave_itself_out=not real.held_out)),
        nearest=found,
        training=real.training,
        measured_with={
            "features": settings.features,
            "samples": count,
            "seed": settings.seed,
            "reference": "held_out" if real.held_out else "training",
            "searched": len(seen),
            "neighbours": NEIGHBOURS,
        },
    )
    report(Progress(4, 4))
    return result


def spread(epochs: Mapping[int, Pictures], count: int) -> dict[int, Pictures]:
    """Choose ``count`` epochs at even distances, the last among them; all if there are fewer."""
    numbers = sorted(epochs)
    if count >= len(numbers):
        return dict(epochs)
    chosen = [numbers[(i + 1) * len(numbers) // count - 1] for i in range(count)]
    return {number: epochs[number] for number in chosen}
