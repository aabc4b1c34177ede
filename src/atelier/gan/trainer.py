"""Training loop: yields one result per epoch."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.arrays import to_tensor
from atelier.core.device import float32_matmul_precision
from atelier.core.errors import AtelierError, is_out_of_memory
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.core.state import flatten, section
from atelier.gan.cuda_graph import GraphedStep
from atelier.gan.distributed import SINGLE_PROCESS, Ranks
from atelier.gan.generation import draw_latents, generate, random_latents, with_labels
from atelier.gan.history import BestModel, DivergedError, EpochResult
from atelier.gan.loader import BatchLoader, labels_by_row, validate_labels
from atelier.gan.lr_schedule import lr_factor
from atelier.gan.model import build_gan
from atelier.gan.networks import Architecture
from atelier.gan.step import STATISTICS, train_step

QualityFn = Callable[[NDArray[np.uint8]], float]
"""Images uint8 [N, H, W, C] to a score, for example their KID; lower is better."""


class Trainer:
    """A GAN, its training images, and the random streams of its training.

    On one CPU with a fixed number of threads, equal settings and images give bit-identical
    results. Each random stream (weights, order of the images, latents, fixed latents, dropout,
    augmentation) has its own state, seeded from ``settings.seed``. A trainer restored from
    :meth:`state` continues bit-identically.

    Attributes:
        best_model: the scores of the epochs so far, and the generator of the best one.
        use_cuda_graphs: replay steps on a GPU as CUDA graphs; without them, the host launches each
            kernel and the results are the same.
        warn: called with a sentence about a problem that does not end the training.
    """

    use_cuda_graphs = True
    warn: Callable[[str], None] = staticmethod(lambda message: None)

    def __init__(
        self,
        settings: TrainSettings,
        pixels: NDArray[np.uint8],
        device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
        labels: NDArray[np.int64] | None = None,
        quality_fn: QualityFn | None = None,
    ) -> None:
        """Build the networks and seed the random streams.

        Args:
            settings: the ``train`` section.
            pixels: uint8 [N, H, W, C], square; may be memory-mapped.
            device: the device to train on.
            ranks: this process and the number of processes; all draw the same batches and
                latents, and each processes its shard of them.
            labels: the class of each image, int64 [N], from 0; used if ``train.conditional``.
            quality_fn: scores generated images every ``train.kid_every_epochs`` epochs and after
                the last epoch.

        Raises:
            AtelierError: no network fits the images, or ``train.conditional`` is true without
                several classes.
        """
        height, width, channels = pixels.shape[1:]
        if height != width:
            raise AtelierError(f"the images are {width}x{height}, but the networks need squares.")
        self.settings = settings
        self.device = device
        self.ranks = ranks
        self._labels = validate_labels(settings, labels)
        classes = 0 if self._labels is None else int(self._labels.max()) + 1
        self.arch = Architecture.from_settings(settings, height, channels, classes)
        if ranks.count > 1 and self.arch.dropout:
            raise AtelierError(
                "each process draws dropout on its own, so several processes would not give the"
                " result of one; set runtime.launcher to python, or train.dropout to 0."
            )
        self._loader = BatchLoader(pixels, device)
        fixed_labels = labels_by_row(settings.fixed_samples, classes)
        self._fixed_latents = draw_latents(
            settings.fixed_samples, self.arch, self._seed("fixed_latents"), fixed_labels
        )
        self._quality_fn = quality_fn if settings.kid_every_epochs else None
        self._kid_latents = draw_latents(
            settings.kid_samples, self.arch, self._seed("measured_latents")
        )
        self.reset()

    def reset(self) -> None:
        """Set fresh weights, seed the random streams, and start at step 0."""
        settings, device = self.settings, self.device
        self.gan = build_gan(self.arch, settings, device, self.ranks)
        self._graphs: dict[bool, GraphedStep] = {}  # by with_penalty
        self._order = torch.Generator()
        self._latents = torch.Generator(device)
        # Dropout draws from PyTorch's global stream; this is its state between two steps.
        self._dropout = torch.Generator(device).manual_seed(self._seed("dropout")).get_state()
        self._uniforms = torch.Generator(device)
        self._seed_streams(0)
        self.best_model = BestModel()
        self.epochs_done = 0
        self.rollbacks = 0
        self._permutation = torch.empty(0, dtype=torch.int64)
        self._step_rows: list[Tensor] = []
        self._step_samples: dict[int, NDArray[np.uint8]] = {}

    @property
    def columns(self) -> int:
        """Images of one class in :meth:`samples`, to show as one row; 0 without classes."""
        return self.settings.fixed_samples // self.arch.classes if self.arch.classes else 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last batch may be smaller."""
        return -(-len(self._loader) // self.settings.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training: ``train.steps``, or ``train.epochs`` full epochs if 0."""
        return self.settings.steps or self.settings.epochs * self.steps_per_epoch

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole training; ``train.steps`` may cut the last one short."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def steps_done(self) -> int:
        """Training steps since the start."""
        done = self.epochs_done * self.steps_per_epoch + len(self._step_rows)
        return min(done, self.total_steps)  # the last epoch may have been cut short

    def run(
        self, report: ProgressCallback = silent, after_step: Callable[[], None] = lambda: None
    ) -> Iterator[EpochResult]:
        """Train epoch by epoch, from the current step to the last epoch.

        Args:
            report: called with the progress after each step.
            after_step: called after each step; it may call :meth:`state`.

        Raises:
            DivergedError: losses or weights are not finite.
        """
        total = self.total_steps
        while self.epochs_done < self.total_epochs:
            if not self._step_rows:
                self._permutation = torch.randperm(len(self._loader), generator=self._order)
            first = len(self._step_rows)
            last = total - self.epochs_done * self.steps_per_epoch
            remaining = self._permutation.split(self.settings.batch_size)[first:last]
            batches = self._loader.batches([self.ranks.shard(indices) for indices in remaining])
            for indices, pixels in zip(remaining, batches, strict=True):
                self._step_rows.append(self._step_or_suggest_batch(pixels, indices))
                every = self.settings.sample_every_steps
                if every and self.steps_done % every == 0:
                    self._step_samples[self.steps_done] = self.samples()
                report(Progress(self.steps_done, total))
                after_step()
            epoch = self._end_epoch()
            report(Progress(self.steps_done, total, _progress_note(epoch.number, epoch.statistics)))
            yield epoch

    def samples(self) -> NDArray[np.uint8]:
        """Generate images of the fixed latents, uint8 [N, H, W, C]."""
        return generate(self.gan.eval_generator, self._fixed_latents)

    def is_finite(self) -> bool:
        """Return true if all losses and weights are finite; blocks until the device is done."""
        tensors = [
            *self._step_rows,
            *self.gan.generator.parameters(),
            *self.gan.discriminator.parameters(),
        ]
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())

    def reseed(self, rollbacks: int) -> None:
        """Seed new random streams after a rollback to the start of an epoch.

        Other latents and another order of the images need not diverge again.
        """
        self.rollbacks = rollbacks
        self._seed_streams(rollbacks)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the remaining training depends on, between two steps."""
        rows = torch.stack(self._step_rows) if self._step_rows else torch.empty(0, len(STATISTICS))
        state = {
            "epochs_done": torch.tensor(self.epochs_done),
            "rollbacks": torch.tensor(self.rollbacks),
            "permutation": self._permutation,
            "rows": rows,
            "stream": {
                "order": self._order.get_state(),
                "latents": self._latents.get_state(),
                "dropout": self._dropout,
                "chances": self._uniforms.get_state(),
            },
            "measured": self.best_model.state(),
            "between": {step: torch.tensor(images) for step, images in self._step_samples.items()},
        }
        return flatten(state) | self.gan.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors returned by :meth:`state`, bit for bit."""
        self.epochs_done = int(state["epochs_done"])
        self.rollbacks = int(state["rollbacks"])
        self._permutation = state["permutation"]
        self._step_rows = list(state["rows"].to(self.device))
        self._order.set_state(state["stream.order"])
        self._latents.set_state(state["stream.latents"])
        self._dropout = state["stream.dropout"]
        self._uniforms.set_state(state["stream.chances"])
        self.best_model.restore(section(state, "measured"))
        between = section(state, "between")
        self._step_samples = {int(step): images.numpy() for step, images in between.items()}
        self.gan.restore(state)
        self._graphs = {}  # they write to the memory of the previous optimizer moments

    def broadcast_state(self) -> None:
        """Broadcast rank 0's state to all ranks."""
        if self.ranks.count > 1:
            self.restore(self.ranks.broadcast_state(self.state()))

    def _end_epoch(self) -> EpochResult:
        # The only point of the loop that blocks until the device is done.
        if not self.is_finite():
            raise DivergedError(
                f"the training diverged in epoch {self.epochs_done + 1}: its losses or weights"
                f" are not finite; set train.lr below {self.settings.lr:g}."
            )
        statistics = torch.stack(self._step_rows).cpu().numpy()
        number, batch_size = self.epochs_done + 1, self.settings.batch_size
        batches = self._permutation.split(batch_size)[: len(self._step_rows)]
        images_before = self.epochs_done * len(self._loader)
        epoch = EpochResult(
            number=number,
            first_step=self.epochs_done * self.steps_per_epoch,
            images=np.cumsum([len(batch) for batch in batches]) + images_before,
            statistics=statistics,
            samples=self.samples(),
            step_samples=self._step_samples,
            quality=self._quality(number),
            images_before=images_before,
        )
        self.epochs_done, self._step_rows, self._step_samples = number, [], {}
        return epoch

    def _quality(self, epoch: int) -> float | None:
        """Score the generator, if this epoch is one to score."""
        settings = self.settings
        if self._quality_fn is None:
            return None
        if epoch % settings.kid_every_epochs and epoch < self.total_epochs:
            return None
        quality = self._quality_fn(generate(self.gan.eval_generator, self._kid_latents))
        self.best_model.add(epoch, quality, self.gan.eval_generator)
        return quality

    def _step_or_suggest_batch(self, pixels: Tensor, indices: Tensor) -> Tensor:
        """Do a training step; if memory runs out, raise with a batch size that fits."""
        try:
            return self._step(pixels, indices)
        except (MemoryError, RuntimeError) as error:
            # Several processes would have to try other batch sizes together.
            if self.ranks.count > 1 or not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        fits = len(indices) // 2
        while fits > 1 and not self._fits(pixels[:fits], indices[:fits]):
            fits //= 2
        raise AtelierError(
            f"a batch of {len(indices)} images does not fit into memory; "
            + (
                f"set train.batch_size to {fits}, which fits."
                if fits > 1
                else "make train.generator_channels and train.discriminator_channels smaller."
            )
        )

    def _fits(self, pixels: Tensor, indices: Tensor) -> bool:
        """Return true if a step with this batch fits into memory; its result is discarded."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self._step(pixels, indices)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            return False
        return True

    def _step(self, pixels: Tensor, indices: Tensor) -> Tensor:
        """Do a training step on this process's shard of a batch; return its statistics.

        Args:
            pixels: images of the shard, uint8 [B', H, W, C].
            indices: indices of the images of the whole batch, int64 [B].
        """
        settings, batch_size = self.settings, len(indices)
        latents = self.ranks.shard(self._draw_latents(indices))
        uniforms = self.ranks.shard(self._draw_uniforms(batch_size))
        with_penalty = settings.has_penalty and self.steps_done % settings.penalty_interval == 0
        if settings.schedule != "constant":
            factor = lr_factor(settings.schedule, self.steps_done, self.total_steps)
            self.gan.set_lr_factor(factor)
        with float32_matmul_precision(self.gan.precision, self.device):
            if self._can_graph(batch_size):
                graphed = self._graphed_step(pixels, latents, uniforms, with_penalty)
                if graphed:
                    return graphed(pixels, latents, uniforms)
            batch_fraction = len(pixels) / batch_size
            return self._eager_step(pixels, latents, batch_fraction, uniforms, with_penalty)

    def _draw_latents(self, indices: Tensor) -> Tensor:
        """Draw latents for a batch, followed by the labels of its real images if conditional."""
        latents = random_latents(len(indices), self.arch, self._latents)
        if self._labels is None:
            return latents
        labels = self._labels[indices].to(self.device, non_blocking=True)
        return with_labels(latents, labels, self.arch)

    def _draw_uniforms(self, batch_size: int) -> Tensor:
        shape = (batch_size, self.gan.uniforms_per_image)
        return torch.rand(shape, generator=self._uniforms, device=self.device)

    def _can_graph(self, batch_size: int) -> bool:
        """Return true if a CUDA graph can do the step; an epoch's smaller last batch needs none."""
        return (
            self.device.type == "cuda"
            and self.use_cuda_graphs
            and self.ranks.count == 1
            and not self.arch.dropout  # a graph does not capture its random stream
            and batch_size == self.settings.batch_size
        )

    def _graphed_step(
        self, pixels: Tensor, latents: Tensor, uniforms: Tensor, with_penalty: bool
    ) -> GraphedStep | None:
        """Return the step as a CUDA graph; ``None`` from now on if it cannot be captured."""
        if with_penalty not in self._graphs:
            try:
                step = GraphedStep(self.gan, pixels, latents, uniforms, with_penalty)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
                self.warn(
                    f"steps cannot be captured as a CUDA graph on this GPU ({reason});"
                    " training continues without graphs, which is slower."
                )
                self.use_cuda_graphs, self._graphs = False, {}
                return None
            self._graphs[with_penalty] = step
        return self._graphs[with_penalty]

    def _eager_step(
        self,
        pixels: Tensor,
        latents: Tensor,
        batch_fraction: float,
        uniforms: Tensor,
        with_penalty: bool,
    ) -> Tensor:
        """Do a training step kernel by kernel; dropout draws from a stream of its own."""
        real = to_tensor(pixels, signed=True)
        step = partial(train_step, self.gan, real, latents, batch_fraction, uniforms, with_penalty)
        if not self.arch.dropout:
            return step()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            stream = torch.cuda if self.device.type == "cuda" else torch.random
            stream.set_rng_state(self._dropout)
            statistics = step()
            self._dropout = stream.get_rng_state()
        return statistics

    def _seed_streams(self, rollbacks: int) -> None:
        """Seed the streams of the epochs; after each rollback they differ."""
        streams = {"order": self._order, "latents": self._latents, "chances": self._uniforms}
        for name, stream in streams.items():
            stream.manual_seed(self._seed(f"{name}.{rollbacks}"))

    def _seed(self, name: str) -> int:
        return derive_seed(self.settings.seed, f"train.{name}")


def _progress_note(number: int, statistics: NDArray[np.float32]) -> str:
    loss_d, loss_g, d_x, d_g_z1, d_g_z2 = statistics.mean(axis=0)
    return (
        f"epoch {number}  Loss_D {loss_d:.3f}  Loss_G {loss_g:.3f}"
        f"  D(x) {d_x:.3f}  D(G(z)) {d_g_z1:.3f} / {d_g_z2:.3f}"
    )
