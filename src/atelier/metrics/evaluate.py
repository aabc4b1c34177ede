"""Judging generated pictures against real ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.metrics.features import EXTRACTORS, extract
from atelier.metrics.kid import Kid, kernel_distance
from atelier.metrics.swd import sliced_wasserstein
from atelier.progress import Progress, Report, silent
from atelier.settings import EvaluateSettings

_FEWEST = 16


@dataclass(frozen=True)
class Scores:
    """How far a set of pictures is from real ones; less is better.

    Attributes:
        kid: kernel distance on the extractor's features.
        swd: sliced Wasserstein distance x 1,000 by scale in pixels.
    """

    kid: Kid
    swd: dict[int, float]

    @property
    def mean_swd(self) -> float:
        """The mean over scales."""
        return sum(self.swd.values()) / len(self.swd)


@dataclass(frozen=True)
class Evaluation:
    """Scores of generated pictures, and of other real pictures as the mark to reach.

    ``samples`` pictures of each kind were compared: as many as the settings ask for, or half
    of the real ones where there are fewer than twice as many. ``by_epoch`` is the KID of the few
    samples that the training kept of each epoch.
    """

    generated: Scores
    other_real: Scores
    settings: EvaluateSettings
    samples: int
    by_epoch: dict[int, Kid]

    def metrics(self) -> dict[str, Any]:
        """Plain numbers for a metrics file, with what they were measured with."""
        return {
            "kid": self.generated.kid.value,
            "kid_error": self.generated.kid.error,
            "swd": self.generated.mean_swd,
            "real_kid": self.other_real.kid.value,
            "real_swd": self.other_real.mean_swd,
            "measured_with": {
                "features": self.settings.features,
                "samples": self.samples,
                "seed": self.settings.seed,
            },
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


def evaluate(
    settings: EvaluateSettings,
    real: NDArray[np.uint8],
    generated: NDArray[np.uint8],
    device: torch.device,
    report: Report = silent,
    epochs: Mapping[int, NDArray[np.uint8]] | None = None,
) -> Evaluation:
    """Compare generated pictures with real ones, and real ones with other real ones.

    Args:
        settings: the ``evaluate`` section.
        real: uint8 [N, H, W, C]; one half to compare with, one half as the mark to reach.
        generated: uint8 [settings.samples, H, W, C].
        device: where features are extracted.
        report: counts the sets of pictures looked at.
        epochs: a few samples of each epoch, uint8 [n, H, W, C], for KID over the training. It is
            unbiased, so that few do, but for its spread.

    Raises:
        AtelierError: there are too few real pictures.
    """
    count = min(settings.samples, len(real) // 2)
    if count < _FEWEST:
        raise AtelierError(
            f"there are {len(real)} pictures, but numbers need at least {2 * _FEWEST};"
            " add pictures."
        )
    order = np.random.default_rng(settings.seed).permutation(len(real))
    reference, other = (real[np.sort(part)] for part in (order[:count], order[count : 2 * count]))
    extractor = EXTRACTORS[settings.features](settings.seed)
    report(Progress(0, 3, "features of real pictures"))
    features = extract(extractor, reference, device)

    def kid(pictures: NDArray[np.uint8]) -> Kid:
        # Subsets of all pictures would be alike, and their spread would tell nothing.
        size = min(settings.kid_subset_size, max(2, min(count, len(pictures)) // 2))
        others = extract(extractor, pictures, device)
        return kernel_distance(features, others, settings.kid_subsets, size, settings.seed)

    def score(done: int, pictures: NDArray[np.uint8]) -> Scores:
        report(Progress(done, 3, "KID and SWD"))
        return Scores(kid(pictures), sliced_wasserstein(reference, pictures, settings.seed))

    by_epoch = {number: kid(samples) for number, samples in (epochs or {}).items()}
    result = Evaluation(score(1, generated[:count]), score(2, other), settings, count, by_epoch)
    report(Progress(3, 3))
    return result
