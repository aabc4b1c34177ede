"""Pictures of paintings on their way, also those that an interrupted attempt saw."""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.checkpoints import Checkpoints
from atelier.style.image_ops import to_uint8
from atelier.style.loss_log import Checkpointer, Preview

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

    def note(self, glimpse: Preview) -> None:
        """Keep a picture as it is now."""
        if not bool(glimpse.pixels.isfinite().all()):
            return  # of steps that are taken back
        if glimpse.interrupted and self._checkpoints:
            return  # the next attempt goes on from before it
        pixels = to_uint8(glimpse.pixels)[0]
        name = f"{_KIND}{glimpse.image:06d}-{glimpse.iteration:06d}"
        if self._checkpoints:
            self._checkpoints.save_part(name, {"pixels": torch.from_numpy(pixels)})
            return
        if self._latest_only:
            self.forget(glimpse.image)
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
        names = self._checkpoints.list_parts(_KIND) if self._checkpoints else sorted(self._held)
        parts = [name.removeprefix(_KIND).split("-") for name in names]
        return [(n, int(number), int(at)) for n, (number, at) in zip(names, parts, strict=True)]

    def _get(self, name: str) -> Pixels | None:
        """A picture; ``None`` where its file is damaged, without which the painting is whole."""
        if not self._checkpoints:
            return self._held[name]
        kept = self._checkpoints.load_part(name)
        return None if kept is None else kept["pixels"].numpy()


_MAX_EVALUATIONS = 10**6  # a picture, for numbers that rise with the work


class TransferCheckpoints(Checkpointer):
    """Keeps the pictures of a painting in a folder of checkpoints.

    Finished pictures are parts of their own; the one at work is the latest state.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        stop_asked: Callable[[], bool] = lambda: False,
        seconds: float = 60.0,
    ) -> None:
        """Begin, or go on.

        Args:
            checkpoints: of a painting with the same settings, pictures and code.
            stop_asked: asked between the parts of a picture.
            seconds: between two states.
        """
        self._checkpoints = checkpoints
        self._stop_asked = stop_asked
        self._seconds = seconds
        self._saved = time.monotonic()
        self.first = 0  # number of the first of the pictures that are painted now

    def load(self, picture: int) -> dict[str, Tensor] | None:
        """The finished picture, or the state of the one at work."""
        number = self.first + picture
        finished = self._checkpoints.load_part(_state_name(number))
        if finished is not None:
            return finished
        latest = self._checkpoints.latest()
        if latest is None or int(latest.pop("picture")) != number:
            return None
        return latest

    def save(
        self, picture: int, evaluations: int, state: dict[str, Tensor], finished: bool
    ) -> None:
        """Keep a picture where it is time to, or where it is finished.

        Raises:
            KeyboardInterrupt: it was asked to stop, and saved.
        """
        number, asked = self.first + picture, self._stop_asked()
        if finished:
            self._checkpoints.save_part(_state_name(number), _apart(state))
        if asked or time.monotonic() - self._saved > self._seconds:
            whole = _apart(state) | {"picture": torch.tensor(number)}
            self._checkpoints.save(number * _MAX_EVALUATIONS + evaluations, whole)
            self._saved = time.monotonic()
        if asked:
            raise KeyboardInterrupt("saved")


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A painter's tensors may be one and the same, which safetensors would not keep."""
    return {name: value.clone() for name, value in state.items()}


def _state_name(number: int) -> str:
    return f"picture-{number:06d}"
