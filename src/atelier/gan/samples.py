"""Pictures of the fixed latents, as a training leaves them in a folder."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


def load_epochs(folder: Path) -> dict[int, Pictures]:
    """Every epoch's pictures that :func:`save_samples` wrote, by the epoch's number."""
    return {
        int(file.stem.removeprefix("epoch_")): np.load(file, allow_pickle=False)
        for file in sorted(folder.glob("epoch_*.npy"))
    }
