"""JPEG files that lack their end marker, but no pixels."""

import hashlib
from io import BytesIO

import numpy as np
from PIL import Image

_END = b"\xff\xd9"


def load_without_end(image: Image.Image, data: bytes) -> None:
    """Decode a JPEG that Pillow reports as truncated, if only its end marker is missing.

    Given an end, the decoder would fill missing rows with grey. Whether any are missing is tested
    by decoding with different bytes before the end: they change pixels only if pixels are missing.

    Args:
        image: the opened image, perhaps at a reduced size.
        data: the file.

    Raises:
        OSError: pixels are missing.
    """
    # Fill bytes, or the first byte of the end marker.
    data = data.rstrip(b"\xff")
    if len({_digest(data + filler + _END) for filler in _fillers()}) > 1:
        raise OSError("image file is truncated")
    image.fp = BytesIO(data + _END)  # type: ignore[attr-defined]
    image.load()


def _fillers() -> list[bytes]:
    """Return image data with all restart markers, for which a decoder may be waiting."""
    rng = np.random.default_rng(0)
    fillers = [b""]
    for _ in range(2):
        noise = rng.integers(0, 255, (9, 64), np.uint8)  # never the first byte of a marker
        marks = [bytes([0xFF, 0xD0 + index]) for index in range(8)]
        fillers.append(
            b"".join(row.tobytes() + mark for row, mark in zip(noise, [*marks, b""], strict=True))
        )
    return fillers


def _digest(data: bytes) -> bytes:
    """Return the hash of a JPEG's pixels."""
    with Image.open(BytesIO(data), formats=["JPEG"]) as image:
        return hashlib.sha256(image.tobytes()).digest()
