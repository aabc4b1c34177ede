"""Training loop: yields one result per epoch."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.core.events import Events
from atelier.core.progress import Progress
from atelier.core.settings import TrainSettings
from atelier.core.state import flatten, section
from atelier.gan.distributed import SINGLE_PROCESS, Ranks
from atelier.gan.fine_tuning import PretrainedNetworks, require_same_architecture
from atelier.gan.generation import draw_latents, generate, random_latents, with_labels
from atelier.gan.history import BestModel, DivergedError, EpochResult
from atelier.gan.loader import BatchLoader, labels_by_row, validate_labels
from atelier.gan.lr_schedule import lr_factor
from atelier.gan.model import build_gan
from atelier.gan.networks import Architecture
from atelier.gan.step import STATISTICS, Batch
from atelier.gan.step_runner import StepRunner
from atelier.gan.streams import RandomStreams, stream_seed

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
        events: receives the progress after each step, and warnings.
        quality_fn: scores generated images; ``None`` if no epoch is scored.
        runner: does the steps; its ``use_cuda_graphs`` may be set to false.
    """

    def __init__(
        self,
        settings: TrainSettings,
        pixels: NDArray[np.uint8],
        device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
        labels: NDArray[np.int64] | None = None,
        quality_fn: QualityFn | None = None,
        events: Events | None = None,
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
            events: receives the progress after each step, and warnings.

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
        if self.arch.dropout:
            _reject_dropout(device, ranks)
        self._loader = BatchLoader(pixels, device)
        fixed_labels = labels_by_row(settings.fixed_samples, classes)
        self._fixed_latents = draw_latents(
            settings.fixed_samples,
            self.arch,
            stream_seed(settings.seed, "fixed_latents"),
            fixed_labels,
        )
        self.quality_fn = quality_fn if settings.kid_every_epochs else None
        self._kid_latents = draw_latents(
            settings.kid_samples, self.arch, stream_seed(settings.seed, "measured_latents")
        )
        self.events = events or Events()
        self._streams = RandomStreams(settings.seed, device)
        self.runner = StepRunner(self._streams, device, self.events)
        self._pretrained: PretrainedNetworks | None = None
        self.reset()

    def start_from(self, pretrained: PretrainedNetworks) -> None:
        """Replace the random weights, also those of later calls of :meth:`reset`.

        The generator and its moving average both start with the pretrained generator.

        Args:
            pretrained: networks of an earlier training.

        Raises:
            AtelierError: they have another architecture.
        """
        require_same_architecture(pretrained.arch, self.arch)
        self._pretrained = pretrained
        self.reset()

    def reset(self) -> None:
        """Set the first weights, seed the random streams, and start at step 0."""
        self.gan = build_gan(
            self.arch, self.settings, self.device, self.ranks, pretrained=self._pretrained
        )
        self._streams.reset()
        self.runner.discard_graphs()
        self.best_model = BestModel()
        self._scheduled_scores: dict[str, Tensor] = {}
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

    @property
    def images(self) -> int:
        """Number of training images."""
        return len(self._loader)

    def is_scored(self, epoch: int) -> bool:
        """Return true if the generator is scored after this epoch."""
        if self.quality_fn is None:
            return False
        return epoch % self.settings.kid_every_epochs == 0 or epoch == self.total_epochs

    def is_sampled(self, epoch: int) -> bool:
        """Return true if samples are generated after this epoch."""
        return epoch % self.settings.sample_every_epochs == 0 or epoch == self.total_epochs

    def run(self, after_step: Callable[[], None] = lambda: None) -> Iterator[EpochResult]:
        """Train epoch by epoch, from the current step to the last epoch.

        Args:
            after_step: called after each step; it may call :meth:`state`.

        Raises:
            DivergedError: losses or weights are not finite.
        """
        total = self.total_steps
        while self.epochs_done < self.total_epochs:
            if not self._step_rows:
                self._permutation = torch.randperm(len(self._loader), generator=self._streams.order)
            first = len(self._step_rows)
            last = total - self.epochs_done * self.steps_per_epoch
            remaining = self._permutation.split(self.settings.batch_size)[first:last]
            batches = self._loader.batches([self.ranks.shard(indices) for indices in remaining])
            for indices, pixels in zip(remaining, batches, strict=True):
                self._step_rows.append(self.runner.run(self.gan, self._batch(pixels, indices)))
                every = self.settings.sample_every_steps
                if every and self.steps_done % every == 0:
                    self._step_samples[self.steps_done] = self.samples()
                self.events.on_progress(Progress(self.steps_done, total))
                after_step()
            epoch = self._end_epoch()
            note = _progress_note(epoch.number, epoch.statistics)
            self.events.on_progress(Progress(self.steps_done, total, note))
            yield epoch

    def samples(self) -> NDArray[np.uint8]:
        """Generate images of the fixed latents, uint8 [N, H, W, C]."""
        return generate(self.gan.eval_generator, self._fixed_latents)

    def is_finite(self) -> bool:
        """Return true if all losses and weights are finite; blocks until the device is done."""
        rows = [torch.stack(self._step_rows)] if self._step_rows else []
        weights = [*self.gan.generator.parameters(), *self.gan.discriminator.parameters()]
        # A maximum of absolute values is finite only if all values are. On a GPU it takes a few
        # launches, instead of several for each of the thousands of steps of an epoch.
        largest = nn.utils.get_total_norm([*rows, *(w.detach() for w in weights)], math.inf)
        return bool(largest.isfinite())

    def reseed(self, rollbacks: int) -> None:
        """Seed new random streams after a rollback to the start of an epoch.

        Other latents and another order of the images need not diverge again.
        """
        self.rollbacks = rollbacks
        self._streams.reseed(rollbacks)

    def state(self) -> dict[str, Tensor]:
        """Return everything that the remaining training depends on, between two steps."""
        rows = torch.stack(self._step_rows) if self._step_rows else torch.empty(0, len(STATISTICS))
        state = {
            "epochs_done": torch.tensor(self.epochs_done),
            "rollbacks": torch.tensor(self.rollbacks),
            "permutation": self._permutation,
            "rows": rows,
            "stream": self._streams.state(),
            "measured": self.best_model.state(),
            "scheduled": self._scheduled_scores,
            "between": {step: torch.tensor(images) for step, images in self._step_samples.items()},
        }
        return flatten(state) | self.gan.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors returned by :meth:`state`, bit for bit."""
        self.epochs_done = int(state["epochs_done"])
        self.rollbacks = int(state["rollbacks"])
        self._permutation = state["permutation"]
        self._step_rows = list(state["rows"].to(self.device))
        self._streams.restore(section(state, "stream"))
        self.best_model.restore(section(state, "measured"))
        self._scheduled_scores = section(state, "scheduled")
        between = section(state, "between")
        self._step_samples = {int(step): images.numpy() for step, images in between.items()}
        self.gan.restore(state)
        self.runner.discard_graphs()  # they write to the memory of the previous moments

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
            samples=self._epoch_samples(number),
            step_samples=self._step_samples,
            quality=self._quality(number),
            images_before=images_before,
        )
        self.epochs_done, self._step_rows, self._step_samples = number, [], {}
        return epoch

    def _epoch_samples(self, epoch: int) -> NDArray[np.uint8]:
        if self.is_sampled(epoch):
            return self.samples()
        return np.empty(
            (0, self.arch.image_size, self.arch.image_size, self.arch.channels), np.uint8
        )

    def _quality(self, epoch: int) -> float | None:
        """Score the generator, if this epoch is one to score."""
        if self.quality_fn is None or not self.is_scored(epoch):
            return None
        quality = self.quality_fn(generate(self.gan.eval_generator, self._kid_latents))
        is_full = len(self._step_rows) == self.steps_per_epoch
        if epoch % self.settings.kid_every_epochs or not is_full:
            # A longer training does not score the generator here, and extends these scores.
            scores = self.best_model.state()  # a file cannot contain the same tensor twice
            self._scheduled_scores = {name: tensor.clone() for name, tensor in scores.items()}
        self.best_model.add(epoch, quality, self.gan.eval_generator)
        return quality

    def _batch(self, pixels: Tensor, indices: Tensor) -> Batch:
        """Draw the random numbers of a step, and set the learning rates.

        Args:
            pixels: images of this process's shard, uint8 [B', H, W, C].
            indices: indices of the images of the whole batch, int64 [B].
        """
        settings, size = self.settings, len(indices)
        latents = random_latents(size, self.arch, self._streams.latents)
        if self._labels is not None:
            labels = self._labels[indices].to(self.device, non_blocking=True)
            latents = with_labels(latents, labels, self.arch)
        shape = (size, self.gan.uniforms_per_image)
        uniforms = torch.rand(shape, generator=self._streams.uniforms, device=self.device)
        if settings.schedule != "constant":
            factor = lr_factor(settings.schedule, self.steps_done, self.total_steps)
            self.gan.set_lr_factor(factor)
        return Batch(
            pixels,
            self.ranks.shard(latents),
            self.ranks.shard(uniforms),
            fraction=len(pixels) / size,
            with_penalty=settings.has_penalty and self.steps_done % settings.penalty_interval == 0,
        )


def _progress_note(number: int, statistics: NDArray[np.float32]) -> str:
    loss_d, loss_g, d_x, d_g_z1, d_g_z2 = statistics.mean(axis=0)
    return (
        f"epoch {number}  Loss_D {loss_d:.3f}  Loss_G {loss_g:.3f}"
        f"  D(x) {d_x:.3f}  D(G(z)) {d_g_z1:.3f} / {d_g_z2:.3f}"
    )


def _reject_dropout(device: torch.device, ranks: Ranks) -> None:
    """Raise if dropout would not give the result of one process, or could not be resumed."""
    if ranks.count > 1:
        raise AtelierError(
            "each process draws dropout on its own, so several processes would not give the"
            " result of one; set runtime.launcher to python, or train.dropout to 0."
        )
    if device.type == "mps":
        raise AtelierError(
            "the random stream of dropout cannot be saved on the device mps, so a training"
            " could not be resumed; set runtime.device to cpu, or train.dropout to 0."
        )
