"""Reader of CIFAR-10's original file, a tar of pickled batches.

The format is described at https://www.cs.toronto.edu/~kriz/cifar.html. Unpickling can run any
program. This unpickler resolves five names only: those under which NumPy pickles arrays. They are
bound to replacements that build uint8 arrays; any other name is rejected before it is imported.
"""

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.data.archives import tar_members
from atelier.data.members import Members

_BATCH = re.compile(r"^(?:\./)?cifar-10-batches-py/(?:data_batch_([1-5])|(test_batch))$")
_BATCH_IMAGES = 10_000
_IMAGE_SHAPE = (3, 32, 32)


def read_cifar10(path: Path, split: Literal["train", "test", "all"]) -> Members:
    """Yield every image of the batches of ``split`` as uint8 [32, 32, 3].

    An image is named by split, label and index, for example ``train/6/00000``. Memory holds one
    batch at a time.

    Raises:
        AtelierError: the archive is damaged, has no batches, or has a batch with other objects
            than arrays, bytes, numbers, lists and dictionaries.
    """
    found = False
    for member, payload in tar_members(path):
        batch = _BATCH.match(member.name)
        if batch is None or not isinstance(payload, bytes):
            continue
        found = True
        part = "test" if batch[2] else "train"
        if split in (part, "all"):
            first = _BATCH_IMAGES * (int(batch[1] or 1) - 1)
            yield from _read_batch(payload, part, first, path.name)
    if not found:
        raise AtelierError(f"{path.name} holds no batches of CIFAR-10; get it again.")


def _read_batch(data: bytes, part: str, first: int, archive: str) -> Members:
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        pixels, labels = batch[b"data"], batch[b"labels"]
        images = pixels.array.reshape(len(labels), *_IMAGE_SHAPE).transpose(0, 2, 3, 1)
        names = [f"{part}/{label:d}/{first + i:05d}" for i, label in enumerate(labels)]
    except Exception as error:
        # A damaged or hostile pickle can raise any exception.
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else "it is damaged"
        raise AtelierError(
            f"{archive} holds a batch that is not CIFAR-10's ({reason}); get it again."
        ) from None
    yield from zip(names, images, strict=True)


class _DType:
    """Replacement of ``numpy.dtype`` that accepts uint8 only."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind not in ("u1", b"u1"):
            raise pickle.UnpicklingError("it holds an array of something other than bytes")

    def __setstate__(self, state: Any) -> None:
        """Ignore byte order and alignment, which do not apply to uint8."""


class _Array:
    """Replacement of ``numpy.ndarray`` during unpickling; ``array`` is the uint8 result."""

    array: NDArray[np.uint8]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, data = state
        if not isinstance(dtype, _DType) or column_major or len(data) != math.prod(shape):
            raise pickle.UnpicklingError("it holds an array that does not fit its bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it holds text of an unknown encoding")
    return (text if isinstance(text, str) else text.decode("latin1")).encode("latin1")


class _BatchUnpickler(pickle.Unpickler):
    _ALLOWED = {  # noqa: RUF012 - a constant table
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None
