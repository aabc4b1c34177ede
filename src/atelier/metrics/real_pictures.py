"""The real images that generated ones are compared with, drawn without overlap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atelier.metrics.features import FEWEST_FOR_SCALE
from atelier.settings import EvaluateSettings
from atelier.streams import numpy_stream

Pictures = NDArray[np.uint8]
FEWEST = 16  # test images, for them to be the reference
_SCALING = 1000


@dataclass(frozen=True)
class RealPictures:
    """The real images of an evaluation.

    The scale of the features comes from training images that are in neither of the two sets that
    are compared. With the scale of one of them, the KID of two sets of the same distribution would
    be above 0 on average: by 0.5 for 16 images.

    Attributes:
        reference: what generated images are compared with, uint8 [N, H, W, C].
        unseen: true if the training did not see the reference.
        searched: rows of the training images that are searched for the nearest of each generated
            one. Without test images they begin with the reference.
        scaling: those of ``searched`` that features are scaled by; too few of them, if the
            training images are few, see :meth:`Extractor.has_scale`.
        other: other real images, compared as generated ones are, uint8 [M, H, W, C].
        others: the place of ``other`` in ``searched``; none if the training did not see them.
    """

    reference: Pictures
    unseen: bool
    searched: NDArray[np.int64]
    scaling: slice
    other: Pictures
    others: slice | None

    @classmethod
    def draw(cls, settings: EvaluateSettings, training: Pictures, test: Pictures) -> "RealPictures":
        """Draw as many as the settings ask for, or as many as there are.

        Args:
            settings: the ``evaluate`` section.
            training: uint8 [N, H, W, C], N at least 1.
            test: images that the training does not see, uint8 [M, H, W, C]. Fewer than 16 are
                not used: a third of the training images takes their place.
        """
        order = numpy_stream(settings.seed, "evaluate.training").permutation(len(training))
        unseen = test[numpy_stream(settings.seed, "evaluate.test").permutation(len(test))]
        if len(test) < FEWEST:
            unseen = test[:0]
        unseen = unseen[: settings.samples]
        if settings.reference == "training":
            searched = order[: max(FEWEST_FOR_SCALE, settings.nearest_among)]
            return cls(training, False, searched, slice(_SCALING), unseen, None)
        if len(unseen):
            count = min(len(unseen), len(training) // 2)
            others = slice(count)
            reference, used = unseen, count
        else:
            count = min(settings.samples, len(training) // 3)
            others = slice(count, 2 * count)
            reference, used = training[order[:count]], 2 * count
        searched = order[: max(3 * count, used + FEWEST_FOR_SCALE, settings.nearest_among)]
        scaling = slice(used, used + _SCALING)
        other = training[searched[others]]
        return cls(reference, len(unseen) > 0, searched, scaling, other, others)
