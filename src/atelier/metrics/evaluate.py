"""Comparison of generated images with real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.errors import count_text
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.settings import EvaluateSettings
from atelier.metrics.cache import FeatureCache
from atelier.metrics.distances import (
    MIN_IMAGES_FOR_KID,
    RELIABLE_KID_IMAGES,
    Kid,
    compute_kid,
    diversity,
    frechet_distance,
    sliced_wasserstein,
)
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import MIN_IMAGES_TO_STANDARDIZE, Extractor, Standardizer
from atelier.metrics.neighbors import (
    NEIGHBORS,
    PRDC,
    Nearest,
    expected_memorized_fraction,
    memorized_fraction,
    nearest_pairs,
    precision_recall_density_coverage,
)
from atelier.metrics.reference import MIN_REAL_IMAGES, Images, RealImages, too_few_images_message

# Metrics of generated images that tables of runs show.
COMPARED = ("kid", "kid_error", "fid", "precision", "recall", "memorised")


@dataclass(frozen=True)
class Scores:
    """Comparison of a set of images with real ones; ``None`` for metrics that need more images.

    Attributes:
        kid: kernel distance of the features; less is better. Like all metrics of features, it
            needs enough training images to scale them.
        fid: Fréchet distance of the features; less is better.
        prdc: precision, recall, density and coverage; more is better.
        swd: sliced Wasserstein distance x 1,000 by scale in pixels; less is better.
        diversity: mean structural difference between two of the images.
    """

    kid: Kid | None
    fid: float | None
    prdc: PRDC | None
    swd: dict[int, float]
    diversity: float | None

    def metrics(self) -> dict[str, float]:
        """Return metrics by name, with the mean of the sliced Wasserstein distance over scales."""
        values = {
            "kid": self.kid and self.kid.value,
            "kid_error": self.kid and self.kid.error,
            "fid": self.fid,
            **(vars(self.prdc) if self.prdc else {}),
            "swd": sum(self.swd.values()) / len(self.swd) if self.swd else None,
            "diversity": self.diversity,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """Scores of generated images, and of other real images as a reference value.

    Attributes:
        generated: the scores of generated images.
        other_real: the scores of other real images.
        by_epoch: the KID of the samples that training saved of each epoch.
        memorised: fraction of generated images that are nearer to a training image than 99% of
            other real images; mirrored images are compared as well.
        real_memorised: the expectation of ``memorised`` for a perfect generator.
        nearest: the nearest of ``training`` for each generated image.
        training: the training images that were searched, uint8 [N, H, W, C].
        measured_with: settings and numbers of images that the metrics depend on.
        notes: sentences on metrics that are uncertain or absent because there are few images.
    """

    generated: Scores
    other_real: Scores
    by_epoch: dict[int, Kid]
    memorised: float | None
    real_memorised: float | None
    nearest: Nearest
    training: Images
    measured_with: dict[str, str | int]
    notes: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Return the metrics that runs are compared by, most important first."""
        quality = self.quality()
        return {name: quality[name] for name in COMPARED if name in quality}

    def quality(self) -> dict[str, float]:
        """Return all metrics of the generated images."""
        memorised = {} if self.memorised is None else {"memorised": self.memorised}
        return self.generated.metrics() | memorised

    def real(self) -> dict[str, float]:
        """Return the same metrics of other real images, and the expectation of ``memorised``."""
        expected = {} if self.real_memorised is None else {"memorised": self.real_memorised}
        return self.other_real.metrics() | expected

    def details(self) -> dict[str, Any]:
        """Return all metrics, also those of other real images, and how they were measured."""
        return {
            **self.quality(),
            **{f"real_{name}": value for name, value in self.real().items()},
            "measured_with": self.measured_with,
            "notes": list(self.notes),
        }

    def epoch_rows(self) -> list[tuple[int, float, float]]:
        """Return rows (epoch, KID, standard error) for a plot."""
        return [(epoch, kid.value, kid.error) for epoch, kid in sorted(self.by_epoch.items())]

    def swd_rows(self) -> list[tuple[int, float, float]]:
        """Return rows (pixels, generated, other real) for a plot, coarsest scale first."""
        return [
            (size, self.generated.swd[size], real)
            for size, real in sorted(self.other_real.swd.items())
        ]

    def closest(self, count: int) -> tuple[NDArray[np.int64], Images, NDArray[np.float32]]:
        """Return the generated images that are nearest to training images, nearest first.

        Returns:
            Their indices, int64 [count], the nearest training image of each, uint8
            [count, H, W, C], mirrored if its mirror image is nearer, and the distances of their
            features, float32 [count].
        """
        indices = self.nearest.distance.argsort(stable=True)[:count].numpy()
        neighbors = self.training[self.nearest.index[indices].numpy()]
        mirrored = self.nearest.mirrored[indices].numpy()
        neighbors[mirrored] = _mirror(neighbors[mirrored])
        return indices, neighbors, self.nearest.distance[indices].numpy()


@dataclass(frozen=True)
class _FeatureView:
    """Extractor with the scale of its features.

    Attributes:
        extractor: of the features.
        cache: of the features of real images.
        scale: of all features.
        scaling_images: number of training images from which it is computed.
    """

    extractor: Extractor
    cache: FeatureCache
    scale: Standardizer
    scaling_images: int

    @property
    def is_scaled(self) -> bool:
        """True if there are enough scaling images for features to be comparable."""
        return self.extractor.has_scale(self.scaling_images)

    def real(self, images: Images) -> Tensor:
        """Return the features of real images, [N, D]."""
        if not len(images):
            return torch.empty(0, 0)
        return self.scale(self.cache.features(self.extractor, images))

    def generated(self, images: Images) -> Tensor:
        """Return the features of generated images, [N, D]."""
        return self.scale(self.extractor(images, self.cache.device))


@dataclass(frozen=True)
class _RealFeatures:
    """Scaled features of each set of :class:`RealImages`, [N, D]."""

    reference: Tensor
    searched: Tensor
    other: Tensor


def evaluate(
    settings: EvaluateSettings,
    training: Images,
    test: Images,
    generated: Images,
    cache: FeatureCache | None = None,
    report: ProgressCallback = silent,
    epochs: Mapping[int, Images] | None = None,
) -> Evaluation:
    """Compare generated images with real ones, and real ones with other real ones.

    Args:
        settings: the ``evaluate`` section.
        training: the training images, uint8 [N, H, W, C], N at least 1.
        test: images that were not used for training, uint8 [M, H, W, C]. If there are fewer than
            16, a third of the training images is used instead.
        generated: uint8 [settings.samples, H, W, C].
        cache: extracts features, and stores those of real images; by default on the CPU, without
            storing them.
        report: called with the number of finished steps.
        epochs: samples of each epoch, uint8 [n, H, W, C]; ``settings.epochs`` are measured.

    Raises:
        AtelierError: the extractor's weights are not available.
    """
    real = RealImages.sample(settings, training, test)
    if settings.reference == "test":
        generated = generated[: max(len(real.reference), MIN_REAL_IMAGES)]
    report(Progress(0, 4, "features of real images"))
    extractor = build_extractor(settings.features, settings.seed)
    view, features = _real_features(real, training, extractor, cache or FeatureCache())
    report(Progress(1, 4, "generated images"))
    generated_features = view.generated(generated)
    scores = _score(real, features.reference, generated, generated_features, settings.seed, view)
    report(Progress(2, 4, "other real images"))
    other = _score(real, features.reference, real.other, features.other, settings.seed, view)
    report(Progress(3, 4, "nearest training images"))
    nearest = nearest_pairs(generated_features, features.searched).or_mirrored(
        nearest_pairs(view.generated(_mirror(generated)), features.searched)
    )
    real_nearest = _nearest_of_real(settings, real, training, features, view)
    result = Evaluation(
        generated=scores,
        other_real=other,
        by_epoch=_kid_by_epoch(spread(epochs or {}, settings.epochs), features.reference, view),
        memorised=memorized_fraction(nearest, real_nearest) if real_nearest else None,
        real_memorised=_expected_memorized(real_nearest),
        nearest=nearest,
        training=training[real.searched],
        measured_with=_measured_with(settings, real, len(generated)),
        notes=(
            *_notes_on_reference(settings, real, scores.kid, len(training), len(test)),
            *_notes_on_absent(scores, real, len(generated), real_nearest is not None, view),
        ),
    )
    report(Progress(4, 4))
    return result


def _real_features(
    real: RealImages,
    training: Images,
    extractor: Extractor,
    cache: FeatureCache,
) -> tuple[_FeatureView, _RealFeatures]:
    """Extract and scale the features of real images, each image only once."""
    compares_training = real.reference is training
    images = training if compares_training else training[real.searched]
    features = cache.features(extractor, images)
    rows = torch.from_numpy(real.searched)
    scaling = (features[rows] if compares_training else features)[real.scaling]
    view = _FeatureView(extractor, cache, extractor.scale(scaling), len(scaling))
    features = view.scale(features)
    if compares_training:
        return view, _RealFeatures(features, features[rows], view.real(real.other))
    first = features[: len(real.reference)]
    reference = view.real(real.reference) if real.held_out else first
    return view, _RealFeatures(reference, features, features[real.other_rows or slice(0)])


def _score(
    real: RealImages,
    reference: Tensor,
    images: Images,
    features: Tensor,
    seed: int,
    view: _FeatureView,
) -> Scores:
    """Compute the metrics for which there are enough images."""
    fewest = min(len(reference), len(features))
    comparable = fewest if view.is_scaled else 0
    # Both sets need the same number of patches: the larger one is sampled evenly.
    rows = np.linspace(0, max(0, len(real.reference) - 1), fewest).astype(np.int64)
    return Scores(
        kid=compute_kid(reference, features) if comparable >= MIN_IMAGES_FOR_KID else None,
        fid=frechet_distance(reference, features) if comparable >= 2 else None,
        prdc=precision_recall_density_coverage(reference, features)
        if comparable > NEIGHBORS
        else None,
        swd=sliced_wasserstein(real.reference[rows], images[:fewest], seed) if fewest else {},
        diversity=diversity(images, seed) if len(images) >= 2 else None,
    )


def _kid_by_epoch(
    epochs: Mapping[int, Images], reference: Tensor, view: _FeatureView
) -> dict[int, Kid]:
    """Compute the KID of each epoch with enough samples."""
    return {
        number: compute_kid(reference, view.generated(samples))
        for number, samples in epochs.items()
        if view.is_scaled and min(len(samples), len(reference)) >= MIN_IMAGES_FOR_KID
    }


def _nearest_of_real(
    settings: EvaluateSettings,
    real: RealImages,
    training: Images,
    features: _RealFeatures,
    view: _FeatureView,
) -> Nearest | None:
    """Find the nearest training images of real images that were not used for training.

    Without such images, training images are used, and each is compared with all others.
    """
    if real.held_out:
        images, its_features, is_searched = real.reference, features.reference, False
    elif real.other_rows is None and len(real.other):
        images, its_features, is_searched = real.other, features.other, False
    else:
        count = min(settings.samples, len(real.reference), len(real.searched))
        images, its_features = training[real.searched[:count]], features.searched[:count]
        is_searched = True
    if not view.is_scaled or not len(images) or len(features.searched) <= is_searched:
        return None
    mirrored = nearest_pairs(view.real(_mirror(images)), features.searched, is_searched)
    return nearest_pairs(its_features, features.searched, is_searched).or_mirrored(mirrored)


def _expected_memorized(real_nearest: Nearest | None) -> float | None:
    return expected_memorized_fraction(len(real_nearest.distance)) if real_nearest else None


def _mirror(images: Images) -> Images:
    return np.ascontiguousarray(images[:, :, ::-1])


def _measured_with(
    settings: EvaluateSettings, real: RealImages, generated: int
) -> dict[str, str | int]:
    return {
        "features": settings.features,
        "samples": generated,
        "seed": settings.seed,
        "reference": "test" if real.held_out else "training",
        "reference_images": len(real.reference),
        "other_images": len(real.other),
        "searched": len(real.searched),
        "neighbours": NEIGHBORS,
    }


def _notes_on_reference(
    settings: EvaluateSettings, real: RealImages, kid: Kid | None, training: int, test: int
) -> list[str]:
    """Return a sentence if there are few real images, and one if they are not the test set.

    Args:
        settings: the ``evaluate`` section.
        real: the compared images.
        kid: of the generated images.
        training: number of training images.
        test: number of images of the test set.
    """
    notes, count = [], len(real.reference)
    available = test if real.held_out else training // 3
    if kid and count < RELIABLE_KID_IMAGES:
        more = "add images"
        if settings.reference == "test":
            more = too_few_images_message(
                settings.samples, "evaluate.samples", available, "convert.test_fraction"
            )
        notes.append(
            f"KID is {kid.value:.3g} ± {kid.error:.2g}: it is compared with"
            f" {count_text(count, 'real image')}, and below {RELIABLE_KID_IMAGES} its standard"
            f" error is large; {more}"
        )
    if settings.reference == "test" and not real.held_out:
        notes.append(
            f"generated images are compared with {count_text(count, 'training image')}: the test"
            f" set has {count_text(test, 'image')}, and {MIN_REAL_IMAGES} are needed; raise"
            " convert.test_fraction or add images"
        )
    return notes


def _notes_on_absent(
    scores: Scores, real: RealImages, generated: int, has_memorised: bool, view: _FeatureView
) -> list[str]:
    """Return a sentence for each cause of absent metrics."""
    notes, prdc = [], "precision, recall, density, coverage"
    if not view.is_scaled:
        notes.append(
            f"kid, fid, {prdc}, memorised and the KID of epochs: left out, because the scale"
            f" of the features comes from {count_text(view.scaling_images, 'training image')}, and"
            f" {MIN_IMAGES_TO_STANDARDIZE} are needed; add images"
        )
    absent = {"swd": not scores.swd, "diversity": scores.diversity is None}
    if view.is_scaled:
        absent |= {
            "kid": scores.kid is None,
            "fid": scores.fid is None,
            prdc: scores.prdc is None,
            "memorised": not has_memorised,
        }
    if names := ", ".join(name for name, is_absent in absent.items() if is_absent):
        notes.append(
            f"{names}: left out, because {count_text(len(real.reference), 'real image')} to compare"
            f" with and {count_text(generated, 'generated image')} are too few; add images"
        )
    return notes


def spread(epochs: Mapping[int, Images], count: int) -> dict[int, Images]:
    """Return ``count`` evenly spaced epochs including the last, or all if there are fewer."""
    numbers = sorted(epochs)
    if count >= len(numbers):
        return dict(epochs)
    chosen = [numbers[(i + 1) * len(numbers) // count - 1] for i in range(count)]
    return {number: epochs[number] for number in chosen}
