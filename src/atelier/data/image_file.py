"""Reading one picture of any common format into plain pixels, and refusing what is none."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from atelier.core.files import NotRegularError, open_regular
from atelier.data.color_profiles import find_profile, profile_of
from atelier.data.formats.avif import coded_sizes, color_codes
from atelier.data.formats.bit_depth import low_bytes, to_8_bit
from atelier.data.formats.jpeg import (
    load_jpeg_without_end,
    may_lack_blocks,
    reject_missing_blocks,
)
from atelier.data.formats.png import MAGIC, PngColors, prepare_png

# Raster formats only: no EPS or PDF, which are programs, and no format that nobody photographs in.
# Nor JPEG 2000 and ICO, whose decoders take memory out of all proportion to the picture: a JPEG
# 2000 of 255x255 pixels may claim 65,025 tiles, and an ICO is decoded before its size is known.
# A JPEG of several pictures, as some cameras write it (MPO), is opened as a JPEG.
_FORMATS = ["BMP", "GIF", "JPEG", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"]
if "avif" in features.modules:
    # Pillow knows AVIF since 11.3.
    _FORMATS.append("AVIF")

# Bytes of the largest file that is opened: some decoders read all of it into memory.
_MAX_FILE_BYTES = 2**30
# A picture may have transparency and a preview, each as large as itself.
_MAX_TILES = 4
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# A progressive JPEG has some ten scans; each costs a pass over all pixels, however short it is.
_MAX_SCANS = 500
_SCAN = b"\xff\xda"
_BLOCK = 2**16
# Transposition, then mirroring in x and in y, that make an image of each EXIF orientation upright.
# ImageOps.exif_transpose does the same, but fails if other EXIF entries are damaged.
_TRANSPOSES = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
# Formats that are recognised, but not read: start of the file, from which byte, name.
_NOT_SUPPORTED = (
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")

Box = tuple[float, float, float, float]


class UnreadableError(Exception):  # noqa: N818 - says what the file is, not what went wrong here
    """A file that is no readable picture; the message is a short reason."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Decoded image, perhaps at a fraction of its size.

    A side that the fraction does not divide is rounded up: 514 pixels at an eighth are 65, of
    which the image fills 64.25.

    Attributes:
        image: its pixels, of mode RGB or L.
        reduction: 1, 2, 4 or 8: how often the image's sides were divided.
        box: the part of ``image`` that the image fills: left, top, right and bottom.
    """

    image: Image.Image
    reduction: int
    box: Box

    @classmethod
    def whole(cls, image: Image.Image) -> "DecodedImage":
        """Wrap an image of full size."""
        return cls(image, 1, (0, 0, *image.size))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height before the reduction."""
        left, top, right, bottom = self.box
        return round((right - left) * self.reduction), round((bottom - top) * self.reduction)


@contextmanager
def silence_pillow() -> Iterator[None]:
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


def read_image(
    source: Path | bytes,
    color: Literal["rgb", "grey"],
    max_megapixels: int,
    at_least: int | None = None,
) -> NDArray[np.uint8]:
    """Read a picture as :func:`decode` does, as uint8 [H, W, C] in 0..255; C is 3 or 1."""
    pixels = np.asarray(decode(source, color, max_megapixels, at_least).image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def decode(
    source: Path | bytes,
    color: Literal["rgb", "grey"],
    max_megapixels: int,
    at_least: int | None = None,
) -> DecodedImage:
    """Read the first frame of a picture, upright, as an image of mode RGB or L.

    Colors are converted to sRGB if a profile or other metadata says that they are of another
    space, see :mod:`atelier.data.color_profiles`. Transparent pictures are laid on white, 16-bit
    ones are scaled to 8 bits, see :mod:`atelier.data.formats.bit_depth`, and any colour model becomes RGB
    or ITU-R BT.601 luma. The size is checked before anything is decoded.

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
    with open_image(source, max_megapixels) as image:
        reduction, box = _reduce_on_decoding(image, color, at_least)
        if isinstance(image, JpegImageFile) and isinstance(source, bytes):
            # All of it at one go: in blocks of 64 kB, the usual, decoding takes longer.
            image.decodermaxblock = len(source)
        pixels = _load(image)
        turn = _orientation_of(image)
        plain = _to_rgb_or_grey(pixels, image, color)
        return DecodedImage(
            _transposed(plain, turn), reduction, _transposed_box(box, plain.size, turn)
        )


@contextmanager
def open_image(source: Path | bytes, max_megapixels: int) -> Iterator[Image.Image]:
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
        with ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(
                BytesIO(source) if isinstance(source, bytes) else open_regular(source)
            )
            image = stack.enter_context(_open(_reject_large_file(stream), max_megapixels))
            yield image
    except (UnreadableError, FileNotFoundError, MemoryError):
        # Want of memory is this machine's fault, and no word against the picture.
        raise
    except Exception as error:
        # Pillow's decoders raise whatever a damaged file drives them into.
        raise UnreadableError(_reason(error)) from None


def _open(stream: IO[bytes], max_megapixels: int) -> Image.Image:
    """Open a picture and check its size; its color profile is then in its ``info``."""
    start = stream.read(32)
    stream.seek(0)
    png: PngColors | None = None
    if start.startswith(MAGIC):
        try:
            stream, png = prepare_png(stream)
        except ValueError as error:
            raise UnreadableError(str(error)) from None
    image = _open_heic(stream) if _is_heic(start) else _open_known(stream, start)
    _reject_size(image.size, max_megapixels)
    _reject_tiles(image, max_megapixels)
    _reject_coded_size(image, stream, max_megapixels)
    _reject_scans(image, stream)
    codes = color_codes(_content(stream)) if image.format in ("AVIF", "HEIF") else None
    profile = find_profile(image, png, codes)
    image.info.pop("icc_profile", None)
    if profile is not None:
        image.info["icc_profile"] = profile
    return image


def _open_known(stream: IO[bytes], start: bytes) -> Image.Image:
    try:
        return Image.open(stream, formats=_FORMATS)
    except UnidentifiedImageError:
        for at, mark, name in _NOT_SUPPORTED:
            if start[at:].startswith(mark):
                raise UnreadableError(f"{name} is not supported; export as JPEG or PNG") from None
        raise


def _is_heic(start: bytes) -> bool:
    """Whether a file begins as HEIC does: with its main brand or one of the first compatible."""
    if start[4:8] != b"ftyp":
        return False
    end = min(len(start), int.from_bytes(start[:4]))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, end, 4))}
    return not brands.isdisjoint(_HEIC_BRANDS) and brands.isdisjoint((b"avif", b"avis"))


def _open_heic(stream: IO[bytes]) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnreadableError(
            "HEIC is not supported; export as JPEG or install pillow-heif"
        ) from None
    image: Image.Image = HeifImageFile(stream)
    return image


def _reject_size(size: tuple[int, int], max_megapixels: int) -> None:
    width, height = size
    if width * height > max_megapixels * 1_000_000:
        megapixels = width * height / 1_000_000
        raise UnreadableError(f"{megapixels:,.1f} megapixels, the limit is {max_megapixels}")


def _reject_tiles(image: Image.Image, max_megapixels: int) -> None:
    """Refuse tiles of any size in a small picture: they are decoded whole."""
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        _reject_size((tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)), max_megapixels)


def _reject_coded_size(image: Image.Image, stream: IO[bytes], max_megapixels: int) -> None:
    """Refuse an AVIF whose pictures are larger than it claims: their own size is decoded.

    pillow-heif does not tell the coded size of a HEIC; libheif itself compares it with the claim.
    """
    if image.format != "AVIF":
        return
    try:
        main, sizes = coded_sizes(_content(stream))
    except ValueError as error:
        raise UnreadableError(f"damaged: {error}") from None
    for size in sizes:
        _reject_size(size, max_megapixels)
    _reject_size((sum(width * height for width, height in sizes), 1), _MAX_TILES * max_megapixels)
    if image.size != main and (main is not None or image.size not in sizes):
        raise UnreadableError("its header claims another size than its picture has")


def _reject_large_file(stream: IO[bytes]) -> IO[bytes]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > _MAX_FILE_BYTES:
        raise UnreadableError(f"{size / 2**20:,.0f} MiB, the limit is {_MAX_FILE_BYTES // 2**20:,}")
    return stream


def _content(stream: IO[bytes]) -> bytes:
    """Return all bytes of a file that is being read, and leave it where it is."""
    place = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(place)
    return data


def _reject_scans(image: Image.Image, stream: IO[bytes]) -> None:
    """Refuse a JPEG of so many scans that decoding it takes hours."""
    if isinstance(image, JpegImageFile):
        data = _content(stream)
        # What follows the picture, such as a film, holds the mark once in 65,536 bytes by chance.
        if _count_scans(data) > _MAX_SCANS + len(data) // 2**14:
            raise UnreadableError("more scans than any camera or program writes")


def _count_scans(data: bytes) -> int:
    """Count as ``data.count(_SCAN)`` does, in a fifth of the time: 0xFF is common in a JPEG."""
    values = np.frombuffer(data, np.uint8)
    # Blocks that stay in the processor's cache; each sees the first byte of the next.
    blocks = (values[start : start + _BLOCK + 1] for start in range(0, len(values), _BLOCK))
    return sum(
        int(np.count_nonzero((block[:-1] == _SCAN[0]) & (block[1:] == _SCAN[1])))
        for block in blocks
    )


def _reduce_on_decoding(
    image: Image.Image, color: Literal["rgb", "grey"], at_least: int | None
) -> tuple[int, Box]:
    """Let the JPEG decoder do the first, coarse part of the scaling: it costs nothing there.

    Returns:
        How often the sides are divided, and the part of the decoded pixels that the image fills.
    """
    width, height = image.size
    if at_least is None or not isinstance(image, JpegImageFile):
        return 1, (0, 0, width, height)
    if _has_uneven_chroma(image):
        # libjpeg cannot decode such chroma at a larger scale than luma: it would be too coarse.
        at_least *= 2
    shorter = min(width, height)
    needed = (max(1, -(-width * at_least // shorter)), max(1, -(-height * at_least // shorter)))
    profile = profile_of(image, image.mode)
    keep = color == "rgb" or (profile is not None and not profile.is_srgb)
    mode = "L" if image.mode == "RGB" and not keep else image.mode
    image.draft(mode, needed)
    reduction = next(
        step for step in (8, 4, 2, 1) if image.size == (-(-width // step), -(-height // step))
    )
    return reduction, (0, 0, width / reduction, height / reduction)


def _has_uneven_chroma(image: JpegImageFile) -> bool:
    """Whether a JPEG's chroma is subsampled in one direction more than in the other."""
    factors = [(width, height) for _, width, height, _ in image.layer]
    widest, highest = (max(side) for side in zip(*factors, strict=True))
    return any(widest * height != highest * width for width, height in factors)


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Decode the first frame of a picture in 8 bits and turn it as its EXIF says."""
    pixels = _load(image)
    return _transposed(pixels, _orientation_of(image))


def _load(image: Image.Image) -> Image.Image:
    """Decode the first frame of a picture in 8 bits, as it is stored."""
    size, low = image.size, low_bytes(image)
    stream = image.fp if isinstance(image, JpegImageFile) else None
    try:
        image.load()
    except OSError as error:
        if stream is None or _reason(error) != "truncated":
            raise
        load_jpeg_without_end(image, _content(stream))
    else:
        if stream is not None and may_lack_blocks(image):
            reject_missing_blocks(_content(stream))
    if image.size != size:
        raise UnreadableError("its header claims another size than its picture has")
    try:
        return to_8_bit(image, low)
    except ValueError as error:
        raise UnreadableError(str(error)) from None


def _orientation_of(image: Image.Image) -> tuple[bool, bool, bool]:
    """Return how a decoded picture becomes upright: transposed, then mirrored in x and y."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        # Damaged EXIF says nothing of the orientation; the picture itself is whole.
        orientation = 1
    return _TRANSPOSES.get(orientation, (False, False, False))


def _transposed(image: Image.Image, turn: tuple[bool, bool, bool]) -> Image.Image:
    operations = {
        (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
        (False, True, True): Image.Transpose.ROTATE_180,
        (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
        (True, False, False): Image.Transpose.TRANSPOSE,
        (True, True, False): Image.Transpose.ROTATE_270,
        (True, True, True): Image.Transpose.TRANSVERSE,
        (True, False, True): Image.Transpose.ROTATE_90,
    }
    return image.transpose(operations[turn]) if turn in operations else image


def _transposed_box(box: Box, size: tuple[int, int], turn: tuple[bool, bool, bool]) -> Box:
    """Turn a box of an image of this size as :func:`_transposed` turns the image."""
    (left, top, right, bottom), (width, height) = box, size
    transposed, in_x, in_y = turn
    if transposed:
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if in_x:
        left, right = width - right, width - left
    if in_y:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _to_rgb_or_grey(
    pixels: Image.Image, image: Image.Image, color: Literal["rgb", "grey"]
) -> Image.Image:
    """Convert decoded pixels to sRGB or its luma, on white."""
    profile = profile_of(image, pixels.mode)
    if pixels.mode == "LAB":
        pixels = pixels.convert("RGB")  # Pillow converts it to no other mode
    alpha = None
    if pixels.has_transparency_data:
        pixels = pixels.convert("RGBA")
        alpha = pixels.getchannel("A")
    if profile is not None and not profile.is_srgb:
        pixels = profile.to_srgb(pixels)
    if alpha is not None:
        if pixels.mode == "RGB":
            pixels.putalpha(alpha)
        pixels = Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
    mode = "RGB" if color == "rgb" else "L"
    return pixels if pixels.mode == mode else pixels.convert(mode)


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
