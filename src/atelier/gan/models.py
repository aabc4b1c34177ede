"""The networks that a training leaves in a folder."""

import shutil
from pathlib import Path

from atelier.gan.training import Training
from atelier.gan.weights import save_network


def save_models(training: Training, folder: Path) -> None:
    """Write the generator that later stages use, and the discriminator.

    Where epochs were measured, the generators of the last and of the best epoch stand beside it as
    ``last.safetensors`` and ``best.safetensors``, marked with their epoch and its KID;
    ``train.keep`` says which of them is ``generator.safetensors``.
    """
    arch, measured, last = training.arch, training.measured, folder / "last.safetensors"
    generator = folder / "generator.safetensors"
    save_network(training.gan.discriminator, arch, folder / "discriminator.safetensors")
    if not measured.best_epoch:
        save_network(training.gan.artist, arch, generator)
        return
    marks = {"epoch": training.epochs_done, "kid": measured.last}
    save_network(training.gan.artist, arch, last, marks)
    marks = {"epoch": measured.best_epoch, "kid": measured.best}
    save_network(measured.best_generator(arch), arch, folder / "best.safetensors", marks)
    shutil.copy(folder / f"{training.settings.keep}.safetensors", generator)
