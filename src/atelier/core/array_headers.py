"""Headers of NumPy's files, checked before memory is allocated for what they claim."""

import math
import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.files import open_regular

_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_header(stream: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array and leave the stream at its values.

    Args:
        stream: of an array in NumPy's format (``.npy``), at its start.
        size: bytes of the header and the values together.

    Returns:
        The shape, whether columns come first, and the type.

    Raises:
        ValueError: the header is damaged, or claims another size, or Python objects.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"its values are in format {version}")
    try:
        shape, column_major, dtype = _READERS[version](stream)
    except Exception as error:  # NumPy's parser raises whatever a damaged header drives it into
        reason = str(error).partition("\n")[0]
        raise ValueError(f"its header is damaged: {reason:.80}") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if min(shape, default=0) < 0 or stream.tell() + dtype.itemsize * math.prod(shape) != size:
        raise ValueError(f"its header claims {dtype} {list(shape)}, which does not fit its size")
    return shape, column_major, dtype


def read_array(path: Path) -> NDArray[Any]:
    """Read a ``.npy`` file whose header fits its size.

    Raises:
        NotRegularError: the path names something else than a file.
        ValueError: the file is damaged or holds Python objects.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        read_header(file, os.fstat(file.fileno()).st_size)
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
