"""Reading one picture of any common format into plain pixels, and refusing what is none."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from atelier.images.avif import coded_sizes
from atelier.regular_files import NotRegularError, open_regular

# Raster formats only: no EPS or PDF, which are programs, and no format that nobody photographs in.
# Nor JPEG 2000 and ICO, whose decoders take memory out of all proportion to the picture: a JPEG
# 2000 of 255x255 pixels may claim 65,025 tiles, and an ICO is decoded before its size is known.
# A JPEG of several pictures, as some cameras write it (MPO), is opened as a JPEG.
_FORMATS = ["BMP", "GIF", "JPEG", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"]
if "avif" in features.modules:
    # Pillow knows AVIF since 11.3.
    _FORMATS.append("AVIF")

# Bytes of the largest file that is opened: some decoders read all of it into memory.
_LARGEST_FILE = 2**30
# A picture may have transparency and a preview, each as large as itself.
_MOST_PARTS = 4
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# A progressive JPEG has some ten scans; each costs a pass over all pixels, however short it is.
_MOST_SCANS = 500
_SCAN = b"\xff\xda"
_BLOCK = 2**16
# What EXIF's orientation asks for; 1 is upright. ImageOps.exif_transpose does the same, but
# fails on pictures whose other EXIF entries are damaged.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Unreadable(Exception):  # noqa: N818 - says what the file is, not what went wrong here
    """A file that is no readable picture; the message is a short reason."""


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings and log while the body runs, in all threads.

    Pillow warns of oddities that do no harm, and of pictures over 89 megapixels, for which
    :func:`decode` has a limit of its own. Warning filters belong to the whole process:
    that is why they are set here, once around a whole conversion, and not around each picture.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        log = logging.getLogger("PIL")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def read_picture(
    source: Path | bytes,
    color: Literal["rgb", "grey"],
    max_megapixels: int,
    at_least: int | None = None,
) -> NDArray[np.uint8]:
    """Read a picture as :func:`decode` does, as uint8 [H, W, C] in 0..255; C is 3 or 1."""
    pixels = np.asarray(decode(source, color, max_megapixels, at_least))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def decode(
    source: Path | bytes,
    color: Literal["rgb", "grey"],
    max_megapixels: int,
    at_least: int | None = None,
) -> Image.Image:
    """Read the first frame of a picture, upright, as an image of mode RGB or L.

    Transparent pictures are laid on white, 16-bit ones are scaled to 8 bits, and any colour
    model becomes RGB or ITU-R BT.601 luma. The size is checked before anything is decoded.

    Args:
        source: a file, or its bytes.
        color: ``rgb`` or ``grey``.
        max_megapixels: a picture with more pixels is refused.
        at_least: how many pixels the shorter side is needed to have. A JPEG is then decoded
            at an eighth, a quarter or half of its size, as long as that is enough; nothing
            else changes the size.

    Raises:
        Unreadable: it is no picture of a known format, is damaged, cut short or too large.
        FileNotFoundError: there is no such file.
        MemoryError: the picture is within the limit, but memory is not.
    """
    with opened(source, max_megapixels) as image:
        if at_least is not None:
            _draft(image, color, at_least)
        if isinstance(image, JpegImageFile) and isinstance(source, bytes):
            # All of it at one go: in blocks of 64 kB, the usual, decoding takes longer.
            image.decodermaxblock = len(source)
        return _plain(upright(image), color)


@contextmanager
def opened(source: Path | bytes, max_megapixels: int) -> Iterator[Image.Image]:
    """Yield a picture that is safe to decode; what goes wrong with it is told as unreadable.

    Args:
        source: a file, or its bytes.
        max_megapixels: a picture with more pixels is refused.

    Raises:
        Unreadable: as for :func:`decode`, also while the body decodes it.
        FileNotFoundError: there is no such file.
        MemoryError: the picture is within the limit, but memory is not.
    """
    try:
        with (
            BytesIO(source) if isinstance(source, bytes) else open_regular(source) as stream,
            Image.open(_refuse_large_file(stream), formats=_FORMATS) as image,
        ):
            _refuse_size(image.size, max_megapixels)
            _refuse_tiles(image, max_megapixels)
            _refuse_coded_size(image, stream, max_megapixels)
            _refuse_scans(image, stream)
            yield image
    except (Unreadable, FileNotFoundError, MemoryError):
        # Want of memory is this machine's fault, and no word against the picture.
        raise
    except Exception as error:
        # Pillow's decoders raise whatever a damaged file drives them into.
        raise Unreadable(_reason(error)) from None


def _refuse_size(size: tuple[int, int], max_megapixels: int) -> None:
    width, height = size
    if width * height > max_megapixels * 1_000_000:
        megapixels = width * height / 1_000_000
        raise Unreadable(f"{megapixels:,.1f} megapixels, the limit is {max_megapixels}")


def _refuse_tiles(image: Image.Image, max_megapixels: int) -> None:
    """Refuse tiles of any size in a small picture: they are decoded whole."""
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        _refuse_size((tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)), max_megapixels)


def _refuse_coded_size(image: Image.Image, stream: IO[bytes], max_megapixels: int) -> None:
    """Refuse an AVIF whose pictures are larger than it claims: their own size is decoded."""
    if image.format != "AVIF":
        return
    try:
        main, sizes = coded_sizes(_content(stream))
    except ValueError as error:
        raise Unreadable(f"damaged: {error}") from None
    for size in sizes:
        _refuse_size(size, max_megapixels)
    _refuse_size((sum(width * height for width, height in sizes), 1), _MOST_PARTS * max_megapixels)
    if image.size != main and (main is not None or image.size not in sizes):
        raise Unreadable("its header claims another size than its picture has")


def _refuse_large_file(stream: IO[bytes]) -> IO[bytes]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > _LARGEST_FILE:
        raise Unreadable(f"{size / 2**20:,.0f} MiB, the limit is {_LARGEST_FILE // 2**20:,}")
    return stream


def _content(stream: IO[bytes]) -> bytes:
    """Return all bytes of a file that is being read, and leave it where it is."""
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    return data


def _refuse_scans(image: Image.Image, stream: IO[bytes]) -> None:
    """Refuse a JPEG of so many scans that decoding it takes hours."""
    if isinstance(image, JpegImageFile):
        data = _content(stream)
        # What follows the picture, such as a film, holds the mark once in 65,536 bytes by chance.
        if _count_scans(data) > _MOST_SCANS + len(data) // 2**14:
            raise Unreadable("more scans than any camera or program writes")


def _count_scans(data: bytes) -> int:
    """Count as ``data.count(_SCAN)`` does, in a fifth of the time: 0xFF is common in a JPEG."""
    values = np.frombuffer(data, np.uint8)
    # Blocks that stay in the processor's cache; each sees the first byte of the next.
    blocks = (values[start : start + _BLOCK + 1] for start in range(0, len(values), _BLOCK))
    return sum(
        int(np.count_nonzero((block[:-1] == _SCAN[0]) & (block[1:] == _SCAN[1])))
        for block in blocks
    )


def _draft(image: Image.Image, color: Literal["rgb", "grey"], at_least: int) -> None:
    """Let the JPEG decoder do the first, coarse part of the scaling: it costs nothing there."""
    shorter = min(image.size)
    width, height = (max(1, -(-side * at_least // shorter)) for side in image.size)
    mode = "L" if color == "grey" and image.mode == "RGB" else image.mode
    image.draft(mode, (width, height))


def upright(image: Image.Image) -> Image.Image:
    """Decode the first frame of a picture and turn it as its EXIF says, in its own mode."""
    size = image.size
    image.load()
    if image.size != size:
        raise Unreadable("its header claims another size than its picture has")
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        # Damaged EXIF says nothing of the orientation; the picture itself is whole.
        return image
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _plain(image: Image.Image, color: Literal["rgb", "grey"]) -> Image.Image:
    image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "RGB" if color == "rgb" else "L"
    return image if image.mode == mode else image.convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 bits of grey to 8, with the one that is transparent; what has 8 stays as it is.

    Raises:
        Unreadable: its pixels have 32 bits.
    """
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise Unreadable("pixels of 32 bits, of which none is known to be white")
    scaled = Image.fromarray((values.astype(np.uint32) * 255 // 0xFFFF).astype(np.uint8))
    hidden = image.info.get("transparency")
    if hidden is not None:
        scaled.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return scaled


def _reason(error: Exception) -> str:
    if isinstance(error, NotRegularError):
        return error.reason
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "more megapixels than Pillow opens"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or "damaged"
    return "damaged"
