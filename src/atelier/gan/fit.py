"""Resumable training: checkpoints, rollback after divergence, and the saved models."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.checkpoints import Checkpoints
from atelier.core.device import choose_device
from atelier.core.errors import AtelierError
from atelier.core.events import Events
from atelier.core.settings import TrainSettings
from atelier.core.state import flatten, section
from atelier.gan.augment import augmentation_preview
from atelier.gan.diagnostics import TrainingMonitor
from atelier.gan.distributed import SINGLE_PROCESS, Runtime
from atelier.gan.history import DivergedError, EpochResult, History
from atelier.gan.length import training_warnings
from atelier.gan.networks import Generator
from atelier.gan.serialization import save_network
from atelier.gan.trainer import Trainer
from atelier.metrics.validation import build_validation

MAX_ROLLBACKS = 3
"""Rollbacks after divergence before the training fails."""

Images = NDArray[np.uint8]


class TrainingEvents(Events):
    """Observer of a training."""

    def on_start(self, samples: Images, columns: int, augmented: Images | None) -> None:
        """Receive images before the first step.

        Args:
            samples: of the untrained generator, uint8 [N, H, W, C].
            columns: images of one class; 0 without classes.
            augmented: uint8 [rows, columns, H, W, C], in each row an image and its augmentations;
                ``None`` without augmentation.
        """

    def on_epoch(self, epoch: EpochResult) -> None:
        """Receive the result of an epoch; also of those that an earlier attempt finished."""


@dataclass(frozen=True)
class Resumption:
    """Where a training saves its state, and when.

    Attributes:
        checkpoints: of a training with the same settings, images and code; by default in a
            temporary folder, for rollbacks only.
        stop_requested: called after each step; if it returns true, a checkpoint is saved and the
            training stops.
        seconds: interval of checkpoints within an epoch; each epoch ends with one.
    """

    checkpoints: Checkpoints | None = None
    stop_requested: Callable[[], bool] = lambda: False
    seconds: float = 60.0


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        trainer: after the last step; its ``gan`` has both networks.
        history: statistics of all steps.
    """

    trainer: Trainer
    history: History

    @property
    def generator(self) -> Generator:
        """The generator to sample from: the best or the last one, as ``select_model`` says."""
        trainer = self.trainer
        if trainer.settings.select_model == "best" and trainer.best_model.best_epoch:
            return trainer.best_model.best_generator(trainer.arch)
        return trainer.gan.eval_generator


def train(
    settings: TrainSettings,
    images: Images,
    *,
    labels: NDArray[np.int64] | None = None,
    held_out: Images | None = None,
    runtime: Runtime | None = None,
    resumption: Resumption | None = None,
    events: TrainingEvents | None = None,
) -> TrainResult:
    """Train a GAN; an interrupted training with saved checkpoints continues.

    Args:
        settings: the ``train`` section.
        images: uint8 [N, H, W, C], square; may be memory-mapped.
        labels: the class of each image, int64 [N], from 0; needed for ``train.conditional``.
        held_out: validation images, uint8 [M, H, W, C]; needed for ``train.kid_every_epochs``.
        runtime: from :func:`atelier.gan.distributed.init_distributed`; by default one process on
            the fastest device.
        resumption: where to save checkpoints; by default they are removed at the end.
        events: receives progress, samples, results of epochs and warnings.

    Raises:
        AtelierError: no network fits the images, memory is too small, or the training diverged too
            often.
        KeyboardInterrupt: a stop was requested, and a checkpoint is saved.
    """
    events, resumption = events or TrainingEvents(), resumption or Resumption()
    runtime = runtime or Runtime(SINGLE_PROCESS, choose_device("auto"))
    held_out = images[:0] if held_out is None else held_out
    kid = build_validation(settings, images, held_out, runtime.device, events.warn)
    trainer = Trainer(settings, images, runtime.device, runtime.ranks, labels, kid, events)
    history, steps = History(), trainer.steps_per_epoch
    monitor = TrainingMonitor(settings.loss, settings.epochs, steps, settings.steps)
    for warning in training_warnings(settings, len(images)):
        events.warn(warning)
    augmented = augmentation_preview(settings, images)
    events.on_start(trainer.samples(), trainer.columns, augmented)
    with ExitStack() as stack:
        if resumption.checkpoints is None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            resumption = replace(resumption, checkpoints=Checkpoints(folder))
        for epoch in train_epochs(trainer, resumption):
            history.add(epoch)
            for warning in monitor.check(epoch):
                events.warn(warning)
            events.on_epoch(epoch)
    return TrainResult(trainer, history)


def train_epochs(trainer: Trainer, resumption: Resumption) -> Iterator[EpochResult]:
    """Train to the last epoch, from the last checkpoint if there is one.

    Epochs finished by an earlier attempt are yielded again, unchanged, so that every attempt yields
    all epochs. If the training diverges, it is rolled back to the start of the epoch and continues
    with other random numbers, at most :data:`MAX_ROLLBACKS` times. Since it always restarts at the
    start of an epoch, a resumed training is bit-identical to an uninterrupted one.

    Args:
        trainer: at step 0.
        resumption: with checkpoints.

    Raises:
        KeyboardInterrupt: a stop was requested, and a checkpoint is saved.
        AtelierError: the training diverged too often (the last finite generator is saved), or a
            checkpoint holds weights that are not finite.
    """
    checkpoints = resumption.checkpoints
    if checkpoints is None:
        raise ValueError("a training needs checkpoints to roll back to")
    yield from _resume(trainer, checkpoints)
    trainer.broadcast_state()
    while trainer.epochs_done < trainer.total_epochs:
        try:
            yield from _train_until_diverged(trainer, checkpoints, resumption)
        except DivergedError as error:
            _roll_back(trainer, checkpoints, error)
            trainer.broadcast_state()
            trainer.events.warn(
                f"{error} Rolled back to step {trainer.steps_done} to continue with new latents."
            )


def follow_rank0(trainer: Trainer) -> None:
    """Train as a rank above 0; only rank 0 saves checkpoints and logs."""
    trainer.broadcast_state()
    while trainer.epochs_done < trainer.total_epochs:
        try:
            for _ in trainer.run():
                pass
        except DivergedError:
            trainer.broadcast_state()


def save_models(trainer: Trainer, folder: Path) -> None:
    """Write the generator for later stages, and the discriminator.

    If epochs were scored, the generators of the last and the best epoch are also written, as
    ``last.safetensors`` and ``best.safetensors`` with their epoch and KID as metadata.
    ``train.select_model`` decides which of them becomes ``generator.safetensors``.
    """
    arch, best = trainer.arch, trainer.best_model
    generator_file = folder / "generator.safetensors"
    save_network(trainer.gan.discriminator, arch, folder / "discriminator.safetensors")
    if not best.best_epoch:
        save_network(trainer.gan.eval_generator, arch, generator_file)
        return
    metadata = {"epoch": trainer.epochs_done, "kid": best.last}
    save_network(trainer.gan.eval_generator, arch, folder / "last.safetensors", metadata)
    metadata = {"epoch": best.best_epoch, "kid": best.best}
    save_network(best.best_generator(arch), arch, folder / "best.safetensors", metadata)
    shutil.copy(folder / f"{trainer.settings.select_model}.safetensors", generator_file)


def _train_until_diverged(
    trainer: Trainer, checkpoints: Checkpoints, resumption: Resumption
) -> Iterator[EpochResult]:
    """Train, save checkpoints, and yield epochs; raise DivergedError if losses are not finite."""
    last_save = time.monotonic()

    def save(epoch_end: bool = False) -> None:
        nonlocal last_save
        checkpoints.save(trainer.steps_done, trainer.state(), epoch_end)
        last_save = time.monotonic()

    def after_step() -> None:
        stop = resumption.stop_requested()
        is_due = stop or time.monotonic() - last_save > resumption.seconds
        # A diverged state is not saved; the end of the epoch raises DivergedError.
        if is_due and trainer.is_finite():
            save()
        if stop:
            raise KeyboardInterrupt("saved")

    for epoch in trainer.run(after_step):
        checkpoints.save_part(_part_name(epoch.number), _to_tensors(epoch))
        save(epoch_end=True)
        yield epoch


def _roll_back(trainer: Trainer, checkpoints: Checkpoints, error: DivergedError) -> None:
    """Restore the start of the epoch and seed new random streams."""
    rollbacks, epochs = trainer.rollbacks + 1, trainer.epochs_done
    state = checkpoints.roll_back()
    if state is not None and int(state["epochs_done"]) == epochs:
        trainer.restore(state)
    elif epochs == 0:
        trainer.reset()
    else:
        raise AtelierError(f"{error} Its checkpoints are damaged, so it cannot be rolled back.")
    if rollbacks > MAX_ROLLBACKS:
        file = checkpoints.folder / "generator.safetensors"
        save_network(trainer.gan.eval_generator, trainer.arch, file)
        raise AtelierError(
            f"{error} It was rolled back {MAX_ROLLBACKS} times; the generator of step"
            f" {trainer.steps_done}, the last finite one, is {file}."
        )
    trainer.reseed(rollbacks)


def _resume(trainer: Trainer, checkpoints: Checkpoints) -> list[EpochResult]:
    """Restore the last checkpoint and return the epochs before it.

    If an epoch is missing or damaged, nothing is restored and no epoch is returned.
    """
    state = checkpoints.latest()
    if state is None:
        return []
    parts = [checkpoints.load_part(_part_name(n)) for n in range(1, int(state["epochs_done"]) + 1)]
    epochs = [_from_tensors(part) for part in parts if part is not None]
    if len(epochs) < len(parts):
        return []
    trainer.restore(state)
    if not trainer.is_finite():
        raise AtelierError(
            f"the checkpoints in {checkpoints.folder} hold weights that are not finite numbers;"
            " delete that folder to train from the start."
        )
    return epochs


def _part_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


def _to_tensors(epoch: EpochResult) -> dict[str, Tensor]:
    # Empty if the epoch was not scored.
    quality = [epoch.quality] if epoch.quality is not None else []
    return flatten(
        {
            "number": torch.tensor(epoch.number),
            "first_step": torch.tensor(epoch.first_step),
            "images": torch.tensor(epoch.images),
            "images_before": torch.tensor(epoch.images_before),
            "statistics": torch.tensor(epoch.statistics),
            "samples": torch.tensor(epoch.samples),
            "between": {step: torch.tensor(images) for step, images in epoch.step_samples.items()},
            "quality": torch.tensor(quality, dtype=torch.float64),
        }
    )


def _from_tensors(tensors: Mapping[str, Tensor]) -> EpochResult:
    between = section(tensors, "between")
    return EpochResult(
        number=int(tensors["number"]),
        first_step=int(tensors["first_step"]),
        images=tensors["images"].numpy(),
        statistics=tensors["statistics"].numpy(),
        samples=tensors["samples"].numpy(),
        step_samples={int(step): images.numpy() for step, images in between.items()},
        quality=next(iter(tensors["quality"].tolist()), None),
        images_before=int(tensors["images_before"]),
    )
