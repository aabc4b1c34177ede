"""What a training says of an epoch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atelier.errors import AtelierError


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought.

    Attributes:
        number: 1 for the first epoch.
        first_step: the training steps done before this epoch.
        images: int64 [steps], pictures seen since the start, after each step.
        statistics: float32 [steps, 5], a row per step, columns as in ``step.STATISTICS``.
        samples: uint8 [N, H, W, C], pictures of the fixed latents after this epoch.
        between: the same after every ``train.sample_every``-th step of it, by step.
        quality: what the judge says of the generator after this epoch; ``None`` where it was
            not asked.
    """

    number: int
    first_step: int
    images: NDArray[np.int64]
    statistics: NDArray[np.float32]
    samples: NDArray[np.uint8]
    between: dict[int, NDArray[np.uint8]]
    quality: float | None = None

    @property
    def images_seen(self) -> int:
        """Pictures that this epoch learned from."""
        return int(self.images[-1]) // self.number

    @property
    def measured(self) -> dict[int, list[float]]:
        """A point of the curve of quality, by epoch; none where it was not measured."""
        return {} if self.quality is None else {self.number: [self.quality]}


class AstrayError(AtelierError):
    """Losses or weights are no numbers any more."""
