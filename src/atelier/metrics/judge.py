"""A quick judge of a generator while it trains."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.metrics.cache import FeatureCache
from atelier.metrics.extractors import WEIGHTS, build_extractor
from atelier.metrics.features import FEWEST_FOR_SCALE
from atelier.metrics.kid import CERTAIN_FROM, FEWEST_PICTURES, kernel_distance
from atelier.metrics.messages import count_of, more_real_images
from atelier.metrics.real_pictures import FEWEST, RealPictures
from atelier.settings import EvaluateSettings, Settings


def judge_of(
    settings: Settings,
    training: NDArray[np.uint8],
    real: NDArray[np.uint8],
    device: torch.device,
    warn: Callable[[str], None],
) -> "Judge | None":
    """Build the judge that ``train.measure_every`` asks for.

    Args:
        settings: all of them.
        training: the pictures that the generator learns from, uint8 [M, H, W, C].
        real: the pictures that it does not see, uint8 [N, H, W, C].
        device: where features are extracted.
        warn: takes a sentence if there are too few pictures, so that epochs are not measured, or
            so few that the error of KID is large.

    Raises:
        AtelierError: as :class:`Judge`; too few pictures are one only with ``keep: best``.
    """
    if not settings.train.measure_every:
        return None
    try:
        judge = Judge(settings.judging, training, real, device)
    except TooFewImagesError as error:
        if settings.train.keep == "best":
            raise AtelierError(f"{error}, or set train.keep to last.") from error
        warn(str(error))
        return None
    if judge.count < CERTAIN_FROM:
        size = f": {judge.error:.2g} for other real images" if math.isfinite(judge.error) else ""
        more = more_real_images(
            settings.train.measure_samples, "train.measure_samples", len(real), "convert.validation"
        )
        warn(
            f"the KID of epochs is measured against {judge.count} real images; below {CERTAIN_FROM}"
            f" its standard error is large{size}; {more}"
        )
    return judge


class TooFewImagesError(AtelierError):
    """Raised when there are too few images to measure epochs by."""


class Judge:
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
        if len(real) < FEWEST:
            raise TooFewImagesError(
                f"epochs are not measured: the validation set has {count_of(len(real), 'image')},"
                f" and {FEWEST} are needed; raise convert.validation or add images"
            )
        drawn = RealPictures.draw(settings, training, real)
        cache = cache or FeatureCache()
        self._device = device
        self._extractor = build_extractor(settings.features, settings.seed, weights)
        rows = drawn.searched[drawn.scaling]
        if not self._extractor.has_scale(len(rows)):
            raise TooFewImagesError(
                "epochs are not measured: the scale of the features comes from"
                f" {count_of(len(rows), 'training image')}, and {FEWEST_FOR_SCALE} are needed;"
                " add images"
            )
        features = cache.features(self._extractor, training[rows], device)
        self._scale = self._extractor.scale(features)
        self._real = self._scale(cache.features(self._extractor, drawn.reference, device))
        self.count = len(drawn.reference)
        others = self._scale(features)[: self.count]
        self.error = (
            kernel_distance(self._real, others).error
            if len(others) >= FEWEST_PICTURES
            else math.inf
        )

    def __call__(self, pictures: NDArray[np.uint8]) -> float:
        """Give the KID of generated pictures, uint8 [M, H, W, C], M at least 3; less is better."""
        generated = self._scale(self._extractor(pictures, self._device))
        return kernel_distance(self._real, generated).value
