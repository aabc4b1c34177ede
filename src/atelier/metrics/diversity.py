"""How different the pictures of one set are from each other."""

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.metrics.features import as_tensor

# Of Wang et al. 2003, finest scale first.
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11
_PIXELS = 2**20  # of pairs compared together; bounds the memory


def diversity(pictures: NDArray[np.uint8], seed: int) -> float:
    """One less the mean structural similarity of random pairs: 0 where all are the same.

    Odena et al. 2017, "Conditional image synthesis with auxiliary classifier GANs", section 4.2,
    by the multi-scale similarity of Wang et al. 2003, with as many scales as the pictures have
    room for: one at 16 pixels, two at 32, three at 64, five at 256.

    Args:
        pictures: uint8 [N, H, W, C], N at least 2, H and W at least 11.
        seed: of the pairs.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    side = min(pictures.shape[1:3])
    scales = sum(side // 2**scale >= _WINDOW for scale in range(len(_WEIGHTS)))
    weights = tuple(weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales])
    order = np.random.default_rng(seed).permutation(len(pictures))
    half = len(pictures) // 2
    together = max(1, _PIXELS // (side * side))
    total = 0.0
    for start in range(0, half, together):
        end = min(start + together, half)
        one, other = (
            as_tensor(pictures[order[first + start : first + end]]).add(1).div(2)
            for first in (0, half)
        )
        alike: torch.Tensor = multiscale_structural_similarity_index_measure(
            one, other, data_range=1.0, betas=weights
        )
        total += float(alike) * (end - start)
    return 1 - total / half
