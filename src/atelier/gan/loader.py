"""Pictures on their way to the device, where they are scaled."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.settings import TrainSettings


class BatchLoader:
    """Pictures kept as uint8: on a GPU where they fit into half of its free memory.

    Else they stay where they are, such as in a file mapped into memory. For a GPU the next batch
    is then gathered into pinned memory while the device works on the one before.
    """

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        """Take uint8 [N, H, W, C]."""
        self._pixels = pixels
        self._device = device
        self._on_device: Tensor | None = None
        if device.type == "cuda" and pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self._on_device = torch.tensor(np.asarray(pixels), device=device)

    def __len__(self) -> int:
        return len(self._pixels)

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the pictures of each part, int64 [B], as uint8 [B, H, W, C] on the device."""
        if self._on_device is not None:
            for indices in parts:
                yield self._on_device[indices.to(self._device, non_blocking=True)]
        elif self._device.type == "cuda":
            yield from self._prefetched(parts)
        else:
            for indices in parts:
                yield self._gathered(indices).to(self._device)

    def _prefetched(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1) as pool:

            def start(indices: Tensor) -> Future[Tensor]:
                return pool.submit(lambda: self._gathered(indices).pin_memory())

            ahead = [start(indices) for indices in parts[:1]]
            for number in range(len(parts)):
                pinned = ahead.pop().result()
                ahead += [start(indices) for indices in parts[number + 1 : number + 2]]
                yield pinned.to(self._device, non_blocking=True)

    def _gathered(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self._pixels[indices.numpy()])


def to_unit_range(pixels: Tensor) -> Tensor:
    """Turn uint8 [B, H, W, C] into float32 [B, C, H, W] in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def validate_labels(settings: TrainSettings, labels: NDArray[np.int64] | None) -> Tensor | None:
    """The class of each picture, int64 [N]; ``None`` where classes are not asked for."""
    if not settings.conditional:
        return None
    if labels is None or labels.max() == 0:
        raise AtelierError(
            "train.conditional is true, but the pictures are not of several classes; set it to"
            " false, or give each class a folder of its own."
        )
    return torch.tensor(labels, dtype=torch.int64)


def labels_by_row(samples: int, classes: int) -> list[int] | None:
    """The labels of the fixed latents: a row of the montage for each class."""
    if not classes:
        return None
    if samples % classes:
        raise AtelierError(
            f"train.fixed_samples is {samples}, which makes no equal rows of {classes} classes; set it"
            f" to {max(1, round(samples / classes)) * classes}."
        )
    return [number * classes // samples for number in range(samples)]
