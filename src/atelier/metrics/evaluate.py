"""Judging generated pictures against real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from atelier.metrics.extractors import WEIGHTS, build_extractor
from atelier.metrics.features import MIN_IMAGES_TO_STANDARDIZE, Extractor, Standardizer
from atelier.metrics.neighbors import (
    NEIGHBORS,
    PRDC,
    Nearest,
    expected_memorised,
    memorised,
    nearest_pairs,
    precision_recall_density_coverage,
)
from atelier.metrics.reference import (
    MIN_REAL_IMAGES,
    Images,
    RealImages,
    count_text,
    too_few_images_message,
)


@dataclass(frozen=True)
class Scores:
    """Comparison of a set of images with real ones. What too few images do not allow is absent.

    Attributes:
        kid: kernel distance of the features; less is better. Like all numbers of features, it is
            absent as well if too few training images give these a scale.
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

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Plain numbers by name; of the sliced Wasserstein distance the mean over scales."""
        values = {
            "kid": self.kid and self.kid.value,
            "kid_error": self.kid and self.kid.error,
            "fid": self.fid,
            **(vars(self.prdc) if self.prdc else {}),
            "swd": sum(self.swd.values()) / len(self.swd) if self.swd else None,
            "diversity": self.diversity,
        }
        return {f"{prefix}{name}": value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Evaluation:
    """Scores of generated images, and of other real images as the mark to reach.

    Attributes:
        generated: the scores of generated images.
        other_real: the same of other real images.
        by_epoch: the KID of the few samples that the training saved of each epoch.
        memorised: share of generated images that are nearer to a training image than 99% of real
            images are that the training did not see; their mirror images count as well.
        real_memorised: the expectation of ``memorised`` for a generator that learned the
            distribution.
        nearest: the nearest of ``training`` of each generated image.
        training: the training images that were searched, uint8 [N, H, W, C].
        measured_with: what the numbers depend on and are never shown without.
        notes: sentences on numbers that are uncertain or absent because there are few images.
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

    def metrics(self) -> dict[str, Any]:
        """Plain numbers for a metrics file, with what they were measured with."""
        copies = {"memorised": self.memorised, "real_memorised": self.real_memorised}
        return {
            **self.generated.metrics(),
            **{name: share for name, share in copies.items() if share is not None},
            **self.other_real.metrics("real_"),
            "measured_with": self.measured_with,
            "notes": list(self.notes),
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

    def closest(self, count: int) -> tuple[NDArray[np.int64], Images]:
        """Return the generated images that are nearest to the training, the nearest first.

        Returns:
            Their places among the generated images, and the training image next to each, uint8
            [count, H, W, C], mirrored if its mirror image is nearer.
        """
        places = self.nearest.distance.argsort(stable=True)[:count].numpy()
        found = self.training[self.nearest.place[places].numpy()]
        mirrored = self.nearest.mirrored[places].numpy()
        found[mirrored] = _or_mirrored(found[mirrored])
        return places, found


@dataclass(frozen=True)
class _FeatureView:
    """An extractor with the scale of its features.

    Attributes:
        extractor: of the features.
        device: where features are extracted.
        cache: of the features of real images.
        scale: of all features.
        scaled_by: how many training images it comes from.
    """

    extractor: Extractor
    device: torch.device
    cache: FeatureCache
    scale: Standardizer
    scaled_by: int

    @property
    def is_scaled(self) -> bool:
        """True if enough images give the scale, so that features can be compared."""
        return self.extractor.has_scale(self.scaled_by)

    def real(self, images: Images) -> Tensor:
        """Return the features of real images, [N, D]."""
        if not len(images):
            return torch.empty(0, 0)
        return self.scale(self.cache.features(self.extractor, images, self.device))

    def generated(self, images: Images) -> Tensor:
        """Return the features of generated images, [N, D]."""
        return self.scale(self.extractor(images, self.device))


@dataclass(frozen=True)
class _RealFeatures:
    """Features of each set of :class:`RealImages`, [N, D]."""

    reference: Tensor
    searched: Tensor
    other: Tensor


def evaluate(
    settings: EvaluateSettings,
    training: Images,
    test: Images,
    generated: Images,
    device: torch.device,
    report: ProgressCallback = silent,
    epochs: Mapping[int, Images] | None = None,
    cache: FeatureCache | None = None,
    weights: Path = WEIGHTS,
) -> Evaluation:
    """Compare generated images with real ones, and real ones with other real ones.

    Args:
        settings: the ``evaluate`` section.
        training: what the generator learned from, uint8 [N, H, W, C], N at least 1.
        test: what it never saw, uint8 [M, H, W, C]. If these are fewer than 16, a third of
            the training images takes their place.
        generated: uint8 [settings.samples, H, W, C].
        device: where features are extracted.
        report: counts the steps.
        epochs: a few samples of each epoch, uint8 [n, H, W, C], for KID over the training. It is
            unbiased, so that few do, but for its spread; fewer than three have none. Of these
            epochs, ``settings.epochs`` are measured, spread evenly, the last among them.
        cache: where features of real images may be found, and are kept.
        weights: the folder of files of weights.

    Raises:
        AtelierError: weights cannot be had.
    """
    real = RealImages.sample(settings, training, test)
    if settings.reference == "test":
        generated = generated[: max(len(real.reference), MIN_REAL_IMAGES)]
    report(Progress(0, 4, "features of real images"))
    extractor = build_extractor(settings.features, settings.seed, weights)
    look, features = _real_features(real, training, extractor, device, cache or FeatureCache())
    report(Progress(1, 4, "generated images"))
    made = look.generated(generated)
    of_generated = _score(real, features.reference, generated, made, settings.seed, look)
    report(Progress(2, 4, "other real images"))
    of_others = _score(real, features.reference, real.other, features.other, settings.seed, look)
    report(Progress(3, 4, "nearest training images"))
    found = nearest_pairs(made, features.searched).or_mirrored(
        nearest_pairs(look.generated(_or_mirrored(generated)), features.searched)
    )
    unseen = _nearest_of_unseen(settings, real, training, features, look)
    available = len(test) if real.unseen else len(training) // 3
    result = Evaluation(
        generated=of_generated,
        other_real=of_others,
        by_epoch=_kid_by_epoch(spread(epochs or {}, settings.epochs), features.reference, look),
        memorised=memorised(found, unseen) if unseen else None,
        real_memorised=expected_memorised(len(unseen.distance)) if unseen else None,
        nearest=found,
        training=training[real.searched],
        measured_with=_measured_with(settings, real, len(generated)),
        notes=(
            *_notes_on_reference(settings, real, of_generated.kid, len(test), available),
            *_notes_on_absent(of_generated, real, len(generated), unseen is not None, look),
        ),
    )
    report(Progress(4, 4))
    return result


def _real_features(
    real: RealImages,
    training: Images,
    extractor: Extractor,
    device: torch.device,
    cache: FeatureCache,
) -> tuple[_FeatureView, _RealFeatures]:
    """Extract the features of real images, those of no image twice, and scale all by some."""
    compares_training = real.reference is training
    images = training if compares_training else training[real.searched]
    features = cache.features(extractor, images, device)
    rows = torch.from_numpy(real.searched)
    scaling = (features[rows] if compares_training else features)[real.scaling]
    look = _FeatureView(extractor, device, cache, extractor.scale(scaling), len(scaling))
    features = look.scale(features)
    if compares_training:
        return look, _RealFeatures(features, features[rows], look.real(real.other))
    first = features[: len(real.reference)]
    reference = look.real(real.reference) if real.unseen else first
    return look, _RealFeatures(reference, features, features[real.others or slice(0)])


def _score(
    real: RealImages,
    reference: Tensor,
    images: Images,
    features: Tensor,
    seed: int,
    look: _FeatureView,
) -> Scores:
    """Compute those numbers that there are enough images for."""
    fewest = min(len(reference), len(features))
    comparable = fewest if look.is_scaled else 0
    # Both sets need the same number of patches; the images are spread evenly over the larger set.
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
    epochs: Mapping[int, Images], reference: Tensor, look: _FeatureView
) -> dict[int, Kid]:
    """Compute the KID of each epoch's samples, if there are enough."""
    return {
        number: compute_kid(reference, look.generated(samples))
        for number, samples in epochs.items()
        if look.is_scaled and min(len(samples), len(reference)) >= MIN_IMAGES_FOR_KID
    }


def _nearest_of_unseen(
    settings: EvaluateSettings,
    real: RealImages,
    training: Images,
    features: _RealFeatures,
    look: _FeatureView,
) -> Nearest | None:
    """Find the nearest training image of each real one that the training did not see, if any.

    Without such images, those that the search begins with take their place, each without itself.
    """
    if real.unseen:
        images, its_features, is_searched = real.reference, features.reference, False
    elif real.others is None and len(real.other):
        images, its_features, is_searched = real.other, features.other, False
    else:
        count = min(settings.samples, len(real.reference), len(real.searched))
        images, its_features = training[real.searched[:count]], features.searched[:count]
        is_searched = True
    if not look.is_scaled or not len(images) or len(features.searched) <= is_searched:
        return None
    mirrored = nearest_pairs(look.real(_or_mirrored(images)), features.searched, is_searched)
    return nearest_pairs(its_features, features.searched, is_searched).or_mirrored(mirrored)


def _or_mirrored(images: Images) -> Images:
    return np.ascontiguousarray(images[:, :, ::-1])


def _measured_with(
    settings: EvaluateSettings, real: RealImages, generated: int
) -> dict[str, str | int]:
    return {
        "features": settings.features,
        "samples": generated,
        "seed": settings.seed,
        "reference": "test" if real.unseen else "training",
        "reference_images": len(real.reference),
        "other_images": len(real.other),
        "searched": len(real.searched),
        "neighbours": NEIGHBORS,
    }


def _notes_on_reference(
    settings: EvaluateSettings, real: RealImages, kid: Kid | None, test: int, available: int
) -> list[str]:
    """Return a sentence if the real images are few, and one if they are not those of the test set.

    Args:
        settings: the ``evaluate`` section.
        real: the images that are compared.
        kid: of the generated images.
        test: images of the test set.
        available: images that the reference is chosen from.
    """
    notes, count = [], len(real.reference)
    if kid and count < RELIABLE_KID_IMAGES:
        more = "add images"
        if settings.reference == "test":
            more = too_few_images_message(
                settings.samples, "evaluate.samples", available, "convert.test_fraction"
            )
        notes.append(
            f"KID is {kid.value:.3g} ± {kid.error:.2g}: it is compared with"
            f" {count_text(count, 'real image')}, and below {RELIABLE_KID_IMAGES} its standard error is"
            f" large; {more}"
        )
    if settings.reference == "test" and not real.unseen:
        notes.append(
            f"generated images are compared with {count_text(count, 'training image')}: the test"
            f" set has {count_text(test, 'image')}, and {MIN_REAL_IMAGES} are needed; raise convert.test_fraction or"
            " add images"
        )
    return notes


def _notes_on_absent(
    scores: Scores, real: RealImages, generated: int, has_memorised: bool, look: _FeatureView
) -> list[str]:
    """Return a sentence for each cause that prevents numbers."""
    notes, neighbours = [], "precision, recall, density, coverage"
    if not look.is_scaled:
        notes.append(
            f"kid, fid, {neighbours}, memorised and the KID of epochs: left out, because the scale"
            f" of the features comes from {count_text(look.scaled_by, 'training image')}, and"
            f" {MIN_IMAGES_TO_STANDARDIZE} are needed; add images"
        )
    absent = {"swd": not scores.swd, "diversity": scores.diversity is None}
    if look.is_scaled:
        absent |= {
            "kid": scores.kid is None,
            "fid": scores.fid is None,
            neighbours: scores.prdc is None,
            "memorised": not has_memorised,
        }
    if names := ", ".join(name for name, is_absent in absent.items() if is_absent):
        notes.append(
            f"{names}: left out, because {count_text(len(real.reference), 'real image')} to compare"
            f" with and {count_text(generated, 'generated image')} are too few; add images"
        )
    return notes


def spread(epochs: Mapping[int, Images], count: int) -> dict[int, Images]:
    """Choose ``count`` epochs at even distances, the last among them; all if there are fewer."""
    numbers = sorted(epochs)
    if count >= len(numbers):
        return dict(epochs)
    chosen = [numbers[(i + 1) * len(numbers) // count - 1] for i in range(count)]
    return {number: epochs[number] for number in chosen}
