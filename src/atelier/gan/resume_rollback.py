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
        seconds: interval of checkpoints within an epoch; each epoch ends with one.
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
    while trainer.epochs_done < trainer.total_epochs:
        try:
            yield from _train_until_diverged(trainer, checkpoints, resumption)
        except DivergedError as error:
            _roll_back(trainer, checkpoints, error, keep=resumption.checkpoints is not None)
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
            raise KeyboardInterrupt("saved" if resumption.checkpoints else "")

    for epoch in trainer.run(after_step):
        checkpoints.save_part(_part_name(epoch.number), _to_tensors(epoch))
        save(epoch_end=True)
        yield epoch


def _roll_back(
    trainer: Trainer, checkpoints: Checkpoints, error: DivergedError, keep: bool
) -> None:
    """Restore the start of the epoch and seed new random streams.

    After too many rollbacks, the last finite generator is saved if ``keep`` is true.
    """
    rollbacks, epochs = trainer.rollbacks + 1, trainer.epochs_done
    state = checkpoints.roll_back()
    if state is not None and int(state["epochs_done"]) == epochs:
        trainer.restore(state)
    elif epochs == 0:
        trainer.reset()
    else:
        raise AtelierError(f"{error} Its checkpoints are damaged, so it cannot be rolled back.")
    if rollbacks > MAX_ROLLBACKS:
        reason = f"{error} It was rolled back {MAX_ROLLBACKS} times"
        if not keep:
            raise AtelierError(f"{reason}.")
        file = checkpoints.folder / "generator.safetensors"
        save_network(trainer.gan.eval_generator, trainer.arch, file)
        raise AtelierError(
            f"{reason}; the generator of step {trainer.steps_done}, the last finite one, is {file}."
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
