"""A quick judge of a generator while it trains."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.settings import EvaluateSettings, Settings
from atelier.metrics.cache import FeatureCache
from atelier.metrics.distances import MIN_IMAGES_FOR_KID, RELIABLE_KID_IMAGES, compute_kid
from atelier.metrics.extractors import WEIGHTS, build_extractor
from atelier.metrics.features import MIN_IMAGES_TO_STANDARDIZE
from atelier.metrics.reference import (
    MIN_REAL_IMAGES,
    RealImages,
    count_text,
    too_few_images_message,
)


def validation_settings(settings: Settings) -> EvaluateSettings:
    """Return the settings that epochs are measured with; of ``evaluate``, none is used."""
    train = settings.train
    return settings.evaluate.model_copy(
        update={
            "features": train.kid_features,
            "samples": train.kid_samples,
            "seed": train.seed,
            "reference": "test",
        }
    )


def build_validation(
    settings: Settings,
    training: NDArray[np.uint8],
    real: NDArray[np.uint8],
    device: torch.device,
    warn: Callable[[str], None],
) -> "ValidationKID | None":
    """Build the judge that ``train.kid_every_epochs`` asks for.

    Args:
        settings: all of them.
        training: the pictures that the generator learns from, uint8 [M, H, W, C].
        real: the pictures that it does not see, uint8 [N, H, W, C].
        device: where features are extracted.
        warn: takes a sentence if there are too few pictures, so that epochs are not measured, or
            so few that the error of KID is large.

    Raises:
        AtelierError: as :class:`ValidationKID`; too few pictures are one only with ``keep: best``.
    """
    if not settings.train.kid_every_epochs:
        return None
    try:
        judge = ValidationKID(validation_settings(settings), training, real, device)
    except TooFewImagesError as error:
        if settings.train.select_model == "best":
            raise AtelierError(f"{error}, or set train.select_model to last.") from error
        warn(str(error))
        return None
    if judge.count < RELIABLE_KID_IMAGES:
        size = f": {judge.error:.2g} for other real images" if math.isfinite(judge.error) else ""
        more = too_few_images_message(
            settings.train.kid_samples,
            "train.kid_samples",
            len(real),
            "convert.validation_fraction",
        )
        warn(
            f"the KID of epochs is measured against {judge.count} real images; below {RELIABLE_KID_IMAGES}"
            f" its standard error is large{size}; {more}"
        )
    return judge


class TooFewImagesError(AtelierError):
    """Raised when there are too few images to measure epochs by."""


class ValidationKID:
    """Gives the KID of generated pictures against the same real ones, time after time.

    KID is unbiased, so that a few hundred pictures give the value that thousands would give, but
    for the spread. What the real pictures need is computed once.

    Attributes:
        count: of real pictures that are compared.
        error: the standard error of the KID of training pictures instead of generated ones.
    """

    def __init__(
        self,
        settings: EvaluateSettings,
        training: NDArray[np.uint8],
        real: NDArray[np.uint8],
        device: torch.device,
        cache: FeatureCache | None = None,
        weights: Path = WEIGHTS,
    ) -> None:
        """Look at the real pictures.

        Args:
            settings: the ``evaluate`` section: extractor, seed, and how many real pictures at most.
            training: the pictures that the generator learns from, uint8 [M, H, W, C]; the scale of
                the features is theirs.
            real: what the training does not see, uint8 [N, H, W, C], N at least 16.
            device: where features are extracted.
            cache: where features of real pictures may be found, and are kept.
            weights: the folder of files of weights.

        Raises:
            TooFewImagesError: there are too few pictures.
            AtelierError: the extractor's weights cannot be had.
        """
        if len(real) < MIN_REAL_IMAGES:
            raise TooFewImagesError(
                f"epochs are not measured: the validation set has {count_text(len(real), 'image')},"
                f" and {MIN_REAL_IMAGES} are needed; raise convert.validation_fraction or add images"
            )
        drawn = RealImages.sample(settings, training, real)
        cache = cache or FeatureCache()
        self._device = device
        self._extractor = build_extractor(settings.features, settings.seed, weights)
        rows = drawn.searched[drawn.scaling]
        if not self._extractor.has_scale(len(rows)):
            raise TooFewImagesError(
                "epochs are not measured: the scale of the features comes from"
                f" {count_text(len(rows), 'training image')}, and {MIN_IMAGES_TO_STANDARDIZE} are needed;"
                " add images"
            )
        features = cache.features(self._extractor, training[rows], device)
        self._scale = self._extractor.scale(features)
        self._real = self._scale(cache.features(self._extractor, drawn.reference, device))
        self.count = len(drawn.reference)
        others = self._scale(features)[: self.count]
        self.error = (
            compute_kid(self._real, others).error if len(others) >= MIN_IMAGES_FOR_KID else math.inf
        )

    def __call__(self, pictures: NDArray[np.uint8]) -> float:
        """Give the KID of generated pictures, uint8 [M, H, W, C], M at least 3; less is better."""
        generated = self._scale(self._extractor(pictures, self._device))
        return compute_kid(self._real, generated).value
