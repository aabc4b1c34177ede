"""Pictures chosen by name: files of a folder, or words that stand for made pictures."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.images.original import Original, read_original
from atelier.images.picture import Unreadable, quiet_pillow

Pixels = NDArray[np.uint8]


def read_named(
    names: Sequence[str],
    folder: Path,
    max_megapixels: int,
    made: Mapping[str, Callable[[], Mapping[str, Pixels]]],
) -> dict[str, Original]:
    """Gather pictures under the names that files of them may bear.

    Args:
        names: files of ``folder``, or words of ``made``.
        folder: where files are.
        max_megapixels: a larger picture is refused.
        made: words that stand for pictures made on demand, uint8 [H, W, 3] RGB by name.

    Raises:
        AtelierError: there is no such file, or it is no picture.
    """
    found: dict[str, Original] = {}
    for name in names:
        if name in made:
            new = {key: Original(pixels) for key, pixels in made[name]().items()}
        else:
            new = {Path(name).stem: _read(folder / name, made, max_megapixels)}
        twice = sorted(found.keys() & new.keys())
        if twice:
            raise AtelierError(
                f"two pictures are called {twice[0]}, so that their files would overwrite each"
                " other; rename one."
            )
        found |= new
    return found


def _read(file: Path, made: Collection[str], max_megapixels: int) -> Original:
    try:
        with quiet_pillow():
            return read_original(file, max_megapixels)
    except FileNotFoundError:
        choice = f", or choose {' or '.join(made)}" if made else ""
        raise AtelierError(f"there is no picture {file}; check the path{choice}.") from None
    except Unreadable as error:
        raise AtelierError(f"{file} cannot be read ({error}).") from None
