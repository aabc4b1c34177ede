"""Image files for tests, in memory."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

MAGIC = b"\x89PNG\r\n\x1a\n"


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """Encode a PNG chunk."""
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(pixels: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """Encode uint8 or uint16 [H, W] or [H, W, C] with chunks before and after the image data."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    depth = 8 * pixels.itemsize
    stored = pixels.astype(f">u{pixels.itemsize}").reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(rows)), after]
    return MAGIC + b"".join(parts) + chunk(b"IEND", b"")


def iccp(profile: bytes) -> bytes:
    """Encode a PNG chunk of an ICC profile."""
    return chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))
