"""Pictures chosen by name: files of a folder, or words that stand for made pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.errors import AtelierError
from atelier.images.picture import Unreadable, read_picture

Pixels = NDArray[np.uint8]


def read_named(
    names: Sequence[str],
    folder: Path,
    max_megapixels: int,
    made: Mapping[str, Callable[[], Mapping[str, Pixels]]],
) -> dict[str, Pixels]:
    """Gather RGB pictures, uint8 [H, W, 3], under the names that files of them may bear.

    Args:
        names: files of ``folder``, or words of ``made``.
        folder: where files are.
        max_megapixels: a larger picture is refused.
        made: words that stand for pictures made on demand, several by name.

    Raises:
        AtelierError: there is no such file, or it is no picture.
    """
    found: dict[str, Pixels] = {}
    for name in names:
        if name in made:
            found |= made[name]()
            continue
        try:
            found[Path(name).stem] = read_picture(folder / name, "rgb", max_megapixels)
        except FileNotFoundError:
            words = " or ".join(made)
            raise AtelierError(
                f"there is no picture {folder / name}; put it there, or choose {words}."
            ) from None
        except Unreadable as error:
            raise AtelierError(f"{folder / name} cannot be read ({error}).") from None
    return found
