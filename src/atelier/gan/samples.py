"""Pictures of the fixed latents, as a training leaves them in a folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.array_headers import read_array
from atelier.errors import AtelierError
from atelier.regular_files import NotRegularError

Pictures = NDArray[np.uint8]


def save_samples(
    epoch: int, pictures: Pictures, between: Mapping[int, Pictures], folder: Path
) -> None:
    """Write an epoch's pictures, uint8 [N, H, W, C], as ``epoch_0001.npy``.

    Those of steps in between are ``step_00000010.npy``.
    """
    np.save(folder / f"epoch_{epoch:04d}.npy", pictures, allow_pickle=False)
    for step, shown in between.items():
        np.save(folder / f"step_{step:08d}.npy", shown, allow_pickle=False)


def save_augmented(pictures: Pictures, folder: Path) -> None:
    """Write what :func:`atelier.gan.augmented.augmented` shows, as ``augmented.npy``."""
    np.save(folder / "augmented.npy", pictures, allow_pickle=False)


def load_epochs(folder: Path) -> dict[int, Pictures]:
    """Every epoch's pictures that :func:`save_samples` wrote, by the epoch's number.

    Raises:
        AtelierError: a file is damaged, or holds something else.
    """
    return {
        int(file.stem.removeprefix("epoch_")): _load(file)
        for file in sorted(folder.glob("epoch_*.npy"))
    }


def _load(file: Path) -> Pictures:
    try:
        return read_array(file)
    except (OSError, ValueError, NotRegularError) as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0].rstrip(".")
        raise AtelierError(
            f"{file} cannot be read as samples ({reason}); run the train stage again."
        ) from None
