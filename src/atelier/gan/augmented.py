"""A picture of what the discriminator sees of the real pictures."""

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.gan.augment import CHANCES, mirrored, seen
from atelier.gan.feed import scaled
from atelier.gan.generate import as_uint8
from atelier.settings import TrainSettings
from atelier.streams import torch_stream

_PICTURES, _TIMES = 6, 7


def augmented(settings: TrainSettings, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Some pictures, each as it is and then several times as the discriminator may see it.

    Args:
        settings: the ``train`` section.
        pixels: uint8 [N, H, W, C].

    Returns:
        uint8 [rows, columns, H, W, C]; ``None`` without ``train.augment``: mirrored pictures alone
        show nothing.
    """
    if not settings.augment:
        return None
    chosen = np.linspace(0, len(pixels) - 1, min(_PICTURES, len(pixels))).astype(np.int64)
    real = scaled(torch.from_numpy(pixels[chosen]))
    stream = torch_stream(settings.seed, "train.augmented")
    views = [as_uint8(real)]
    for _ in range(_TIMES):
        chances = torch.rand(len(real), CHANCES, generator=stream)
        flipped = mirrored(real, chances) if settings.flip else real
        views.append(as_uint8(seen(flipped, settings.augment, chances, "real")))
    return torch.stack(views, 1).numpy()
