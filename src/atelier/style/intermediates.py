"""Pictures of paintings on their way, also those that an interrupted attempt saw."""

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.checkpoints import Checkpoints
from atelier.style.paint import Glimpse
from atelier.style.pictures import to_uint8

Pixels = NDArray[np.uint8]


class Intermediates:
    """Keeps what it is shown: in memory, or on disk, where a killed painting leaves it."""

    def __init__(self, checkpoints: Checkpoints | None = None) -> None:
        self._checkpoints = checkpoints
        self._held: dict[str, Pixels] = {}

    def note(self, glimpse: Glimpse) -> None:
        """Keep a picture as it is now."""
        pixels = to_uint8(glimpse.pixels)[0]
        name = f"{_begin(glimpse.picture)}{glimpse.iteration:06d}"
        if self._checkpoints:
            self._checkpoints.keep(name, {"pixels": torch.from_numpy(pixels)})
        else:
            self._held[name] = pixels

    def of(self, picture: int) -> dict[int, Pixels]:
        """What was kept of a picture, uint8 [H, W, 3] RGB by iteration, in order."""
        begin = _begin(picture)
        names = self._checkpoints.parts(begin) if self._checkpoints else sorted(self._held)
        found = {name: self._get(name) for name in names if name.startswith(begin)}
        return {int(n.removeprefix(begin)): pixels for n, pixels in found.items() if pixels.size}

    def _get(self, name: str) -> Pixels:
        if not self._checkpoints:
            return self._held[name]
        kept = self._checkpoints.kept(name) or {"pixels": torch.empty(0, dtype=torch.uint8)}
        return kept["pixels"].numpy()


def _begin(picture: int) -> str:
    return f"glimpse-{picture:06d}-"
