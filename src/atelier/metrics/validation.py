"""Kernel inception distance (KID) of a generator during training, on validation images."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.core.errors import AtelierError, count_text
from atelier.core.settings import EvaluateSettings, TrainSettings
from atelier.metrics.cache import FeatureCache
from atelier.metrics.distances import MIN_IMAGES_FOR_KID, RELIABLE_KID_IMAGES, compute_kid
from atelier.metrics.extractors import build_extractor
from atelier.metrics.features import MIN_IMAGES_TO_STANDARDIZE
from atelier.metrics.reference import MIN_REAL_IMAGES, RealImages, too_few_images_message

# Training images among which those that give the scale of the features are drawn.
_POOL = 10_000
_CPU = torch.device("cpu")


def validation_settings(train: TrainSettings) -> EvaluateSettings:
    """Return the settings that epochs are measured with."""
    return EvaluateSettings(
        samples=train.kid_samples,
        reference="test",
        features=train.kid_features,
        epochs=0,
        nearest_neighbor_pool=_POOL,
        seed=train.seed,
    )


def build_validation(
    settings: TrainSettings,
    training: NDArray[np.uint8],
    real: NDArray[np.uint8],
    device: torch.device,
    warn: Callable[[str], None],
) -> "ValidationKID | None":
    """Build the KID measurement of epochs, if ``train.kid_every_epochs`` is set.

    Args:
        settings: the ``train`` section.
        training: the training images, uint8 [M, H, W, C].
        real: the validation images, uint8 [N, H, W, C].
        device: where features are extracted.
        warn: called with a sentence if there are too few images to measure epochs, or so few that
            the error of KID is large.

    Returns:
        ``None`` if KID is not requested, or if there are too few images.

    Raises:
        AtelierError: the extractor's weights are not available, or there are too few images and
            ``train.select_model`` is ``best``.
    """
    if not settings.kid_every_epochs:
        return None
    try:
        validation = ValidationKID(
            validation_settings(settings), training, real, FeatureCache(device=device)
        )
    except TooFewImagesError as error:
        if settings.select_model == "best":
            raise AtelierError(f"{error}, or set train.select_model to last.") from error
        warn(str(error))
        return None
    if validation.count < RELIABLE_KID_IMAGES:
        kid_error = validation.error
        size = f": {kid_error:.2g} for other real images" if math.isfinite(kid_error) else ""
        more = too_few_images_message(
            settings.kid_samples,
            "train.kid_samples",
            len(real),
            "convert.validation_fraction",
        )
        warn(
            f"the KID of epochs is measured against {validation.count} real images; below"
            f" {RELIABLE_KID_IMAGES} its standard error is large{size}; {more}"
        )
    return validation


class TooFewImagesError(AtelierError):
    """Raised when there are too few images to measure epochs by."""


class ValidationKID:
    """KID of generated images against the same real images.

    KID is unbiased: a few hundred images have the same expectation as thousands, with a larger
    variance. The features of the real images are computed once.

    Attributes:
        count: number of real images.
        error: standard error of the KID of as many training images; infinite if unknown.
        seconds_per_image: time to extract the features of a real image.
    """

    def __init__(
        self,
        settings: EvaluateSettings,
        training: NDArray[np.uint8],
        real: NDArray[np.uint8],
        cache: FeatureCache | None = None,
    ) -> None:
        """Extract the features of the real images.

        Args:
            settings: extractor, seed, and maximum number of real images.
            training: the training images, uint8 [M, H, W, C], which give the scale of features.
            real: images that are not used for training, uint8 [N, H, W, C], N at least 16.
            cache: extracts features, and stores those of real images.

        Raises:
            TooFewImagesError: there are too few images.
            AtelierError: the extractor's weights are not available.
        """
        if len(real) < MIN_REAL_IMAGES:
            raise TooFewImagesError(
                f"epochs are not measured: the validation set has {count_text(len(real), 'image')},"
                f" and {MIN_REAL_IMAGES} are needed; raise convert.validation_fraction or add"
                " images"
            )
        sampled = RealImages.sample(settings, training, real)
        self._cache = cache or FeatureCache()
        self._extractor = build_extractor(settings.features, settings.seed)
        rows = sampled.searched[sampled.scaling]
        if not self._extractor.has_scale(len(rows)):
            raise TooFewImagesError(
                "epochs are not measured: the scale of the features comes from"
                f" {count_text(len(rows), 'training image')}, and {MIN_IMAGES_TO_STANDARDIZE} are"
                " needed; add images"
            )
        begin = time.perf_counter()
        # Kernel matrices in float64 take a CPU as long as hundreds of training steps take a GPU.
        self._device = self._cache.device if self._cache.device.type == "cuda" else _CPU
        features = self._cache.features(self._extractor, training[rows]).to(self._device)
        reference = self._cache.features(self._extractor, sampled.reference).to(self._device)
        self.count = len(sampled.reference)
        self.seconds_per_image = (time.perf_counter() - begin) / (len(features) + self.count)
        self._scale = self._extractor.scale(features)
        self._real = self._scale(reference)
        others = self._scale(features)[: self.count]
        self.error = (
            compute_kid(self._real, others).error if len(others) >= MIN_IMAGES_FOR_KID else math.inf
        )

    def __call__(self, images: NDArray[np.uint8]) -> float:
        """Return the KID of generated images, uint8 [M, H, W, C], M at least 3; less is better."""
        generated = self._extractor(images, self._cache.device).to(self._device)
        return compute_kid(self._real, self._scale(generated)).value
