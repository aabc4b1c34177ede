"""Resume of a killed training, and rollback after losses or weights are not finite (NaN)."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.core.state import flatten, section
from atelier.gan.history import DivergedError, EpochResult
from atelier.gan.serialization import save_network
from atelier.gan.trainer import Trainer

MAX_ROLLBACKS = 3
"""Rollbacks after divergence before the training fails."""


@dataclass(frozen=True)
class Resumption:
    """Folder and times of checkpoints.

    Attributes:
        checkpoints: of a training with the same settings, images and code; by default in a
            temporary folder, for rollbacks only.
        stop_requested: called after each step; if it returns true, a checkpoint is saved to
            ``checkpoints`` and the training stops.
        seconds: interval of checkpoints. The training ends with one.
    """

    checkpoints: Checkpoints | None = None
    stop_requested: Callable[[], bool] = lambda: False
    seconds: float = 60.0


def train_epochs(
    trainer: Trainer, resumption: Resumption, on_ready: Callable[[], None] = lambda: None
) -> Iterator[EpochResult]:
    """Train to the last epoch, from the last checkpoint if there is one.

    Epochs finished by an earlier attempt are yielded again, unchanged, so that every attempt yields
    all epochs. If the training diverges, it is rolled back to the start of the epoch and continues
    with other random numbers, at most :data:`MAX_ROLLBACKS` times. Since it always restarts at the
    start of an epoch, a resumed training is bit-identical to an uninterrupted one.

    Args:
        trainer: at step 0.
        resumption: where to save checkpoints.
        on_ready: called before the first step, after the last checkpoint was restored.

    Raises:
        KeyboardInterrupt: a stop was requested; the message is ``saved`` if a checkpoint is saved.
        AtelierError: the training diverged too often (the last finite generator is saved), or a
            checkpoint holds weights that are not finite.
    """
    if resumption.checkpoints is None:
        with TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder))
            yield from _train_epochs(trainer, checkpoints, resumption, on_ready)
    else:
        yield from _train_epochs(trainer, resumption.checkpoints, resumption, on_ready)


def _train_epochs(
    trainer: Trainer,
    checkpoints: Checkpoints,
    resumption: Resumption,
    on_ready: Callable[[], None],
) -> Iterator[EpochResult]:
    yield from _resume(trainer, checkpoints)
    if trainer.epochs_done < trainer.total_epochs:
        on_ready()
    trainer.broadcast_state()
    recovery = _Recovery(trainer, checkpoints, resumption.seconds)
    # Without a folder of checkpoints, nothing remains of a training that fails.
    generator_file = checkpoints.folder / "generator.safetensors"
    kept_file = generator_file if resumption.checkpoints else None
    while trainer.epochs_done < trainer.total_epochs:
        try:
            yield from _train_until_diverged(trainer, recovery, resumption)
        except DivergedError as error:
            _roll_back(trainer, recovery, error, kept_file)
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


class _Recovery:
    """State at the start of the epoch in the device's memory, and checkpoints on disk.

    The copy in memory makes a rollback exact although not every epoch ends with a checkpoint. A
    checkpoint within an epoch is preceded by one of the epoch's start, so that a training that was
    resumed can be rolled back as well.
    """

    def __init__(self, trainer: Trainer, checkpoints: Checkpoints, seconds: float) -> None:
        self._trainer, self._checkpoints, self._seconds = trainer, checkpoints, seconds
        self._epoch_start: dict[str, Tensor] | None = None
        self._start_step, self._start_time = 0, 0.0
        self._unsaved_start = False  # of the first epoch, which a rollback builds anew
        self._unsaved_epochs: list[EpochResult] = []
        self._last_save = time.monotonic()

    def is_due(self) -> bool:
        """Return true if the interval of checkpoints has passed."""
        return time.monotonic() - self._last_save > self._seconds

    def end_epoch(self, epoch: EpochResult) -> None:
        """Copy the state; save it if that is due, and after the last epoch."""
        trainer = self._trainer
        if len(epoch.statistics) < trainer.steps_per_epoch:
            # The training ends within this epoch. A longer one may return to the epoch's start.
            self._save_epoch_start()
            save_epoch(self._checkpoints, epoch)
            self._checkpoints.save(trainer.steps_done, trainer.state())
            return
        # The next steps change weights and moments in place.
        self._epoch_start = {name: tensor.clone() for name, tensor in trainer.state().items()}
        self._start_step, self._start_time = trainer.steps_done, time.monotonic()
        self._unsaved_start = True
        self._unsaved_epochs.append(epoch)
        if self.is_due() or trainer.epochs_done == trainer.total_epochs:
            self._save_epoch_start()

    def save(self, stopping: bool) -> None:
        """Save a state within an epoch, unless it is not finite; the end of the epoch raises.

        Unless the training stops, an epoch's start is enough if it is recent. With short epochs
        only one state is then written per interval.
        """
        age = time.monotonic() - self._start_time
        is_start_enough = self._unsaved_start and age < self._seconds / 10 and not stopping
        self._save_epoch_start()
        if not is_start_enough and self._trainer.is_finite():
            self._checkpoints.save(self._trainer.steps_done, self._trainer.state())
        self._last_save = time.monotonic()

    def roll_back(self) -> dict[str, Tensor] | None:
        """Return the start of the epoch, and delete all later states."""
        saved = self._checkpoints.roll_back()
        return self._epoch_start or saved

    def _save_epoch_start(self) -> None:
        for epoch in self._unsaved_epochs:
            save_epoch(self._checkpoints, epoch)
        self._unsaved_epochs = []
        if self._epoch_start is not None and self._unsaved_start:
            self._checkpoints.save(self._start_step, self._epoch_start, epoch_end=True)
            self._unsaved_start = False
        self._last_save = time.monotonic()


def _train_until_diverged(
    trainer: Trainer, recovery: _Recovery, resumption: Resumption
) -> Iterator[EpochResult]:
    """Train, save checkpoints, and yield epochs; raise DivergedError if losses are not finite."""

    def after_step() -> None:
        stop = resumption.stop_requested()
        if stop or recovery.is_due():
            recovery.save(stop)
        if stop:
            raise KeyboardInterrupt("saved" if resumption.checkpoints else "")

    for epoch in trainer.run(after_step):
        recovery.end_epoch(epoch)
        yield epoch


def _roll_back(
    trainer: Trainer, recovery: _Recovery, error: DivergedError, generator_file: Path | None
) -> None:
    """Restore the start of the epoch and seed new random streams.

    After too many rollbacks, the last finite generator is saved if there is a file for it.
    """
    rollbacks, epochs = trainer.rollbacks + 1, trainer.epochs_done
    state = recovery.roll_back()
    if state is not None and int(state["epochs_done"]) == epochs:
        trainer.restore(state)
    elif epochs == 0:
        trainer.reset()
    else:
        raise AtelierError(f"{error} Its checkpoints are damaged, so it cannot be rolled back.")
    if rollbacks > MAX_ROLLBACKS:
        reason = f"{error} It was rolled back {MAX_ROLLBACKS} times"
        if generator_file is None:
            raise AtelierError(f"{reason}.")
        save_network(trainer.gan.eval_generator, trainer.arch, generator_file)
        raise AtelierError(
            f"{reason}; the generator of step {trainer.steps_done}, the last finite one, is"
            f" {generator_file}."
        )
    trainer.reseed(rollbacks)


def _resume(trainer: Trainer, checkpoints: Checkpoints) -> list[EpochResult]:
    """Restore the last checkpoint and return the epochs before it.

    If an epoch is missing or damaged, nothing is restored and no epoch is returned.
    """
    state = checkpoints.latest()
    if state is None:
        return []
    epochs = load_epochs(checkpoints, int(state["epochs_done"]))
    if epochs is None:
        return []
    trainer.restore(state)
    if not trainer.is_finite():
        raise AtelierError(
            f"the checkpoints in {checkpoints.folder} hold weights that are not finite numbers;"
            " delete that folder to train from the start."
        )
    return epochs


def save_epoch(checkpoints: Checkpoints, epoch: EpochResult) -> None:
    """Save the result of an epoch as a part of the checkpoints."""
    checkpoints.save_part(_part_name(epoch.number), _to_tensors(epoch))


def load_epochs(checkpoints: Checkpoints, count: int) -> list[EpochResult] | None:
    """Return the results of the first epochs; ``None`` if one is missing or damaged."""
    parts = [checkpoints.load_part(_part_name(number)) for number in range(1, count + 1)]
    epochs = [_from_tensors(part) for part in parts if part is not None]
    return epochs if len(epochs) == count else None


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
