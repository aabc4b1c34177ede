"""The training loop: epochs over shuffled pictures, told to whoever listens."""

import math
import traceback
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.device import float32_matmul_precision
from atelier.core.errors import AtelierError, is_out_of_memory
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.random_streams import derive_seed
from atelier.core.settings import TrainSettings
from atelier.gan.cuda_graph import GraphedStep
from atelier.gan.distributed import SINGLE_PROCESS, Ranks
from atelier.gan.generate import draw_latents, generate, random_latents, with_labels
from atelier.gan.history import DivergedError, EpochResult
from atelier.gan.loader import BatchLoader, labels_by_row, to_unit_range, validate_labels
from atelier.gan.model import build_gan, lr_factor
from atelier.gan.networks import Architecture, Generator
from atelier.gan.step import STATISTICS, train_step

QualityFn = Callable[[NDArray[np.uint8]], float]
"""Pictures uint8 [N, H, W, C] to a number, such as their KID; less is better."""


class BestModel:
    """What is known of the quality of epochs so far.

    Attributes:
        last: the quality of the epoch that was measured last; ``nan`` before.
        best: the least so far; ``inf`` before.
        best_epoch: the number of its epoch; 0 before.
    """

    def __init__(self) -> None:
        self.last, self.best, self.best_epoch = math.nan, math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def add(self, epoch: int, quality: float, generator: Generator) -> None:
        """Take in an epoch's quality; the generator is copied where there was none better."""
        self.last = quality
        if quality < self.best:
            self.best, self.best_epoch = quality, epoch
            self._weights = {k: tensor.clone() for k, tensor in generator.state_dict().items()}

    def best_generator(self, arch: Architecture) -> Generator:
        """Build the generator of the best epoch, in evaluation mode, on the CPU.

        Raises:
            ValueError: nothing was measured.
        """
        if not self._weights:
            raise ValueError("no epoch was measured")
        generator = Generator(arch)
        generator.load_state_dict(self._weights)
        return generator.eval()

    def state(self) -> dict[str, Tensor]:
        """All of it, by name."""
        numbers = torch.tensor([self.last, self.best, self.best_epoch], dtype=torch.float64)
        return {"numbers": numbers} | {f"best.{key}": t for key, t in self._weights.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, to the bit."""
        self.last, self.best, epoch = state["numbers"].tolist()
        self.best_epoch, start = int(epoch), "best."
        self._weights = {
            key.removeprefix(start): tensor
            for key, tensor in state.items()
            if key.startswith(start)
        }


class Trainer:
    """A GAN, the pictures it learns from, and every random stream it draws from.

    Two trainings with equal settings and pictures give the same bytes on one CPU with one number
    of threads: each stream (weights, order of the pictures, latents, fixed latents, dropout, the
    chances of augmentation) has a state of its own, seeded from ``settings.seed``. :meth:`state`
    holds all that is to come, so that a training that goes on from it gives the bytes of one that
    never stopped.

    Attributes:
        best_model: the quality of its epochs, and the generator of the best.
        use_cuda_graphs: whether steps on a GPU are recorded as a CUDA graph; else each kernel is started
            by the host, with the same numbers.
        warn: told in a sentence what hinders the training but does not end it.
    """

    use_cuda_graphs = True
    warn: Callable[[str], None] = staticmethod(lambda trouble: None)

    def __init__(
        self,
        settings: TrainSettings,
        pixels: NDArray[np.uint8],
        device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
        labels: NDArray[np.int64] | None = None,
        judge: QualityFn | None = None,
    ) -> None:
        """Prepare a training.

        Args:
            settings: the ``train`` section.
            pixels: uint8 [N, H, W, C], square; may be memory-mapped.
            device: where to train.
            ranks: the processes that share the training; all draw the same batches and latents,
                and work on a part of them.
            labels: the class of each picture, int64 [N], from 0; used where ``settings`` are
                ``conditional``.
            judge: says how good pictures are, every ``settings.measure_every`` epochs and after
                the last.

        Raises:
            AtelierError: the pictures do not fit a network, or have no classes where these are
                asked for.
        """
        height, width, channels = pixels.shape[1:]
        if height != width:
            raise AtelierError(f"the pictures are {width}x{height}, but the DCGAN needs squares.")
        self.settings = settings
        self.device = device
        self.ranks = ranks
        self._labels = validate_labels(settings, labels)
        classes = 0 if self._labels is None else int(self._labels.max()) + 1
        self.arch = Architecture.from_settings(settings, height, channels, classes)
        if ranks.count > 1 and self.arch.dropout:
            raise AtelierError(
                "dropout is drawn by each process on its own, so that several would not train as"
                " one does; set runtime.launcher to python, or train.dropout to 0."
            )
        self._loader = BatchLoader(pixels, device)
        rows = labels_by_row(settings.fixed_samples, classes)
        self._fixed_latents = draw_latents(
            settings.fixed_samples, self.arch, self._seed("fixed_latents"), rows
        )
        self._quality_fn = judge if settings.kid_every_epochs else None
        self._kid_latents = draw_latents(
            settings.kid_samples, self.arch, self._seed("measured_latents")
        )
        self.reset()

    def reset(self) -> None:
        """Stand at the start, with fresh weights and streams."""
        settings, device = self.settings, self.device
        self.gan = build_gan(self.arch, settings, device, self.ranks)
        self._graphs: dict[bool, GraphedStep] = {}  # by whether the step penalises
        self._order = torch.Generator()
        self._latents = torch.Generator(device)
        # Dropout draws from torch's global stream of the device; this is its state between steps.
        dropout = torch.Generator(device).manual_seed(self._seed("dropout"))
        self._dropout = dropout.get_state()
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
        """Pictures in a row of :meth:`samples` for it to be of one class; 0: there are none."""
        return self.settings.fixed_samples // self.arch.classes if self.arch.classes else 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; the last one, which may be the only one, may be smaller."""
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
        """Train epoch by epoch, from wherever the training stands.

        Args:
            report: counts steps.
            after_step: called after every step, when :meth:`state` may be taken.

        Raises:
            AstrayError: losses or weights are no longer finite.
        """
        total = self.total_steps
        while self.epochs_done < self.total_epochs:
            if not self._step_rows:
                self._permutation = torch.randperm(len(self._loader), generator=self._order)
            last = total - self.epochs_done * self.steps_per_epoch
            parts = self._permutation.split(self.settings.batch_size)[len(self._step_rows) : last]
            batches = self._loader.batches([self.ranks.shard(part) for part in parts])
            for part, pixels in zip(parts, batches, strict=True):
                self._step_rows.append(self._step_or_suggest_batch(pixels, part))
                every = self.settings.sample_every_steps
                if every and self.steps_done % every == 0:
                    self._step_samples[self.steps_done] = self.samples()
                report(Progress(self.steps_done, total))
                after_step()
            epoch = self._end_epoch()
            report(Progress(self.steps_done, total, _progress_note(epoch.number, epoch.statistics)))
            yield epoch

    def samples(self) -> NDArray[np.uint8]:
        """Pictures of the fixed latents as the generator stands, uint8 [N, H, W, C]."""
        return generate(self.gan.eval_generator, self._fixed_latents)

    def is_finite(self) -> bool:
        """Whether all losses and weights are finite; this waits for the device."""
        seen = [
            *self._step_rows,
            *self.gan.generator.parameters(),
            *self.gan.discriminator.parameters(),
        ]
        return bool(torch.stack([tensor.isfinite().all() for tensor in seen]).all())

    def reseed(self, rollbacks: int) -> None:
        """Go on, from an epoch's start, with other latents and another order of the pictures.

        So what went astray need not do so again.
        """
        self.rollbacks = rollbacks
        self._seed_streams(rollbacks)

    def _seed_streams(self, rollbacks: int) -> None:
        """Seed the streams that every epoch draws from; each rollback has streams of its own."""
        streams = {"order": self._order, "latents": self._latents, "chances": self._uniforms}
        for name, stream in streams.items():
            stream.manual_seed(self._seed(f"{name}.{rollbacks}"))

    def _seed(self, name: str) -> int:
        return derive_seed(self.settings.seed, f"train.{name}")

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the training depends on, between two steps."""
        state = {
            "epochs_done": torch.tensor(self.epochs_done),
            "rollbacks": torch.tensor(self.rollbacks),
            "permutation": self._permutation,
            "rows": torch.stack(self._step_rows)
            if self._step_rows
            else torch.empty(0, len(STATISTICS)),
            "stream.order": self._order.get_state(),
            "stream.latents": self._latents.get_state(),
            "stream.dropout": self._dropout,
            "stream.chances": self._uniforms.get_state(),
        }
        state |= {f"measured.{name}": t for name, t in self.best_model.state().items()}
        between = {f"between.{step}": torch.tensor(p) for step, p in self._step_samples.items()}
        return state | between | self.gan.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Stand where the training stood that ``state`` was taken of."""
        self.epochs_done = int(state["epochs_done"])
        self.rollbacks = int(state["rollbacks"])
        self._permutation = state["permutation"]
        self._step_rows = list(state["rows"].to(self.device))
        self._order.set_state(state["stream.order"])
        self._latents.set_state(state["stream.latents"])
        self._dropout = state["stream.dropout"]
        self._uniforms.set_state(state["stream.chances"])
        start = "measured."
        self.best_model.restore(
            {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
        )
        start = "between."
        self._step_samples = {
            int(name.removeprefix(start)): pictures.numpy()
            for name, pictures in state.items()
            if name.startswith(start)
        }
        self.gan.restore(state)
        self._graphs = {}  # they write to memory that is the optimizers' no more

    def broadcast_state(self) -> None:
        """Stand, in every process that shares the training, where the first one stands."""
        if self.ranks.count > 1:
            self.restore(self.ranks.broadcast_state(self.state()))

    def _end_epoch(self) -> EpochResult:
        # The one place where the device is waited for.
        if not self.is_finite():
            raise DivergedError(
                f"the training went astray in epoch {self.epochs_done + 1}: its losses or weights"
                f" are no numbers any more; make train.lr smaller than {self.settings.lr:g}."
            )
        statistics = torch.stack(self._step_rows).cpu().numpy()
        number, size = self.epochs_done + 1, self.settings.batch_size
        batches = self._permutation.split(size)[: len(self._step_rows)]
        images_before = self.epochs_done * len(self._loader)
        seen = np.cumsum([len(batch) for batch in batches]) + images_before
        first_step = self.epochs_done * self.steps_per_epoch
        samples, quality = self.samples(), self._quality(number)
        epoch = EpochResult(
            number,
            first_step,
            seen,
            statistics,
            samples,
            self._step_samples,
            quality,
            images_before,
        )
        self.epochs_done, self._step_rows, self._step_samples = number, [], {}
        return epoch

    def _quality(self, epoch: int) -> float | None:
        """Ask the judge, where it is time to."""
        settings = self.settings
        if self._quality_fn is None:
            return None
        if epoch % settings.kid_every_epochs and epoch < self.total_epochs:
            return None
        quality = self._quality_fn(generate(self.gan.eval_generator, self._kid_latents))
        self.best_model.add(epoch, quality, self.gan.eval_generator)
        return quality

    def _step_or_suggest_batch(self, pixels: Tensor, part: Tensor) -> Tensor:
        """Do a step, or say which batch would fit into memory."""
        try:
            return self._step(pixels, part)
        except (MemoryError, RuntimeError) as error:
            # Several processes could not try other batches without one another.
            if self.ranks.count > 1 or not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
        fits = len(part) // 2
        while fits > 1 and not self._fits(pixels[:fits], part[:fits]):
            fits //= 2
        raise AtelierError(
            f"a batch of {len(part)} pictures does not fit into memory; "
            + (
                f"set train.batch_size to {fits}, which does."
                if fits > 1
                else "make train.generator_channels and train.discriminator_channels smaller."
            )
        )

    def _fits(self, pixels: Tensor, part: Tensor) -> bool:
        """Try a step whose outcome is not wanted any more."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self._step(pixels, part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)
            return False
        return True

    def _step(self, pixels: Tensor, part: Tensor) -> Tensor:
        """Learn from this process's part of a batch.

        Args:
            pixels: of this process, uint8 [B', H, W, C].
            part: the indices of the whole batch's pictures, int64 [B].
        """
        settings, count = self.settings, len(part)
        latents = self.ranks.shard(self._draw_latents(part))
        chances = self.ranks.shard(self._draw_uniforms(count))
        penalised = settings.has_penalty and self.steps_done % settings.penalty_interval == 0
        if settings.schedule != "constant":
            factor = lr_factor(settings.schedule, self.steps_done, self.total_steps)
            self.gan.set_lr_factor(factor)
        given = (pixels, latents, chances)
        with float32_matmul_precision(self.gan.precision, self.device):
            if self._can_graph(count) and (recorded := self._graphed_step(*given, penalised)):
                return recorded(*given)
            return self._eager_step(*given, penalised, len(pixels) / count)

    def _draw_latents(self, part: Tensor) -> Tensor:
        """Latents for a batch; with the labels of its real pictures, where there are classes."""
        latents = random_latents(len(part), self.arch, self._latents)
        if self._labels is None:
            return latents
        labels = self._labels[part].to(self.device, non_blocking=True)
        return with_labels(latents, labels, self.arch)

    def _draw_uniforms(self, count: int) -> Tensor:
        shape = (count, self.gan.uniforms_per_image)
        return torch.rand(shape, generator=self._uniforms, device=self.device)

    def _can_graph(self, batch_size: int) -> bool:
        """Whether the step is one to record: not an epoch's last, smaller one."""
        return (
            self.device.type == "cuda"
            and self.use_cuda_graphs
            and self.ranks.count == 1
            and not self.arch.dropout  # its random stream is not part of the recording
            and batch_size == self.settings.batch_size
        )

    def _graphed_step(
        self, pixels: Tensor, latents: Tensor, chances: Tensor, penalised: bool
    ) -> GraphedStep | None:
        """The step's recording; ``None``, now and later, where it cannot be recorded."""
        if penalised not in self._graphs:
            try:
                step = GraphedStep(self.gan, pixels, latents, chances, penalised)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
                self.warn(f"steps cannot be recorded on this GPU ({reason}), and take longer")
                self.use_cuda_graphs, self._graphs = False, {}
                return None
            self._graphs[penalised] = step
        return self._graphs[penalised]

    def _eager_step(
        self, pixels: Tensor, latents: Tensor, chances: Tensor, penalised: bool, share: float
    ) -> Tensor:
        given = (self.gan, to_unit_range(pixels), latents, share, chances, penalised)
        if not self.arch.dropout:
            return train_step(*given)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            stream = torch.cuda if self.device.type == "cuda" else torch.random
            stream.set_rng_state(self._dropout)
            statistics = train_step(*given)
            self._dropout = stream.get_rng_state()
        return statistics


def _progress_note(number: int, statistics: NDArray[np.float32]) -> str:
    loss_d, loss_g, d_x, d_g_z1, d_g_z2 = statistics.mean(axis=0)
    return (
        f"epoch {number}  Loss_D {loss_d:.3f}  Loss_G {loss_g:.3f}"
        f"  D(x) {d_x:.3f}  D(G(z)) {d_g_z1:.3f} / {d_g_z2:.3f}"
    )
