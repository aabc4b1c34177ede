"""Batches of training images on the device, and their labels."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.settings import TrainSettings


class BatchLoader:
    """Training images as uint8, gathered into batches on the device.

    On a GPU the images are stored in its memory if they fit into half of the free part. Otherwise
    they stay in the array, which may be memory-mapped, and a thread gathers the next batch into
    pinned memory while the GPU processes the current one.
    """

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        """Store uint8 [N, H, W, C]."""
        self._pixels = pixels
        self._device = device
        self._on_device: Tensor | None = None
        if device.type == "cuda" and pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self._on_device = torch.tensor(np.asarray(pixels), device=device)

    def __len__(self) -> int:
        return len(self._pixels)

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each index tensor, int64 [B], as uint8 [B, H, W, C] on the device."""
        if not indices:  # a restored state may be at the end of an epoch
            return
        if self._on_device is not None:
            # One upload for all batches of an epoch.
            order = torch.cat(list(indices)).to(self._device)
            for batch in order.split([len(batch) for batch in indices]):
                yield self._on_device[batch]
        elif self._device.type == "cuda":
            yield from self._prefetch(indices)
        else:
            for batch in indices:
                yield self._gather(batch).to(self._device)

    def _prefetch(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(1) as pool:

            def submit(batch: Tensor) -> Future[Tensor]:
                return pool.submit(lambda: self._gather(batch).pin_memory())

            pending = [submit(batch) for batch in indices[:1]]
            for number in range(len(indices)):
                pinned = pending.pop().result()
                pending += [submit(batch) for batch in indices[number + 1 : number + 2]]
                yield pinned.to(self._device, non_blocking=True)

    def _gather(self, batch: Tensor) -> Tensor:
        return torch.from_numpy(self._pixels[batch.numpy()])


def validate_labels(settings: TrainSettings, labels: NDArray[np.int64] | None) -> Tensor | None:
    """Return the class of each image, int64 [N], or ``None`` without ``train.conditional``.

    Raises:
        AtelierError: ``train.conditional`` is true, but there are fewer than two classes.
    """
    if not settings.conditional:
        return None
    if labels is None or labels.max() == 0:
        raise AtelierError(
            "train.conditional is true, but the images do not have several classes; set it to"
            " false, or put the images of each class into a separate folder."
        )
    return torch.tensor(labels, dtype=torch.int64)


def labels_by_row(samples: int, classes: int) -> list[int] | None:
    """Return the labels of the fixed latents, one class after the other; ``None`` for 0 classes.

    Raises:
        AtelierError: ``samples`` is not a multiple of ``classes``.
    """
    if not classes:
        return None
    if samples % classes:
        raise AtelierError(
            f"train.fixed_samples is {samples}, which is not a multiple of the {classes} classes;"
            f" set it to {max(1, round(samples / classes)) * classes}."
        )
    return [number * classes // samples for number in range(samples)]
