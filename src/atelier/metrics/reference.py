"""Real images to compare generated ones with, in sets that do not overlap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atelier.core.random_streams import numpy_generator
from atelier.core.settings import EvaluateSettings
from atelier.metrics.distances import RELIABLE_KID_IMAGES
from atelier.metrics.features import MIN_IMAGES_TO_STANDARDIZE

Images = NDArray[np.uint8]

MIN_REAL_IMAGES = 16  # with fewer test images, training images are the reference
_MAX_SCALING_IMAGES = 1000


def too_few_images_message(samples: int, samples_key: str, available: int, share_key: str) -> str:
    """Return advice on how to get enough real images for a comparison.

    Args:
        samples: the setting that limits the number of compared images.
        samples_key: its key.
        available: number of images to choose from.
        share_key: the key of the setting for their fraction of all images; empty for training
            images.
    """
    actions = (
        [f"raise {samples_key} to {RELIABLE_KID_IMAGES}"] if samples < RELIABLE_KID_IMAGES else []
    )
    if available < RELIABLE_KID_IMAGES:
        actions.append(f"raise {share_key} or add images" if share_key else "add images")
    return " and ".join(actions)


@dataclass(frozen=True)
class RealImages:
    """Real images of an evaluation.

    The scale of the features is computed from training images that are in neither of the two
    compared sets. With the scale of one of them, the KID of two sets of the same distribution
    would be above 0 on average: by 0.5 for 16 images.

    Attributes:
        reference: images to compare generated ones with, uint8 [N, H, W, C].
        held_out: true if the reference was not used for training.
        searched: rows of the training images among which nearest neighbors are searched. Without
            test images they start with the reference.
        scaling: part of ``searched`` from which the scale of features is computed. With few
            training images it can be too small, see :meth:`Extractor.has_scale`.
        other: other real images, compared like generated ones, uint8 [M, H, W, C].
        other_rows: position of ``other`` in ``searched``; ``None`` if they were not used for
            training.
    """

    reference: Images
    held_out: bool
    searched: NDArray[np.int64]
    scaling: slice
    other: Images
    other_rows: slice | None

    @classmethod
    def sample(cls, settings: EvaluateSettings, training: Images, test: Images) -> "RealImages":
        """Draw ``settings.samples`` images of each set, or fewer if there are not enough.

        Args:
            settings: the ``evaluate`` section.
            training: uint8 [N, H, W, C], N at least 1.
            test: images that are not used for training, uint8 [M, H, W, C]. If there are fewer
                than 16, a third of the training images is used instead.
        """
        order = numpy_generator(settings.seed, "evaluate.training").permutation(len(training))
        held_out = test[numpy_generator(settings.seed, "evaluate.test").permutation(len(test))]
        if len(test) < MIN_REAL_IMAGES:
            held_out = test[:0]
        held_out = held_out[: settings.samples]
        if settings.reference == "training":
            searched = order[: max(MIN_IMAGES_TO_STANDARDIZE, settings.nearest_neighbor_pool)]
            return cls(training, False, searched, slice(_MAX_SCALING_IMAGES), held_out, None)
        if len(held_out):
            count = min(len(held_out), len(training) // 2)
            other_rows = slice(count)
            reference, used = held_out, count
        else:
            count = min(settings.samples, len(training) // 3)
            other_rows = slice(count, 2 * count)
            reference, used = training[order[:count]], 2 * count
        searched = order[
            : max(3 * count, used + MIN_IMAGES_TO_STANDARDIZE, settings.nearest_neighbor_pool)
        ]
        scaling = slice(used, used + _MAX_SCALING_IMAGES)
        other = training[searched[other_rows]]
        return cls(reference, len(held_out) > 0, searched, scaling, other, other_rows)
