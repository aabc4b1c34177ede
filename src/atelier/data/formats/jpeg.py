"""Detection of missing pixels in JPEG files, with and without an end marker."""

import hashlib
import re
from io import BytesIO

import numpy as np
from PIL import Image

_END = b"\xff\xd9"
_SCAN = 0xDA
_SCAN_MARKER = b"\xff\xda"
# Bytes that are searched for scans at a time: they fit into the processor's cache.
_BLOCK = 2**16
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}
_COEFFICIENTS = 64
# Level of blocks without data: libjpeg decodes them without an error.
_NO_DATA = 128
# Any marker but restarts and stuffed bytes; it ends image data.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def load_jpeg_without_end(image: Image.Image, data: bytes) -> None:
    """Decode a JPEG that Pillow reports as truncated, if only its end marker is missing.

    With an end marker, the decoder fills missing rows with gray. To test for missing pixels, the
    file is decoded with different bytes before the end marker: they change pixels only if pixels
    are missing.

    Args:
        image: the opened image, possibly at a reduced size.
        data: the file.

    Raises:
        OSError: pixels, or scans of a progressive JPEG, are missing.
    """
    # Remove fill bytes, and the first byte of a cut end marker.
    data = data.rstrip(b"\xff")
    if not _has_all_scans(data) or _depends_on_padding(data):
        raise OSError("image file is truncated")
    image.fp = BytesIO(data + _END)  # type: ignore[attr-defined]
    image.load()


def may_lack_blocks(image: Image.Image) -> bool:
    """Whether the last pixel of a decoded JPEG has the level of blocks without data.

    Few intact images have that level there, so that few images are decoded again.
    """
    width, height = image.size
    last = image.crop((width - 1, height - 1, width, height))
    level = last.getchannel("K") if last.mode == "CMYK" else last.convert("L")
    return abs(int(np.asarray(level)[0, 0]) - _NO_DATA) <= 1


def reject_missing_blocks(data: bytes) -> None:
    """Raise if decoding with other bytes before the end marker shows that pixels are missing.

    Args:
        data: a JPEG that Pillow decodes.

    Raises:
        OSError: pixels are missing.
    """
    end = _end_of_scans(data)
    if end is not None and _depends_on_padding(data[:end], reduced=True):
        raise OSError("image file is truncated")


def _depends_on_padding(data: bytes, reduced: bool = False) -> bool:
    """Whether different bytes before the end marker change pixels.

    Args:
        data: the file up to its end marker.
        reduced: decode at an eighth of the size, which detects only missing blocks.
    """
    return len({_pixel_hash(data + padding + _END, reduced) for padding in _paddings()}) > 1


def _end_of_scans(data: bytes) -> int | None:
    """Return the position of the end marker, or ``None`` if segments are damaged."""
    at = 2
    while at + 4 <= len(data) and data[at] == _END[0]:
        if data[at : at + 2] == _END:
            return at
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        at += 2 + length if kind != _END[0] else 1
        if kind == _SCAN:
            marker = _MARKER.search(data, at)
            if marker is None:
                return None
            at = marker.start()
    return at if data[at : at + 2] == _END else None


def _has_all_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG contain all bits of every coefficient of every component."""
    missing: dict[int, set[int]] = {}
    at = 2
    while at + 4 <= len(data):
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        segment = data[at + 4 : at + 2 + length]
        at += 2 + length
        if kind in _FRAMES:
            missing = {segment[6 + 3 * i]: set(range(_COEFFICIENTS)) for i in range(segment[5])}
        elif kind == _SCAN:
            components = segment[1 : 1 + 2 * segment[0] : 2]
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            if bits & 15 == 0:
                for component in components:
                    missing[component] -= set(range(first, last + 1))
            marker = _MARKER.search(data, at)
            if marker is None:
                break
            at = marker.start()
    return bool(missing) and not any(missing.values())


def _paddings() -> list[bytes]:
    """Return three paddings: none, and two of random image data with all restart markers.

    A decoder that misses data skips to the restart marker that it expects next.
    """
    rng = np.random.default_rng(0)
    markers = [bytes([0xFF, 0xD0 + index]) for index in range(8)]
    paddings = [b""]
    for _ in range(2):
        noise = rng.integers(0, 255, (9, 64), np.uint8)  # without 0xFF, which starts a marker
        rows = zip(noise, [*markers, b""], strict=True)
        paddings.append(b"".join(row.tobytes() + marker for row, marker in rows))
    return paddings


def _pixel_hash(data: bytes, reduced: bool) -> bytes:
    with Image.open(BytesIO(data), formats=["JPEG"]) as image:
        if reduced:
            image.draft(None, (1, 1))
        return hashlib.sha256(image.tobytes()).digest()


def count_scans(data: bytes) -> int:
    r"""Return ``data.count(b"\xff\xda")`` in a fifth of the time: 0xFF is frequent in a JPEG."""
    values = np.frombuffer(data, np.uint8)
    # Each block includes the first byte of the next.
    blocks = (values[start : start + _BLOCK + 1] for start in range(0, len(values), _BLOCK))
    return sum(
        int(np.count_nonzero((block[:-1] == _SCAN_MARKER[0]) & (block[1:] == _SCAN_MARKER[1])))
        for block in blocks
    )
