"""Extension of a finished training, whose state becomes a checkpoint of a longer one."""

from dataclasses import replace

import torch
from torch import Tensor

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import NotExtendableError
from atelier.core.state import flatten, section
from atelier.gan.history import EpochResult
from atelier.gan.resume_rollback import load_epochs, save_epoch
from atelier.gan.trainer import Trainer

_DAMAGED = "the saved state of the finished training is damaged"


def extend(trainer: Trainer, finished: Checkpoints, checkpoints: Checkpoints) -> int:
    """Copy the state of a finished training to the checkpoints of a longer one.

    The longer training resumes from there. Its result has the same bytes as that of a training
    that did not end in between.

    Args:
        trainer: of the longer training, at step 0.
        finished: of a training with the same images, code and settings, except ``train.epochs``
            and ``train.steps``.
        checkpoints: of the longer training, without a state.

    Returns:
        The steps of the finished training.

    Raises:
        NotExtendableError: the training is shorter, its learning rates depend on its length, or
            the saved state is damaged.
    """
    schedule, total = trainer.settings.schedule, trainer.total_steps
    if schedule != "constant":
        raise NotExtendableError(
            f"train.schedule is {schedule}, with learning rates that depend on the number of steps"
        )
    state, epochs = _load(finished)
    steps = sum(len(epoch.statistics) for epoch in epochs) + len(state["rows"])
    if steps > total:
        raise NotExtendableError(f"it has {total:,} steps, and the finished one has {steps:,}")
    epoch_start = _epoch_start(trainer, finished, steps)
    if steps < total and not len(state["rows"]):
        state, epochs = _without_end(trainer, state, epochs)
    for epoch in epochs:
        save_epoch(checkpoints, epoch)
    if epoch_start is not None:
        number = int(epoch_start["epochs_done"]) * trainer.steps_per_epoch
        checkpoints.save(number, epoch_start, epoch_end=True)
    checkpoints.save(steps, state, epoch_end=steps % trainer.steps_per_epoch == 0)
    return steps


def _load(finished: Checkpoints) -> tuple[dict[str, Tensor], list[EpochResult]]:
    """Load the last state and the results of all epochs before it."""
    state = finished.latest()
    epochs = None if state is None else load_epochs(finished, int(state["epochs_done"]))
    if state is None or epochs is None:
        raise NotExtendableError(_DAMAGED)
    return state, epochs


def _epoch_start(trainer: Trainer, finished: Checkpoints, steps: int) -> dict[str, Tensor] | None:
    """Load the start of the epoch within which the training ended, for a rollback.

    Returns:
        ``None`` if it ended with an epoch, or in the first one, which a rollback builds anew.
    """
    epochs, steps_in_epoch = divmod(steps, trainer.steps_per_epoch)
    if not (epochs and steps_in_epoch):
        return None
    state = finished.latest_epoch_end()
    if state is None or int(state["epochs_done"]) != epochs:
        raise NotExtendableError(_DAMAGED)
    return state


def _without_end(
    trainer: Trainer, state: dict[str, Tensor], epochs: list[EpochResult]
) -> tuple[dict[str, Tensor], list[EpochResult]]:
    """Undo what only the end of the finished training did.

    It scored and sampled the generator although a longer training does not, and ``train.steps``
    may have cut the last epoch short.
    """
    *before, last = epochs
    if not trainer.is_sampled(last.number):
        last = replace(last, samples=last.samples[:0])
    is_cut_short = len(last.statistics) < trainer.steps_per_epoch
    if last.quality is not None and (is_cut_short or not trainer.is_scored(last.number)):
        scores = section(state, "scheduled")
        if not scores:
            raise NotExtendableError(_DAMAGED)
        state = _without(state, "measured") | flatten({"measured": scores})
        last = replace(last, quality=None)
    state = _without(state, "scheduled")
    if not is_cut_short:
        return state, [*before, last]
    between = {step: torch.tensor(images) for step, images in last.step_samples.items()}
    current_epoch = {
        "epochs_done": torch.tensor(last.number - 1),
        "rows": torch.tensor(last.statistics),
        "between": between,
    }
    return state | flatten(current_epoch), before


def _without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return a state without a section."""
    return {key: tensor for key, tensor in state.items() if not key.startswith(f"{name}.")}
