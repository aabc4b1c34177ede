"""Painting that is killed and started again, and ends with the bytes of one that was not."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from atelier.checkpoints import Checkpoints
from atelier.style.journal import Saver

_MOST_EVALUATIONS = 10**6  # a picture, for numbers that rise with the work


class Attempts(Saver):
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
        finished = self._checkpoints.kept(_name(number))
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
            self._checkpoints.keep(_name(number), _apart(state))
        if asked or time.monotonic() - self._saved > self._seconds:
            whole = _apart(state) | {"picture": torch.tensor(number)}
            self._checkpoints.save(number * _MOST_EVALUATIONS + evaluations, whole)
            self._saved = time.monotonic()
        if asked:
            raise KeyboardInterrupt("saved")


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A painter's tensors may be one and the same, which safetensors would not keep."""
    return {name: value.clone() for name, value in state.items()}


def _name(number: int) -> str:
    return f"picture-{number:06d}"
