"""Headers of NumPy files, validated before memory is allocated for their arrays."""

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
    """Read and validate an array's header; the stream is then at the values.

    Args:
        stream: an array in NumPy's format (``.npy``), at its start.
        size: total bytes of the header and the values.

    Returns:
        The shape, whether the order is column-major, and the type.

    Raises:
        ValueError: the header is damaged, does not fit ``size``, or declares Python objects.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"its values are in format {version}")
    try:
        shape, column_major, dtype = _READERS[version](stream)
    except Exception as error:  # NumPy's parser raises various errors for a damaged header
        reason = str(error).partition("\n")[0]
        raise ValueError(f"its header is damaged: {reason:.80}") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    if min(shape, default=0) < 0 or stream.tell() + dtype.itemsize * math.prod(shape) != size:
        raise ValueError(f"its header claims {dtype} {list(shape)}, which does not fit its size")
    return shape, column_major, dtype


def read_array(path: Path) -> NDArray[Any]:
    """Read a ``.npy`` file after validating its header against its size.

    Raises:
        NotRegularError: the path is not a regular file.
        ValueError: the file is damaged or holds Python objects.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        read_header(file, os.fstat(file.fileno()).st_size)
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
