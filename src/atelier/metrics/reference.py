"""The real images that generated ones are compared with, drawn without overlap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atelier.core.random_streams import numpy_generator
from atelier.core.settings import EvaluateSettings
from atelier.metrics.distances import RELIABLE_KID_IMAGES
from atelier.metrics.features import MIN_IMAGES_TO_STANDARDIZE


def count_text(count: int, name: str) -> str:
    """Return a count with its name, for example ``1 image`` or ``2 images``."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def too_few_images_message(samples: int, samples_key: str, available: int, share_key: str) -> str:
    """Return what to do for enough real images to compare with.

    Args:
        samples: the setting that limits how many are compared.
        samples_key: its key.
        available: how many there are to choose from.
        share_key: the key of the setting that gives their share of all images; empty if they are
            training images.
    """
    actions = (
        [f"raise {samples_key} to {RELIABLE_KID_IMAGES}"] if samples < RELIABLE_KID_IMAGES else []
    )
    if available < RELIABLE_KID_IMAGES:
        actions.append(f"raise {share_key} or add images" if share_key else "add images")
    return " and ".join(actions)


Images = NDArray[np.uint8]
MIN_REAL_IMAGES = 16  # test images, for them to be the reference
_SCALING = 1000


@dataclass(frozen=True)
class RealImages:
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

    reference: Images
    unseen: bool
    searched: NDArray[np.int64]
    scaling: slice
    other: Images
    others: slice | None

    @classmethod
    def sample(cls, settings: EvaluateSettings, training: Images, test: Images) -> "RealImages":
        """Draw as many as the settings ask for, or as many as there are.

        Args:
            settings: the ``evaluate`` section.
            training: uint8 [N, H, W, C], N at least 1.
            test: images that the training does not see, uint8 [M, H, W, C]. Fewer than 16 are
                not used: a third of the training images takes their place.
        """
        order = numpy_generator(settings.seed, "evaluate.training").permutation(len(training))
        unseen = test[numpy_generator(settings.seed, "evaluate.test").permutation(len(test))]
        if len(test) < MIN_REAL_IMAGES:
            unseen = test[:0]
        unseen = unseen[: settings.samples]
        if settings.reference == "training":
            searched = order[: max(MIN_IMAGES_TO_STANDARDIZE, settings.nearest_neighbor_pool)]
            return cls(training, False, searched, slice(_SCALING), unseen, None)
        if len(unseen):
            count = min(len(unseen), len(training) // 2)
            others = slice(count)
            reference, used = unseen, count
        else:
            count = min(settings.samples, len(training) // 3)
            others = slice(count, 2 * count)
            reference, used = training[order[:count]], 2 * count
        searched = order[
            : max(3 * count, used + MIN_IMAGES_TO_STANDARDIZE, settings.nearest_neighbor_pool)
        ]
        scaling = slice(used, used + _SCALING)
        other = training[searched[others]]
        return cls(reference, len(unseen) > 0, searched, scaling, other, others)
