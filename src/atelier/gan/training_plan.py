"""Size of a training and estimate of its duration, from a short measurement."""

import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atelier.core.device import Precision
from atelier.core.errors import AtelierError, is_out_of_memory
from atelier.core.events import Events
from atelier.gan.generation import generate, random_latents, with_labels
from atelier.gan.model import build_gan
from atelier.gan.step import Batch
from atelier.gan.step_runner import StepRunner
from atelier.gan.streams import RandomStreams
from atelier.gan.trainer import Trainer
from atelier.metrics.validation import ValidationKID

MIN_ESTIMATED_STEPS = 200
"""Remaining steps below which the duration is not estimated."""

# Limits of the measurement: seconds, and a share of the training. It needs two steps at least.
_MAX_SECONDS, _MAX_SHARE = 2.0, 0.02
_SMALL_BATCH = 2
_GENERATED = 4  # images of the measured generation


@dataclass(frozen=True)
class TrainingPlan:
    """Size of a training, and an estimate of its duration.

    Attributes:
        images: number of training images.
        image_size: their height and width in pixels.
        channels: 3 for color, 1 for gray images.
        steps: steps of the whole training.
        steps_done: steps of earlier attempts.
        epochs: epochs of the whole training; ``train.steps`` may cut the last one short.
        batch_size: images of a step.
        device: device of this process.
        precision: of the networks' products.
        processes: number of processes.
        generator_parameters: number of the generator's weights.
        discriminator_parameters: number of the discriminator's weights.
        seconds: estimated duration of the remaining steps; ``None`` if there are fewer than
            :data:`MIN_ESTIMATED_STEPS`, or if memory ran out.
    """

    images: int
    image_size: int
    channels: int
    steps: int
    steps_done: int
    epochs: int
    batch_size: int
    device: torch.device
    precision: Precision
    processes: int
    generator_parameters: int
    discriminator_parameters: int
    seconds: float | None


def plan_training(trainer: Trainer) -> TrainingPlan:
    """Return the size of a training and its estimated duration; the trainer does not change.

    The measurement takes about two seconds, or 2% of the training if that is less. It takes longer
    if two steps with two images do.

    Args:
        trainer: before its first step, or restored from a checkpoint.
    """
    return TrainingPlan(
        images=trainer.images,
        image_size=trainer.arch.image_size,
        channels=trainer.arch.channels,
        steps=trainer.total_steps,
        steps_done=trainer.steps_done,
        epochs=trainer.total_epochs,
        batch_size=trainer.settings.batch_size,
        device=trainer.device,
        precision=trainer.gan.precision,
        processes=trainer.ranks.count,
        generator_parameters=_parameter_count(trainer.gan.generator),
        discriminator_parameters=_parameter_count(trainer.gan.discriminator),
        seconds=estimate_seconds(trainer),
    )


def estimate_seconds(trainer: Trainer) -> float | None:
    """Return the approximate seconds of the remaining steps, samples and measured epochs.

    Steps of copies of both networks are timed, with random numbers of their own. Checkpoints,
    files and the communication of several processes are not counted.

    Returns:
        ``None`` if fewer than :data:`MIN_ESTIMATED_STEPS` remain, or if the memory is too small
        for copies.
    """
    steps = trainer.total_steps - trainer.steps_done
    if steps < MIN_ESTIMATED_STEPS:
        return None
    try:
        return _measure(trainer, steps)
    except (AtelierError, MemoryError, RuntimeError) as error:
        # Without the copies the training may fit. If it does not, its first step reports that.
        if isinstance(error, AtelierError) or is_out_of_memory(error):
            return None
        raise
    finally:
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()  # of the copies


def _measure(trainer: Trainer, steps: int) -> float:
    copies = _Copies(trainer)
    seconds = steps * copies.step_seconds(steps)
    return seconds + copies.generation_seconds() * _generated(trainer) + _scoring(trainer)


class _Copies:
    """Fresh copies of both networks, whose steps are timed."""

    def __init__(self, trainer: Trainer) -> None:
        # Fused steps may be compiled, which takes longer than the measurement; plain ones are
        # slower, so that the estimate is too high rather than too low.
        settings, device = trainer.settings.model_copy(update={"fused": "none"}), trainer.device
        self._batch_size = -(-settings.batch_size // trainer.ranks.count)
        self._gan = build_gan(trainer.arch, settings, device)
        self._streams = RandomStreams(settings.seed, device)
        self._runner = StepRunner(self._streams, device, Events())
        self._runner.use_cuda_graphs = trainer.runner.use_cuda_graphs
        # Kinds of steps: without gradient penalties or with them, and their share of all steps.
        penalties = settings.has_penalty / settings.penalty_interval
        shares = {False: 1 - penalties, True: penalties}
        self._shares = {kind: share for kind, share in shares.items() if share}

    def step_seconds(self, steps: int) -> float:
        """Return the seconds of a step of this process.

        The batch grows as fast as the time limit allows. A step with more images takes less time
        per image, so that the time of a small one is an upper bound for a larger one.

        Args:
            steps: number of steps to estimate, which limits the number of measured ones.
        """
        begin, size = time.perf_counter(), min(_SMALL_BATCH, self._batch_size)
        seconds = self._time(size, 3, min, limit=_MAX_SECONDS)
        slope = seconds / size
        while size < self._batch_size:
            left = _MAX_SECONDS - (time.perf_counter() - begin)
            runs = 2 * len(self._shares)  # the first one of each kind allocates memory
            larger = min(self._batch_size, int(left / runs / seconds * size))
            if larger < 2 * size:
                return seconds + slope * (self._batch_size - size)
            before, size = (size, seconds), larger
            seconds = self._time(size, 1, min)
            slope = max(0.0, seconds - before[1]) / (size - before[0])
        left = min(_MAX_SECONDS, _MAX_SHARE * steps * seconds) - (time.perf_counter() - begin)
        count = int(left / seconds / len(self._shares))
        return self._time(size, count, statistics.median, is_warm=True) if count > 1 else seconds

    def generation_seconds(self) -> float:
        """Return the seconds to generate an image of the fixed latents."""
        latents = self._latents(_GENERATED)
        generate(self._gan.eval_generator, latents)
        begin = time.perf_counter()
        generate(self._gan.eval_generator, latents)
        return (time.perf_counter() - begin) / _GENERATED

    def _time(
        self,
        size: int,
        count: int,
        average: Callable[[Iterable[float]], float],
        is_warm: bool = False,
        limit: float = math.inf,
    ) -> float:
        """Return the seconds of a step with ``size`` images.

        Args:
            size: number of images.
            count: number of timed steps of each kind.
            average: of their times. Other programs delay some steps: ``min`` and the median ignore
                these.
            is_warm: leave out a first step that allocates memory.
            limit: seconds after which only the steps begin without which nothing is known: two
                steps of the first kind, as the first step of all allocates memory, and one of the
                other.
        """
        total, needed = 0.0, 1 if is_warm else 2
        for with_penalty, share in self._shares.items():
            batch, begin = self._batch(size, with_penalty), time.perf_counter()
            times: list[float] = []
            while len(times) < count + (not is_warm):
                if len(times) >= needed:
                    end = time.perf_counter() - begin + times[-1]  # of one more step
                    if end > limit / len(self._shares):
                        break
                times.append(self._run(batch))
            total += share * average(times if is_warm else times[1:] or times)
            needed = 1
        return total

    def _run(self, batch: Batch) -> float:
        """Return the seconds of a step."""
        begin = time.perf_counter()
        self._runner.run(self._gan, batch).cpu()  # blocks until the device is done
        return time.perf_counter() - begin

    def _batch(self, size: int, with_penalty: bool) -> Batch:
        arch, uniforms, device = (
            self._gan.arch,
            self._streams.uniforms,
            self._streams.uniforms.device,
        )
        shape = (size, arch.image_size, arch.image_size, arch.channels)
        real = torch.randint(256, shape, generator=uniforms, dtype=torch.uint8, device=device)
        numbers = (size, self._gan.uniforms_per_image)
        return Batch(
            real,
            self._latents(size),
            torch.rand(numbers, generator=uniforms, device=device),
            with_penalty=with_penalty,
        )

    def _latents(self, count: int) -> Tensor:
        arch, stream = self._gan.arch, self._streams.latents
        latents = random_latents(count, arch, stream)
        if not arch.classes:
            return latents
        labels = torch.arange(count, device=stream.device) % arch.classes
        return with_labels(latents, labels, arch)


def _generated(trainer: Trainer) -> int:
    """Return the number of images that the remaining epochs generate."""
    settings = trainer.settings
    remaining = range(trainer.epochs_done + 1, trainer.total_epochs + 1)
    samples = sum(map(trainer.is_sampled, remaining))
    if settings.sample_every_steps:
        samples += (trainer.total_steps - trainer.steps_done) // settings.sample_every_steps
    return samples * settings.fixed_samples + _scored_images(trainer)


def _scoring(trainer: Trainer) -> float:
    """Return the seconds to extract features of the generated images of measured epochs."""
    kid = trainer.quality_fn
    rate = kid.seconds_per_image if isinstance(kid, ValidationKID) else 0.0
    return rate * _scored_images(trainer)


def _scored_images(trainer: Trainer) -> int:
    """Return the number of generated images that the remaining epochs are measured by."""
    remaining = range(trainer.epochs_done + 1, trainer.total_epochs + 1)
    return sum(map(trainer.is_scored, remaining)) * trainer.settings.kid_samples


def _parameter_count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
