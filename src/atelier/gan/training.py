"""The training loop: epochs over shuffled pictures, told to whoever listens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.errors import AtelierError
from atelier.gan.generate import draw_latents, generate, random_latents
from atelier.gan.networks import Architecture
from atelier.gan.step import build_gan, train_step
from atelier.progress import Progress, Report, silent
from atelier.settings import TrainSettings


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
    """

    number: int
    first_step: int
    images: NDArray[np.int64]
    statistics: NDArray[np.float32]
    samples: NDArray[np.uint8]
    between: dict[int, NDArray[np.uint8]]

    @property
    def images_seen(self) -> int:
        """Pictures that this epoch learned from."""
        return int(self.images[-1]) // self.number


class Training:
    """A GAN, the pictures it learns from, and every random stream it draws from.

    Two trainings with equal settings and pictures give the same bytes on one CPU with one number
    of threads: each stream (weights, order of the pictures, latents, fixed latents) has a
    generator of its own, seeded from ``settings.seed``.
    """

    def __init__(
        self, settings: TrainSettings, pixels: NDArray[np.uint8], device: torch.device
    ) -> None:
        """Prepare a training.

        Args:
            settings: the ``train`` section.
            pixels: uint8 [N, H, W, C], square; may be memory-mapped.
            device: where to train.

        Raises:
            AtelierError: the pictures do not fit a network, or are too few for one batch.
        """
        count, height, width, channels = pixels.shape
        if height != width:
            raise AtelierError(f"the pictures are {width}x{height}, but the DCGAN needs squares.")
        if count < settings.batch_size:
            raise AtelierError(
                f"there are {count} pictures, fewer than train.batch_size ({settings.batch_size});"
                f" set it to {count} or less, or add pictures."
            )
        self.settings = settings
        self.device = device
        self.arch = Architecture.of(settings, height, channels)
        self.gan = build_gan(self.arch, settings, device)
        self._feed = _Feed(pixels, device)
        self._order = torch.Generator().manual_seed(settings.seed + 1)
        self._latents = torch.Generator(device).manual_seed(settings.seed + 2)
        self._fixed = draw_latents(settings.samples, self.arch, settings.seed + 3)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-len(self._feed) // self.settings.batch_size)

    def run(self, report: Report = silent) -> Iterator[Epoch]:
        """Train epoch by epoch; ``report`` counts steps.

        Raises:
            AtelierError: the losses are no longer finite.
        """
        total = self.settings.epochs * self.steps_per_epoch
        for number in range(1, self.settings.epochs + 1):
            first_step = (number - 1) * self.steps_per_epoch
            rows: list[Tensor] = []
            between: dict[int, NDArray[np.uint8]] = {}
            order = torch.randperm(len(self._feed), generator=self._order)
            batches = order.split(self.settings.batch_size)
            seen = np.cumsum([len(batch) for batch in batches]) + (number - 1) * len(self._feed)
            for indices in batches:
                rows.append(self._step(indices))
                step = first_step + len(rows)
                if self.settings.sample_every and step % self.settings.sample_every == 0:
                    between[step] = self.samples()
                report(Progress(step, total))
            # The one place where the device is waited for.
            statistics = torch.stack(rows).cpu().numpy()
            report(Progress(first_step + len(rows), total, _note(number, statistics)))
            if not np.isfinite(statistics).all():
                raise AtelierError(
                    f"the training went astray in epoch {number}: its losses are no numbers any"
                    f" more; make train.lr smaller than {self.settings.lr:g}."
                )
            yield Epoch(number, first_step, seen, statistics, self.samples(), between)

    def samples(self) -> NDArray[np.uint8]:
        """Pictures of the fixed latents as the generator stands, uint8 [N, H, W, C]."""
        return generate(self.gan.generator, self._fixed)

    def _step(self, indices: Tensor) -> Tensor:
        real = self._feed.batch(indices)
        latents = random_latents(len(indices), self.arch, self._latents)
        return train_step(self.gan, real, latents)


class _Feed:
    """Pictures kept as uint8 until a batch is gathered and scaled on the device."""

    def __init__(self, pixels: NDArray[np.uint8], device: torch.device) -> None:
        self._pixels = pixels
        self._device = device
        self._on_device: Tensor | None = None
        if device.type == "cuda" and pixels.nbytes < torch.cuda.mem_get_info(device)[0] / 2:
            self._on_device = torch.tensor(np.asarray(pixels), device=device)

    def __len__(self) -> int:
        return len(self._pixels)

    def batch(self, indices: Tensor) -> Tensor:
        """Gather pictures as float32 [B, C, H, W] in [-1, 1], channels last in memory."""
        if self._on_device is not None:
            gathered = self._on_device[indices.to(self._device)]
        else:
            gathered = torch.from_numpy(self._pixels[indices.numpy()]).to(self._device)
        return gathered.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _note(number: int, statistics: NDArray[np.float32]) -> str:
    loss_d, loss_g, d_x, d_g_z1, d_g_z2 = statistics.mean(axis=0)
    return (
        f"epoch {number}  Loss_D {loss_d:.3f}  Loss_G {loss_g:.3f}"
        f"  D(x) {d_x:.3f}  D(G(z)) {d_g_z1:.3f} / {d_g_z2:.3f}"
    )
