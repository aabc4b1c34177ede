"""A training that is killed and started again, and ends with the bytes of one that was not."""

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from atelier.checkpoints import Checkpoints
from atelier.errors import AtelierError
from atelier.gan.epoch import AstrayError, Epoch
from atelier.gan.training import Training
from atelier.gan.weights import save_network
from atelier.progress import Report, silent

ROLLBACKS = 3
"""How often a training that goes astray is taken back before it is given up."""


def train_on(
    training: Training,
    checkpoints: Checkpoints,
    stop_asked: Callable[[], bool] = lambda: False,
    report: Report = silent,
    seconds: float = 60.0,
    warn: Callable[[str], None] = lambda trouble: None,
) -> Iterator[Epoch]:
    """Train to the end from the last checkpoint, or from the start where there is none.

    Epochs that an earlier attempt finished are yielded again as they were, so that whoever
    listens hears of all of them. A training that goes astray is taken back to the start of its
    epoch, wherever that was noticed, so that it too repeats itself to the bit, and goes on with
    other latents, at most :data:`ROLLBACKS` times.

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
    yield from _resumed(training, checkpoints)
    training.agree()
    while training.epochs_done < training.settings.epochs:
        try:
            yield from _attempt(training, checkpoints, stop_asked, report, seconds)
        except AstrayError as error:
            _take_back(training, checkpoints, error)
            training.agree()
            warn(f"{error} Taken back to step {training.steps_done}, to go on with other latents.")


def follow(training: Training) -> None:
    """Train as one of several processes, but not the first, which alone saves and says."""
    training.agree()
    while training.epochs_done < training.settings.epochs:
        try:
            for _ in training.run():
                pass
        except AstrayError:
            training.agree()


def _attempt(
    training: Training,
    checkpoints: Checkpoints,
    stop_asked: Callable[[], bool],
    report: Report,
    seconds: float,
) -> Iterator[Epoch]:
    saved = time.monotonic()

    def save(milestone: bool = False) -> None:
        nonlocal saved
        checkpoints.save(training.steps_done, training.state(), milestone)
        saved = time.monotonic()

    def after_step() -> None:
        asked = stop_asked()
        if (asked or time.monotonic() - saved > seconds) and training.is_sound():
            save()  # what is astray is not kept; the epoch's end will say so
        if asked:
            raise KeyboardInterrupt("saved")

    for epoch in training.run(report, after_step):
        checkpoints.keep(_name(epoch.number), _to_tensors(epoch))
        save(milestone=True)
        yield epoch


def _take_back(training: Training, checkpoints: Checkpoints, error: AstrayError) -> None:
    """Stand where the epoch began, with other random streams from there on."""
    rollbacks, epochs = training.rollbacks + 1, training.epochs_done
    state = checkpoints.back()
    if state is not None and int(state["epochs_done"]) == epochs:
        training.restore(state)
    elif epochs == 0:
        training.begin()
    else:
        raise AtelierError(f"{error} Its checkpoints are damaged, so it cannot be taken back.")
    if rollbacks > ROLLBACKS:
        file = checkpoints.folder / "generator.safetensors"
        save_network(training.gan.artist, training.arch, file)
        raise AtelierError(
            f"{error} It was taken back {ROLLBACKS} times; the generator of step"
            f" {training.steps_done}, the last good one, is {file}."
        )
    training.draw_anew(rollbacks)


def _resumed(training: Training, checkpoints: Checkpoints) -> list[Epoch]:
    """Restore the last checkpoint; return the epochs before it. Nothing, where one is damaged."""
    state = checkpoints.latest()
    if state is None:
        return []
    parts = [checkpoints.kept(_name(n)) for n in range(1, int(state["epochs_done"]) + 1)]
    epochs = [_from_tensors(part) for part in parts if part is not None]
    if len(epochs) < len(parts):
        return []
    training.restore(state)
    if not training.is_sound():
        raise AtelierError(
            f"the checkpoints in {checkpoints.folder} hold weights that are not finite numbers;"
            " delete that folder to train from the start."
        )
    return epochs


def _name(epoch: int) -> str:
    return f"epoch-{epoch:06d}"


def _to_tensors(epoch: Epoch) -> dict[str, Tensor]:
    between = {f"between.{step}": torch.tensor(p) for step, p in epoch.between.items()}
    return between | {
        "number": torch.tensor(epoch.number),
        "first_step": torch.tensor(epoch.first_step),
        "images": torch.tensor(epoch.images),
        "statistics": torch.tensor(epoch.statistics),
        "samples": torch.tensor(epoch.samples),
        # Empty, where there is none.
        "quality": torch.tensor(
            [epoch.quality] if epoch.quality is not None else [], dtype=torch.float64
        ),
    }


def _from_tensors(tensors: Mapping[str, Tensor]) -> Epoch:
    start = "between."
    between: dict[int, np.ndarray] = {
        int(name.removeprefix(start)): tensor.numpy()
        for name, tensor in tensors.items()
        if name.startswith(start)
    }
    return Epoch(
        number=int(tensors["number"]),
        first_step=int(tensors["first_step"]),
        images=tensors["images"].numpy(),
        statistics=tensors["statistics"].numpy(),
        samples=tensors["samples"].numpy(),
        between=between,
        quality=next(iter(tensors["quality"].tolist()), None),
    )
