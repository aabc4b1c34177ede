"""Training as one call: validation, monitoring, checkpoints, results and saved models."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.events import Events
from atelier.core.settings import TrainSettings
from atelier.gan.augment import augmentation_preview
from atelier.gan.diagnostics import TrainingMonitor
from atelier.gan.distributed import Runtime, single_process
from atelier.gan.fine_tuning import PretrainedNetworks
from atelier.gan.history import EpochResult, History
from atelier.gan.length import training_warnings
from atelier.gan.networks import Generator
from atelier.gan.resume_rollback import Resumption, follow_rank0, train_epochs
from atelier.gan.serialization import save_network
from atelier.gan.trainer import Trainer
from atelier.metrics.validation import build_validation

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

    def on_ready(self, trainer: Trainer) -> None:
        """Receive the trainer before the first step, after a checkpoint was restored."""

    def on_epoch(self, epoch: EpochResult) -> None:
        """Receive the result of an epoch; also of those that an earlier attempt finished."""


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        trainer: after the last step; its ``gan`` has both networks.
        history: statistics of all steps.
    """

    trainer: Trainer
    history: History

    def generator(self) -> Generator:
        """Return the generator to sample from: the best or the last one, by ``select_model``."""
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
            the fastest device. Only rank 0 reports events and has a history.
        resumption: where to save checkpoints; by default they are removed at the end.
        events: receives progress, samples, results of epochs and warnings.

    Raises:
        AtelierError: no network fits the images, memory is too small, or the training diverged too
            often.
        KeyboardInterrupt: a stop was requested; a checkpoint is saved if there is a folder for it.
    """
    runtime, events = runtime or single_process(), events or TrainingEvents()
    if runtime.ranks.number > 0:
        trainer = Trainer(settings, images, runtime.device, runtime.ranks, labels)
        follow_rank0(trainer)
        return TrainResult(trainer, History())
    trainer = build_trainer(
        settings, images, labels=labels, held_out=held_out, runtime=runtime, events=events
    )
    return TrainResult(trainer, run_training(trainer, events, resumption))


def build_trainer(
    settings: TrainSettings,
    images: Images,
    *,
    labels: NDArray[np.int64] | None = None,
    held_out: Images | None = None,
    runtime: Runtime,
    events: TrainingEvents,
    pretrained: PretrainedNetworks | None = None,
) -> Trainer:
    """Build the networks of rank 0 and the measurement of epochs; see :func:`train`.

    Args:
        settings: the ``train`` section.
        images: as for :func:`train`, like the next three arguments.
        labels: as for :func:`train`.
        held_out: as for :func:`train`.
        runtime: this process and its device.
        events: receives the first samples and warnings.
        pretrained: networks to start from, for ``train.start_from``. Other ranks receive them
            before the first step.
    """
    held_out = images[:0] if held_out is None else held_out
    kid = build_validation(settings, images, held_out, runtime.device, events.warn)
    trainer = Trainer(settings, images, runtime.device, runtime.ranks, labels, kid, events)
    if pretrained:
        trainer.start_from(pretrained)
    for warning in training_warnings(settings, len(images)):
        events.warn(warning)
    augmented = augmentation_preview(settings, images)
    events.on_start(trainer.samples(), trainer.columns, augmented)
    return trainer


def run_training(
    trainer: Trainer, events: TrainingEvents, resumption: Resumption | None = None
) -> History:
    """Train to the end, check each epoch, and return the statistics; see :func:`train`."""
    settings, history = trainer.settings, History()
    length = (settings.epochs, trainer.steps_per_epoch, settings.steps)
    monitor = TrainingMonitor(settings.loss, *(() if settings.start_from else length))
    resumption = resumption or Resumption()
    for epoch in train_epochs(trainer, resumption, lambda: events.on_ready(trainer)):
        history.add(epoch)
        for warning in monitor.check(epoch):
            events.warn(warning)
        events.on_epoch(epoch)
    return history


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
