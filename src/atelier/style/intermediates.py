"""Pictures of paintings on their way, also those that an interrupted attempt saw."""

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.checkpoints import Checkpoints
from atelier.style.journal import Glimpse
from atelier.style.pictures import to_uint8

Pixels = NDArray[np.uint8]

_KIND = "glimpse-"


class Intermediates:
    """Keeps what it is shown: in memory, or on disk, where a killed painting leaves it."""

    def __init__(self, checkpoints: Checkpoints | None = None, latest_only: bool = False) -> None:
        """Begin, or go on.

        Args:
            checkpoints: where to keep pictures; ``None`` keeps them in memory.
            latest_only: keep in memory only the last of each picture.
        """
        self._checkpoints, self._latest_only = checkpoints, latest_only
        self._held: dict[str, Pixels] = {}

    def note(self, glimpse: Glimpse) -> None:
        """Keep a picture as it is now."""
        if not bool(glimpse.pixels.isfinite().all()):
            return  # of steps that are taken back
        if glimpse.interrupted and self._checkpoints:
            return  # the next attempt goes on from before it
        pixels = to_uint8(glimpse.pixels)[0]
        name = f"{_KIND}{glimpse.picture:06d}-{glimpse.iteration:06d}"
        if self._checkpoints:
            self._checkpoints.keep(name, {"pixels": torch.from_numpy(pixels)})
            return
        if self._latest_only:
            self.forget(glimpse.picture)
        self._held[name] = pixels

    def forget(self, picture: int) -> None:
        """Let go of what is in memory of a picture."""
        whose = f"{_KIND}{picture:06d}-"
        self._held = {n: p for n, p in self._held.items() if not n.startswith(whose)}

    def of(self, picture: int) -> dict[int, Pixels]:
        """What was kept of a picture, uint8 [H, W, 3] RGB by iteration, in order."""
        kept = [(at, self._get(name)) for name, number, at in self._list() if number == picture]
        return {iteration: pixels for iteration, pixels in kept if pixels is not None}

    def by_iteration(self) -> dict[int, list[Pixels]]:
        """What was kept of all pictures, in their order, by iteration."""
        found: dict[int, list[Pixels]] = {}
        for name, _, iteration in self._list():
            pixels = self._get(name)
            if pixels is not None:
                found.setdefault(iteration, []).append(pixels)
        return dict(sorted(found.items()))

    def _list(self) -> list[tuple[str, int, int]]:
        """Names in order, with the picture and the iteration that each is of."""
        names = self._checkpoints.parts(_KIND) if self._checkpoints else sorted(self._held)
        parts = [name.removeprefix(_KIND).split("-") for name in names]
        return [(n, int(number), int(at)) for n, (number, at) in zip(names, parts, strict=True)]

    def _get(self, name: str) -> Pixels | None:
        """A picture; ``None`` where its file is damaged, without which the painting is whole."""
        if not self._checkpoints:
            return self._held[name]
        kept = self._checkpoints.kept(name)
        return None if kept is None else kept["pixels"].numpy()
