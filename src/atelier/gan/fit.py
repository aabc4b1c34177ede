"""Training as one call: validation, monitoring, checkpoints, results and saved models."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from atelier.core.checkpoints import Checkpoints
from atelier.core.device import choose_device
from atelier.core.events import Events
from atelier.core.settings import TrainSettings
from atelier.gan.augment import augmentation_preview
from atelier.gan.diagnostics import TrainingMonitor
from atelier.gan.distributed import SINGLE_PROCESS, Runtime
from atelier.gan.history import EpochResult, History
from atelier.gan.length import training_warnings
from atelier.gan.networks import Generator
from atelier.gan.resume_rollback import Resumption, train_epochs
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
