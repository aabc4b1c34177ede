"""A training that is killed and started again, and ends with the bytes of one that was not."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.core.progress import ProgressCallback, silent
from atelier.gan.history import DivergedError, EpochResult
from atelier.gan.serialization import save_network
from atelier.gan.trainer import Trainer


def save_models(training: Trainer, folder: Path) -> None:
    """Write the generator that later stages use, and the discriminator.

    Where epochs were measured, the generators of the last and of the best epoch stand beside it as
    ``last.safetensors`` and ``best.safetensors``, marked with their epoch and its KID;
    ``train.select_model`` says which of them is ``generator.safetensors``.
    """
    arch, measured, last = training.arch, training.best_model, folder / "last.safetensors"
    generator = folder / "generator.safetensors"
    save_network(training.gan.discriminator, arch, folder / "discriminator.safetensors")
    if not measured.best_epoch:
        save_network(training.gan.eval_generator, arch, generator)
        return
    marks = {"epoch": training.epochs_done, "kid": measured.last}
    save_network(training.gan.eval_generator, arch, last, marks)
    marks = {"epoch": measured.best_epoch, "kid": measured.best}
    save_network(measured.best_generator(arch), arch, folder / "best.safetensors", marks)
    shutil.copy(folder / f"{training.settings.select_model}.safetensors", generator)


MAX_ROLLBACKS = 3
"""How often a training that goes astray is taken back before it is given up."""


def train(
    training: Trainer,
    checkpoints: Checkpoints,
    stop_asked: Callable[[], bool] = lambda: False,
    report: ProgressCallback = silent,
    seconds: float = 60.0,
    warn: Callable[[str], None] = lambda trouble: None,
) -> Iterator[EpochResult]:
    """Train to the end from the last checkpoint, or from the start where there is none.

    Epochs that an earlier attempt finished are yielded again as they were, so that whoever
    listens hears of all of them. A training that goes astray is taken back to the start of its
    epoch, wherever that was noticed, so that it too repeats itself to the bit, and goes on with
    other latents, at most :data:`MAX_ROLLBACKS` times.

    Args:
        training: not yet begun.
        checkpoints: of a training with the same settings, pictures and code.
        stop_asked: asked after every step; when it says so, a checkpoint is saved at once.
        report: counts steps.
        seconds: between two checkpoints within an epoch; every epoch ends with one.
        warn: told of every time that the training is taken back, and of what else hinders it.

    Raises:
        KeyboardInterrupt: it was asked to stop, and saved.
        AtelierError: it went astray once too often; the last good generator is saved. Or a
            checkpoint holds weights that are not finite.
    """
    training.warn = warn
    yield from _resume(training, checkpoints)
    training.broadcast_state()
    while training.epochs_done < training.total_epochs:
        try:
            yield from _train_until_diverged(training, checkpoints, stop_asked, report, seconds)
        except DivergedError as error:
            _roll_back(training, checkpoints, error)
            training.broadcast_state()
            warn(f"{error} Taken back to step {training.steps_done}, to go on with other latents.")


def follow_rank0(training: Trainer) -> None:
    """Train as one of several processes, but not the first, which alone saves and says."""
    training.broadcast_state()
    while training.epochs_done < training.total_epochs:
        try:
            for _ in training.run():
                pass
        except DivergedError:
            training.broadcast_state()


def _train_until_diverged(
    training: Trainer,
    checkpoints: Checkpoints,
    stop_asked: Callable[[], bool],
    report: ProgressCallback,
    seconds: float,
) -> Iterator[EpochResult]:
    saved = time.monotonic()

    def save(milestone: bool = False) -> None:
        nonlocal saved
        checkpoints.save(training.steps_done, training.state(), milestone)
        saved = time.monotonic()

    def after_step() -> None:
        asked = stop_asked()
        if (asked or time.monotonic() - saved > seconds) and training.is_finite():
            save()  # what is astray is not kept; the epoch's end will say so
        if asked:
            raise KeyboardInterrupt("saved")

    for epoch in training.run(report, after_step):
        checkpoints.save_part(_name(epoch.number), _to_tensors(epoch))
        save(milestone=True)
        yield epoch


def _roll_back(training: Trainer, checkpoints: Checkpoints, error: DivergedError) -> None:
    """Stand where the epoch began, with other random streams from there on."""
    rollbacks, epochs = training.rollbacks + 1, training.epochs_done
    state = checkpoints.roll_back()
    if state is not None and int(state["epochs_done"]) == epochs:
        training.restore(state)
    elif epochs == 0:
        training.reset()
    else:
        raise AtelierError(f"{error} Its checkpoints are damaged, so it cannot be taken back.")
    if rollbacks > MAX_ROLLBACKS:
        file = checkpoints.folder / "generator.safetensors"
        save_network(training.gan.eval_generator, training.arch, file)
        raise AtelierError(
            f"{error} It was taken back {MAX_ROLLBACKS} times; the generator of step"
            f" {training.steps_done}, the last good one, is {file}."
        )
    training.reseed(rollbacks)


def _resume(training: Trainer, checkpoints: Checkpoints) -> list[EpochResult]:
    """Restore the last checkpoint; return the epochs before it. Nothing, where one is damaged."""
    state = checkpoints.latest()
    if state is None:
        return []
    parts = [checkpoints.load_part(_name(n)) for n in range(1, int(state["epochs_done"]) + 1)]
    epochs = [_from_tensors(part) for part in parts if part is not None]
    if len(epochs) < len(parts):
        return []
    training.restore(state)
    if not training.is_finite():
        raise AtelierError(
            f"the checkpoints in {checkpoints.folder} hold weights that are not finite numbers;"
            " delete that folder to train from the start."
        )
    return epochs


def _name(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


def _to_tensors(epoch: EpochResult) -> dict[str, Tensor]:
    between = {f"between.{step}": torch.tensor(p) for step, p in epoch.step_samples.items()}
    return between | {
        "number": torch.tensor(epoch.number),
        "first_step": torch.tensor(epoch.first_step),
        "images": torch.tensor(epoch.images),
        "images_before": torch.tensor(epoch.images_before),
        "statistics": torch.tensor(epoch.statistics),
        "samples": torch.tensor(epoch.samples),
        # Empty, where there is none.
        "quality": torch.tensor(
            [epoch.quality] if epoch.quality is not None else [], dtype=torch.float64
        ),
    }


def _from_tensors(tensors: Mapping[str, Tensor]) -> EpochResult:
    start = "between."
    between: dict[int, np.ndarray] = {
        int(name.removeprefix(start)): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
    return EpochResult(
        number=int(tensors["number"]),
        first_step=int(tensors["first_step"]),
        images=tensors["images"].numpy(),
        statistics=tensors["statistics"].numpy(),
        samples=tensors["samples"].numpy(),
        step_samples=between,
        quality=next(iter(tensors["quality"].tolist()), None),
        images_before=int(tensors["images_before"]),
    )
