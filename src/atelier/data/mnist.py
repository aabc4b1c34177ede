"""Reader of the original files of MNIST and Fashion-MNIST: IDX, compressed with gzip.

The format is described at the end of http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from atelier.core.errors import AtelierError
from atelier.data.members import Budget, Members

_IMAGES_MAGIC, _LABELS_MAGIC = 2051, 2049
_MAX_PIXELS = 2**20


def read_mnist(paths: Sequence[Path]) -> Members:
    """Yield every digit of pairs of an images file and a labels file, as uint8 [28, 28].

    A digit is named by split, label and index, for example ``train/5/00000``.

    Raises:
        AtelierError: a file is damaged, cut short, or not in the format that its name implies.
    """
    for images, labels in zip(paths[::2], paths[1::2], strict=True):
        part = "train" if images.name.startswith("train") else "test"
        try:
            yield from _read_pair(part, images, labels)
        except (EOFError, gzip.BadGzipFile, zlib.error, struct.error):
            raise AtelierError(
                f"{images.name} or {labels.name} is damaged or was cut short; run the download"
                " stage again."
            ) from None


def _read_pair(part: str, images: Path, labels: Path) -> Members:
    with gzip.open(images) as pixels, gzip.open(labels) as classes:
        images_magic, count, height, width = struct.unpack(">4I", pixels.read(16))
        labels_magic, labels_count = struct.unpack(">2I", classes.read(8))
        expected = (_IMAGES_MAGIC, _LABELS_MAGIC)
        if (images_magic, labels_magic) != expected or count != labels_count:
            raise AtelierError(
                f"{images.name} and {labels.name} are no pair of IDX images and labels; run the"
                " download stage again."
            )
        if not 0 < height * width <= _MAX_PIXELS:
            raise AtelierError(f"{images.name} claims images of {width}x{height}; get it again.")
        budget = Budget(images)
        for index in range(count):
            budget.count_member()
            budget.spend(height * width)
            digit = np.frombuffer(_read_exactly(pixels, height * width), np.uint8)
            (label,) = _read_exactly(classes, 1)
            yield f"{part}/{label}/{index:05d}", digit.reshape(height, width)
        # gzip compares its checksum only at the end of the stream.
        if pixels.read(1) or classes.read(1):
            raise AtelierError(f"{images.name} holds more than it claims; get it again.")


def _read_exactly(stream: gzip.GzipFile, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
