"""A quick judge of a generator while it trains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.metrics.cache import FeatureCache
from atelier.metrics.extractors import WEIGHTS, build_extractor
from atelier.metrics.kid import kernel_distance
from atelier.settings import EvaluateSettings, Settings

_FEWEST = 16


def judge_of(
    settings: Settings,
    real: NDArray[np.uint8],
    device: torch.device,
    warn: Callable[[str], None],
) -> "Judge | None":
    """Build the judge that ``train.measure_every`` asks for.

    Args:
        settings: all of them.
        real: the pictures that are held out, uint8 [N, H, W, C].
        device: where features are extracted.
        warn: takes a sentence where there are too few pictures; epochs are not measured then.

    Raises:
        AtelierError: as :class:`Judge`; too few pictures are one only with ``keep: best``.
    """
    if not settings.train.measure_every:
        return None
    if len(real) < _FEWEST and settings.train.keep == "last":
        warn(f"epochs are not measured: {len(real)} pictures are held out, and {_FEWEST} needed")
        return None
    return Judge(settings.judging, real, device)


class Judge:
    """Gives the KID of generated pictures against the same real ones, time after time.

    KID is unbiased, so that a few hundred pictures give the value that thousands would give, but
    for the spread. What the real pictures need is computed once.
    """

    def __init__(
        self,
        settings: EvaluateSettings,
        real: NDArray[np.uint8],
        device: torch.device,
        cache: FeatureCache | None = None,
        weights: Path = WEIGHTS,
    ) -> None:
        """Look at the real pictures.

        Args:
            settings: the ``evaluate`` section: extractor, seed, and how many real pictures at most.
            real: uint8 [N, H, W, C], N at least 16; best those that the training does not see.
            device: where features are extracted.
            cache: where features of real pictures may be found, and are kept.
            weights: the folder of files of weights.

        Raises:
            AtelierError: the extractor's weights cannot be had, or there are too few pictures.
        """
        if len(real) < _FEWEST:
            raise AtelierError(
                f"{len(real)} pictures are held out, too few to measure epochs by; raise"
                " convert.held_out, or set train.keep to last."
            )
        order = np.random.default_rng(settings.seed).permutation(len(real))[: settings.samples]
        chosen = real[np.sort(order)]
        self._device = device
        self._extractor = build_extractor(settings.features, settings.seed, weights)
        features = (cache or FeatureCache()).features(self._extractor, chosen, device)
        self._scale = self._extractor.scale(features)
        self._real = self._scale(features)

    def __call__(self, pictures: NDArray[np.uint8]) -> float:
        """Give the KID of generated pictures, uint8 [M, H, W, C], M at least 3; less is better."""
        generated = self._scale(self._extractor(pictures, self._device))
        return kernel_distance(self._real, generated).value
