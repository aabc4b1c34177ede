"""Color metadata of PNG files, and removal of metadata that Pillow rejects."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO

MAGIC = b"\x89PNG\r\n\x1a\n"
# Decompressed size above which Pillow rejects texts.
_MAX_TEXT = 2**20
_MAX_PROFILE = 16 * 2**20
# Limit for the metadata of a file in bytes: EXIF, which has the orientation, is short.
_MAX_METADATA = 16 * 2**20
# Number of damaged chunks of compressed metadata above which no further ones are decompressed.
_MAX_DAMAGED = 16
# Compressed bytes that are decompressed at a time, to at most 1 MiB.
_PIECE = 1024
# Number of chunks in a file of 1 GiB with chunks of 8 kB, the size that libpng writes.
_MAX_CHUNKS = 150_000
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_COMPRESSED = (b"zTXt", b"iTXt", b"iCCP")
_MIN_SIZE = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9}
# Smallest size of transparency by color type.
_MIN_TRANSPARENCY = {0: 2, 2: 6}


@dataclass(frozen=True)
class PngColors:
    """Color metadata that Pillow does not read or limits in length.

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
    """Return a PNG without the metadata that Pillow would reject, and its color metadata.

    Damaged and very long metadata is ignored, as in libpng. Pillow would reject the image.

    Args:
        stream: a PNG file.

    Returns:
        The stream, or a copy without such chunks, at its start; and the color metadata.

    Raises:
        ValueError: the file has more chunks than any program writes.
    """
    profile: bytes | None = None
    cicp: tuple[int, int, int, int] | None = None
    removed: list[_Chunk] = []
    length, damaged, color_type = 0, 0, -1
    for chunk in _chunks(stream):
        if chunk.kind == b"IHDR" and len(chunk.content) > 9:
            color_type = chunk.content[9]
        is_over_limit = length > _MAX_METADATA or damaged >= _MAX_DAMAGED
        is_second_profile = chunk.kind == b"iCCP" and profile is not None
        if is_second_profile or (is_over_limit and chunk.kind in (*_TEXTS, b"iCCP")):
            removed.append(chunk)  # without decompressing it
            continue
        content, is_intact = _metadata(chunk, color_type)
        length += len(content)
        if not is_intact or len(content) > _MAX_TEXT:
            removed.append(chunk)
        if not is_intact:
            damaged += chunk.kind in _COMPRESSED
        elif chunk.kind == b"iCCP" and len(content) <= _MAX_PROFILE:
            profile = content or None
        elif chunk.kind == b"cICP" and len(chunk.content) == 4:
            cicp = struct.unpack("4B", chunk.content)
    stream.seek(0)
    return (_without(stream, removed) if removed else stream), PngColors(profile, cicp)


def _chunks(stream: IO[bytes]) -> Iterator[_Chunk]:
    """Yield all chunks of a file, with their content unless it is image data."""
    at = len(MAGIC)
    for _ in range(_MAX_CHUNKS):
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
    """Return decompressed metadata (empty for other chunks), and whether the chunk is intact."""
    kind, content = chunk.kind, chunk.content
    if not kind[0] & 32:  # a critical chunk
        return b"", True
    min_size = _MIN_TRANSPARENCY.get(color_type, 0) if kind == b"tRNS" else 0
    if chunk.damaged or len(content) < _MIN_SIZE.get(kind, min_size):
        return b"", False
    if kind in (b"zTXt", b"iCCP"):
        _, found, rest = content.partition(b"\0")
        if not found or rest[:1] != b"\0":
            return b"", False
        return _inflate(rest[1:], _MAX_PROFILE if kind == b"iCCP" else _MAX_TEXT)
    if kind == b"iTXt":
        _, _, rest = content.partition(b"\0")
        if rest[:2] == b"\1\0":
            return _inflate(rest[2:].split(b"\0", 2)[-1], _MAX_TEXT)
    return content if kind in _TEXTS else b"", True


def _inflate(data: bytes, max_size: int) -> tuple[bytes, bool]:
    """Decompress data up to an error or to ``max_size + 1`` bytes.

    Returns:
        The decompressed data, and whether no error occurred.
    """
    decompressor, inflated = zlib.decompressobj(), bytearray()
    try:
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            inflated += decompressor.decompress(piece, max_size + 1 - len(inflated))
            if decompressor.eof or len(inflated) > max_size:
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
