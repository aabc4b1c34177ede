"""Chunks of a PNG file: color metadata, and removal of metadata that Pillow rejects."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO

MAGIC = b"\x89PNG\r\n\x1a\n"
# Pillow rejects a PNG whose texts or profile are longer than this when decompressed.
_LONGEST_TEXT = 2**20
_LONGEST_PROFILE = 16 * 2**20
# Bytes of all metadata of a file; long ones are for other programs, orientation is in short ones.
_MOST_METADATA = 16 * 2**20
# Damaged chunks of compressed metadata that are decompressed.
_MOST_DAMAGED = 16
# Compressed bytes that are decompressed at a time: up to 1 MiB.
_PART = 1024
# A file of 1 GiB whose image data lies in chunks of 8 kB, as libpng writes them.
_MOST_CHUNKS = 150_000
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_SHORTEST = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
# Fewest bytes of transparency by color type.
_SHORTEST_TRANSPARENCY = {0: 2, 2: 6}


@dataclass(frozen=True)
class PngColors:
    """Color metadata that Pillow does not read, or not at any length.

    Attributes:
        profile: ICC profile.
        cicp: code points of ITU-T H.273: primaries, transfer, matrix, full range.
    """

    profile: bytes | None = None
    cicp: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class _Chunk:
    kind: bytes
    start: int
    end: int
    content: bytes
    damaged: bool


def prepare_png(stream: IO[bytes]) -> tuple[IO[bytes], PngColors]:
    """Read the color metadata of a PNG and remove the metadata that Pillow would reject.

    Damaged and very long metadata is ignored, as libpng does; Pillow rejects the image.

    Args:
        stream: a PNG file.

    Returns:
        The stream, or a copy without such chunks, at its start; and the color metadata.

    Raises:
        ValueError: it has more chunks than any program writes.
    """
    profile: bytes | None = None
    cicp: tuple[int, int, int, int] | None = None
    removed: list[_Chunk] = []
    length, damaged, color_type = 0, 0, -1
    for chunk in _chunks(stream):
        if chunk.kind == b"IHDR" and len(chunk.content) > 9:
            color_type = chunk.content[9]
        many = length > _MOST_METADATA or damaged >= _MOST_DAMAGED
        again = chunk.kind == b"iCCP" and profile is not None
        if again or (many and chunk.kind in (*_TEXTS, b"iCCP")):
            removed.append(chunk)  # without decompressing it
            continue
        content, whole = _metadata(chunk, color_type)
        length += len(content)
        if not whole or len(content) > _LONGEST_TEXT:
            removed.append(chunk)
        if not whole:
            damaged += chunk.kind in _COMPRESSED
        elif chunk.kind == b"iCCP" and len(content) <= _LONGEST_PROFILE:
            profile = content or None
        elif chunk.kind == b"cICP" and len(chunk.content) == 4:
            cicp = struct.unpack("4B", chunk.content)
    stream.seek(0)
    return (_without(stream, removed) if removed else stream), PngColors(profile, cicp)


def _chunks(stream: IO[bytes]) -> Iterator[_Chunk]:
    """Yield all chunks of a file, with the content of those that are no image data."""
    at = len(MAGIC)
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        header = stream.read(8)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header)
        end = at + 12 + length
        content, damaged = b"", False
        if kind not in (b"IDAT", b"fdAT"):
            content, checksum = stream.read(length), stream.read(4)
            if len(content) < length:
                return
            expected = struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
            damaged = checksum != expected
        yield _Chunk(kind, at, end, content, damaged)
        if kind == b"IEND":
            return
        at = end
    raise ValueError("more chunks than any program writes")


def _metadata(chunk: _Chunk, color_type: int) -> tuple[bytes, bool]:
    """Return metadata, decompressed, and whether it is undamaged; nothing for other chunks."""
    kind, content = chunk.kind, chunk.content
    if not kind[0] & 32:  # critical
        return b"", True
    shortest = _SHORTEST_TRANSPARENCY.get(color_type, 0) if kind == b"tRNS" else 0
    if chunk.damaged or len(content) < _SHORTEST.get(kind, shortest):
        return b"", False
    if kind in (b"zTXt", b"iCCP"):
        _, found, rest = content.partition(b"\0")
        if not found or rest[:1] != b"\0":
            return b"", False
        return _inflated(rest[1:], _LONGEST_PROFILE if kind == b"iCCP" else _LONGEST_TEXT)
    if kind == b"iTXt":
        _, _, rest = content.partition(b"\0")
        if rest[:2] == b"\1\0":
            return _inflated(rest[2:].split(b"\0", 2)[-1], _LONGEST_TEXT)
    return content if kind in _TEXTS else b"", True


def _inflated(data: bytes, longest: int) -> tuple[bytes, bool]:
    """Decompress data up to an error, or a byte more than ``longest``.

    Returns:
        The data, and whether there was no error.
    """
    inflater, inflated = zlib.decompressobj(), bytearray()
    try:
        for start in range(0, len(data), _PART):
            part = data[start : start + _PART]
            inflated += inflater.decompress(part, longest + 1 - len(inflated))
            if inflater.eof or len(inflated) > longest:
                break
    except zlib.error:
        return bytes(inflated), False
    return bytes(inflated), True


def _without(stream: IO[bytes], removed: list[_Chunk]) -> IO[bytes]:
    """Copy a file without some of its chunks."""
    copy = BytesIO()
    for chunk in removed:
        copy.write(stream.read(chunk.start - stream.tell()))
        stream.seek(chunk.end)
    copy.write(stream.read())
    copy.seek(0)
    return copy
