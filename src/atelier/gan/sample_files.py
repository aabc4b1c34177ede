"""Files of generated samples: one for each epoch, and one for each sampled step in it."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.array_headers import read_array, read_header
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError, open_regular

Images = NDArray[np.uint8]


def save_samples(
    epoch: int, samples: Images, step_samples: Mapping[int, Images], folder: Path
) -> None:
    """Write the samples of an epoch, uint8 [N, H, W, C], as ``epoch_0001.npy``, unless N is 0.

    Those of steps within the epoch are written as ``step_00000010.npy``.
    """
    if len(samples):
        np.save(folder / f"epoch_{epoch:04d}.npy", samples, allow_pickle=False)
    for step, images in step_samples.items():
        np.save(folder / f"step_{step:08d}.npy", images, allow_pickle=False)


def save_augmented(images: Images, folder: Path) -> None:
    """Write the result of :func:`atelier.gan.augment.augmentation_preview` as ``augmented.npy``."""
    np.save(folder / "augmented.npy", images, allow_pickle=False)


def epoch_files(folder: Path) -> dict[int, Path]:
    """Return the files of samples by epoch, in order.

    Raises:
        AtelierError: there is none, or the folder is missing.
    """
    files = _files(folder, "epoch")
    if not files:
        raise AtelierError(
            f"no samples such as epoch_0001.npy in {folder.name}/; run the train stage first."
        )
    return files


def step_files(folder: Path) -> dict[int, Path]:
    """Return the files of samples by step, in order."""
    return _files(folder, "step")


def load_samples(file: Path) -> Images:
    """Load samples, uint8 [N, H, W, C], N >= 1, H = W, C 1 or 3.

    Raises:
        AtelierError: the file is missing or damaged, or holds other arrays.
    """
    shape_of_samples(file)
    return _read(file)


def shape_of_samples(file: Path) -> tuple[int, ...]:
    """Return the shape of samples, from the file's header.

    Raises:
        AtelierError: as for :func:`load_samples`.
    """
    with _errors_as_sentences(file), open_regular(file) as stream:
        shape, _, dtype = read_header(stream, os.fstat(stream.fileno()).st_size)
    square = len(shape) == 4 and shape[1] == shape[2] and shape[3] in (1, 3)
    if dtype != np.uint8 or not square or not shape[0]:
        raise AtelierError(
            f"{file.name} holds {dtype} {shape}, but samples are square images, uint8"
            " [N, H, W, 1 or 3]; run the train stage again."
        )
    return shape


def load_epochs(folder: Path) -> Mapping[int, Images]:
    """Load the samples of all epochs, by epoch.

    Raises:
        AtelierError: a file is damaged, or there is none.
    """
    return {epoch: load_samples(file) for epoch, file in epoch_files(folder).items()}


def load_augmented(folder: Path) -> Images | None:
    """Load what :func:`save_augmented` wrote, or ``None`` if there is no such file.

    Returns:
        uint8 [rows, columns, H, W, C], in each row an image and its augmentations.

    Raises:
        AtelierError: the file is damaged, or holds another array.
    """
    file = folder / "augmented.npy"
    if not file.is_file():
        return None
    images = _read(file)
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[4] not in (1, 3):
        raise AtelierError(
            f"{file.name} holds {images.dtype} {images.shape}, but augmented images are uint8"
            " [rows, columns, H, W, 1 or 3]; run the train stage again."
        )
    return images


def _files(folder: Path, unit: str) -> dict[int, Path]:
    names = ((re.fullmatch(rf"{unit}_(\d+)\.npy", path.name), path) for path in folder.glob("*"))
    return dict(sorted((int(match[1]), path) for match, path in names if match))


def _read(file: Path) -> NDArray[np.uint8]:
    with _errors_as_sentences(file):
        return read_array(file)


@contextmanager
def _errors_as_sentences(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, NotRegularError) as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0].rstrip(".")
        raise AtelierError(
            f"{file.name} cannot be read as samples ({reason}); run the train stage again."
        ) from None
