"""Classes of pictures, as a training of a conditional GAN needs them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.errors import AtelierError
from atelier.settings import TrainSettings


def checked_labels(settings: TrainSettings, labels: NDArray[np.int64] | None) -> Tensor | None:
    """The class of each picture, int64 [N]; ``None`` where classes are not asked for."""
    if not settings.conditional:
        return None
    if labels is None or labels.max() == 0:
        raise AtelierError(
            "train.conditional is true, but the pictures are not of several classes; set it to"
            " false, or give each class a folder of its own."
        )
    return torch.tensor(labels, dtype=torch.int64)


def rows_of_classes(samples: int, classes: int) -> list[int] | None:
    """The labels of the fixed latents: a row of the montage for each class."""
    if not classes:
        return None
    if samples % classes:
        raise AtelierError(
            f"train.samples is {samples}, which makes no equal rows of {classes} classes; set it"
            f" to {max(1, round(samples / classes)) * classes}."
        )
    return [number * classes // samples for number in range(samples)]
