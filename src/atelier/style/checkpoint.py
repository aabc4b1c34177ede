"""Saved state and intermediate images of unfinished style transfers."""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.arrays import to_uint8
from atelier.core.checkpoints import Checkpoints
from atelier.core.progress import Progress, ProgressCallback
from atelier.style.loss_log import Preview, StyleEvents

Pixels = NDArray[np.uint8]

_PREVIEW_PREFIX = "glimpse-"
# Upper bound of evaluations per image, so that checkpoint numbers increase from image to image.
_MAX_EVALUATIONS = 10**6


class Intermediates:
    """Intermediate images, stored in memory or in a folder of checkpoints."""

    def __init__(self, checkpoints: Checkpoints | None = None, latest_only: bool = False) -> None:
        """Use the intermediate images that an earlier attempt stored, if any.

        Args:
            checkpoints: where to store images; ``None`` for memory.
            latest_only: store only the latest of each image, if in memory.
        """
        self._checkpoints, self._latest_only = checkpoints, latest_only
        self._in_memory: dict[str, Pixels] = {}

    def add(self, preview: Preview) -> None:
        """Store a preview.

        A preview that is not finite is ignored, because its steps are undone. So is that of an
        interruption if there are checkpoints, because the next attempt restarts before it.
        """
        if not bool(preview.pixels.isfinite().all()):
            return
        if preview.interrupted and self._checkpoints:
            return
        pixels = to_uint8(preview.pixels, signed=False)[0].cpu().numpy()
        name = f"{_PREVIEW_PREFIX}{preview.image:06d}-{preview.iteration:06d}"
        if self._checkpoints:
            self._checkpoints.save_part(name, {"pixels": torch.from_numpy(pixels)})
            return
        if self._latest_only:
            self.discard(preview.image)
        self._in_memory[name] = pixels

    def discard(self, image: int) -> None:
        """Remove the intermediates of an image from memory."""
        prefix = f"{_PREVIEW_PREFIX}{image:06d}-"
        self._in_memory = {n: p for n, p in self._in_memory.items() if not n.startswith(prefix)}

    def of_image(self, image: int) -> dict[int, Pixels]:
        """Return the intermediates of an image, uint8 [H, W, 3] RGB by iteration, in order."""
        stored = [(at, self._load(name)) for name, number, at in self._list() if number == image]
        return {iteration: pixels for iteration, pixels in stored if pixels is not None}

    def by_iteration(self) -> dict[int, list[Pixels]]:
        """Return the intermediates of all images, in their order, by iteration."""
        stored: dict[int, list[Pixels]] = {}
        for name, _, iteration in self._list():
            pixels = self._load(name)
            if pixels is not None:
                stored.setdefault(iteration, []).append(pixels)
        return dict(sorted(stored.items()))

    def _list(self) -> list[tuple[str, int, int]]:
        """Return names in order, each with the index of its image and its iteration."""
        if self._checkpoints:
            names = self._checkpoints.list_parts(_PREVIEW_PREFIX)
        else:
            names = sorted(self._in_memory)
        parts = [name.removeprefix(_PREVIEW_PREFIX).split("-") for name in names]
        return [(n, int(number), int(at)) for n, (number, at) in zip(names, parts, strict=True)]

    def _load(self, name: str) -> Pixels | None:
        """Return an intermediate image; ``None`` if its file is damaged."""
        if not self._checkpoints:
            return self._in_memory[name]
        part = self._checkpoints.load_part(name)
        return None if part is None else part["pixels"].numpy()


class StoringEvents(StyleEvents):
    """Observer that stores intermediate images, and passes progress and warnings on."""

    def __init__(
        self,
        report: ProgressCallback,
        warn: Callable[[str], None],
        intermediates: Intermediates | None,
    ) -> None:
        """Store previews in ``intermediates``, if any."""
        self._report, self._warn, self._intermediates = report, warn, intermediates

    def on_preview(self, preview: Preview) -> None:
        """Store an intermediate image."""
        if self._intermediates is not None:
            self._intermediates.add(preview)

    def on_progress(self, progress: Progress) -> None:
        """Report the progress."""
        self._report(progress)

    def warn(self, *warnings: str) -> None:
        """Pass each warning on."""
        for warning in warnings:
            self._warn(warning)


class TransferCheckpoints:
    """Saves the images of style transfers in a folder of checkpoints, or nothing without one.

    Each finished image is a part of its own. The unfinished one is the latest checkpoint. Images
    of a batch are saved together, under the index of the first one.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        interval_seconds: float = 60.0,
    ) -> None:
        """Use the checkpoints of an earlier attempt, if any.

        Args:
            checkpoints: of a style transfer with the same settings, images and code.
            stop_requested: called at each save; true stops the style transfer.
            interval_seconds: least time between two checkpoints.
        """
        self._checkpoints = checkpoints
        self._stop_requested = stop_requested
        self._interval_seconds = interval_seconds
        self._last_save = time.monotonic()

    def load(self, image: int) -> dict[str, Tensor] | None:
        """Return the final state of a finished image, or the latest of an unfinished one."""
        if self._checkpoints is None:
            return None
        finished = self._checkpoints.load_part(_part_name(image))
        if finished is not None:
            return finished
        latest = self._checkpoints.latest()
        return latest if latest and int(latest.pop("picture")) == image else None

    def save(self, image: int, evaluations: int, state: dict[str, Tensor], finished: bool) -> None:
        """Save an image if it is finished, if the interval has passed, or before stopping.

        Raises:
            KeyboardInterrupt: a stop was requested, and the state is saved.
        """
        if self._checkpoints is None:
            return
        stops = self._stop_requested()
        if finished:
            self._checkpoints.save_part(_part_name(image), _clone(state))
        if stops or time.monotonic() - self._last_save > self._interval_seconds:
            checkpoint = _clone(state) | {"picture": torch.tensor(image)}
            self._checkpoints.save(image * _MAX_EVALUATIONS + evaluations, checkpoint)
            self._last_save = time.monotonic()
        if stops:
            raise KeyboardInterrupt("saved")


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, because safetensors rejects tensors that share memory."""
    return {name: value.clone() for name, value in state.items()}


def _part_name(image: int) -> str:
    return f"picture-{image:06d}"
