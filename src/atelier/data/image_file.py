"""Decoder of untrusted image files: size limits, formats, orientation and colors."""

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
from atelier.data.formats.heic import is_heic, open_heic
from atelier.data.formats.jpeg import (
    count_scans,
    load_jpeg_without_end,
    may_lack_blocks,
    reject_missing_blocks,
)
from atelier.data.formats.png import MAGIC, PngColors, prepare_png

# Common raster formats only. EPS and PDF are programs. The decoders of JPEG 2000 and ICO allocate
# more memory than the image size justifies: a JPEG 2000 of 255x255 pixels can have 65,025 tiles,
# and an ICO is decoded before its size is known. Files of several JPEGs from cameras (MPO) are
# opened as JPEG.
_FORMATS = ["BMP", "GIF", "JPEG", "PCX", "PNG", "PPM", "TGA", "TIFF", "WEBP"]
if "avif" in features.modules:
    # Pillow supports AVIF since 11.3.
    _FORMATS.append("AVIF")

# Size of the largest file that is opened: some decoders read the whole file into memory.
_MAX_FILE_BYTES = 2**30
# An AVIF may have transparency and a preview, each as large as the main image.
_MAX_CODED_IMAGES = 4
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# A progressive JPEG has about ten scans; each costs a pass over all pixels, even if it is short.
_MAX_SCANS = 500
# By EXIF orientation: whether to transpose the image, and then to mirror it in x and in y.
# ImageOps.exif_transpose is equivalent, but fails if other EXIF entries are damaged.
_TRANSPOSES = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
# Formats that are recognized but not supported: offset and bytes of their mark, and their name.
_NOT_SUPPORTED = (
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
)

Box = tuple[float, float, float, float]


class UnreadableError(Exception):
    """Raised if a file is not a readable image; the message is a short reason."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """Decoded image, at full or reduced size.

    The sides of a reduced image are rounded up: 514 pixels at an eighth are 65, of which 64.25
    belong to the image.

    Attributes:
        image: pixels of mode RGB or L.
        reduction: divisor of the sides: 1, 2, 4 or 8.
        box: left, top, right and bottom of the part of ``image`` that belongs to the image.
    """

    image: Image.Image
    reduction: int
    box: Box

    @classmethod
    def whole(cls, image: Image.Image) -> "DecodedImage":
        """Return an image of full size."""
        return cls(image, 1, (0, 0, *image.size))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height before the reduction."""
        left, top, right, bottom = self.box
        return round((right - left) * self.reduction), round((bottom - top) * self.reduction)


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Silence Pillow's warnings and log during the body, in all threads.

    Pillow warns of harmless irregularities, and of images over 89 megapixels, for which
    :func:`decode` has its own limit. Warning filters are global to the process, so this must wrap
    a whole conversion instead of each image.
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
    """Return the pixels of :func:`decode` as uint8 [H, W, C], C is 3 or 1."""
    pixels = np.asarray(decode(source, color, max_megapixels, at_least).image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def decode(
    source: Path | bytes,
    color: Literal["rgb", "grey"],
    max_megapixels: int,
    at_least: int | None = None,
) -> DecodedImage:
    """Decode the first frame of an image file, upright, to mode RGB or L.

    Colors are converted to sRGB if metadata specifies another color space, see
    :mod:`atelier.data.color_profiles`. Transparent images are composited on white. 16 bits per
    channel are scaled to 8, see :mod:`atelier.data.formats.bit_depth`. Other color models are
    converted to RGB or ITU-R BT.601 luma. The size is checked before decoding.

    Args:
        source: a file, or its bytes.
        color: ``rgb`` or ``grey``.
        max_megapixels: limit for the image's size.
        at_least: number of pixels that the shorter side must have after decoding. A JPEG is
            decoded at an eighth, a quarter or half of its size if that is sufficient. Other
            formats are decoded at full size.

    Raises:
        UnreadableError: the file is not an image of a supported format, is damaged, truncated or
            too large.
        FileNotFoundError: the file does not exist.
        MemoryError: the image is within the limit but does not fit into memory.
    """
    with open_image(source, max_megapixels) as image:
        reduction, box = _reduce_on_decoding(image, color, at_least)
        if isinstance(image, JpegImageFile) and isinstance(source, bytes):
            # One block for the whole file: the default blocks of 64 kB slow down decoding.
            image.decodermaxblock = len(source)
        pixels = _load(image)
        orientation = _orientation_of(image)
        converted = _to_rgb_or_gray(pixels, image, color)
        return DecodedImage(
            _transposed(converted, orientation),
            reduction,
            _transposed_box(box, converted.size, orientation),
        )


@contextmanager
def open_image(source: Path | bytes, max_megapixels: int) -> Iterator[Image.Image]:
    """Yield an opened image whose size is checked; raise UnreadableError if decoding it fails.

    Args:
        source: a file, or its bytes.
        max_megapixels: limit for the image's size.

    Raises:
        UnreadableError: see :func:`decode`; errors of the body are converted too.
        FileNotFoundError: the file does not exist.
        MemoryError: the image is within the limit but does not fit into memory.
    """
    try:
        with ExitStack() as stack:
            stream: IO[bytes] = stack.enter_context(
                BytesIO(source) if isinstance(source, bytes) else open_regular(source)
            )
            image = stack.enter_context(_open(_reject_large_file(stream), max_megapixels))
            yield image
    except (UnreadableError, FileNotFoundError, MemoryError):
        # A lack of memory does not mean that the image is unreadable.
        raise
    except Exception as error:
        # Pillow's decoders can raise any exception for a damaged file.
        raise UnreadableError(_reason(error)) from None


def _open(stream: IO[bytes], max_megapixels: int) -> Image.Image:
    """Open an image, check its size, and store its color profile in its ``info``."""
    start = stream.read(32)
    stream.seek(0)
    png: PngColors | None = None
    if start.startswith(MAGIC):
        try:
            stream, png = prepare_png(stream)
        except ValueError as error:
            raise UnreadableError(str(error)) from None
    image = open_heic(stream) if is_heic(start) else _open_known(stream, start)
    if image is None:
        raise UnreadableError("HEIC is not supported; export as JPEG or install pillow-heif")
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
        for offset, mark, name in _NOT_SUPPORTED:
            if start[offset:].startswith(mark):
                raise UnreadableError(f"{name} is not supported; export as JPEG or PNG") from None
        raise


def _reject_size(size: tuple[int, int], max_megapixels: int) -> None:
    width, height = size
    if width * height > max_megapixels * 1_000_000:
        megapixels = width * height / 1_000_000
        raise UnreadableError(f"{megapixels:,.1f} megapixels, the limit is {max_megapixels}")


def _reject_tiles(image: Image.Image, max_megapixels: int) -> None:
    """Raise if the tiles of a TIFF are too large: they are decoded whole, even in small images."""
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        _reject_size((tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)), max_megapixels)


def _reject_coded_size(image: Image.Image, stream: IO[bytes], max_megapixels: int) -> None:
    """Raise if the coded size of an AVIF is too large or differs from its header.

    A HEIC needs no such test: libheif compares both sizes itself.
    """
    if image.format != "AVIF":
        return
    try:
        main_size, sizes = coded_sizes(_content(stream))
    except ValueError as error:
        raise UnreadableError(f"damaged: {error}") from None
    for size in sizes:
        _reject_size(size, max_megapixels)
    _reject_size(
        (sum(width * height for width, height in sizes), 1), _MAX_CODED_IMAGES * max_megapixels
    )
    if image.size != main_size and (main_size is not None or image.size not in sizes):
        raise UnreadableError("its header claims another size than its image has")


def _reject_large_file(stream: IO[bytes]) -> IO[bytes]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if size > _MAX_FILE_BYTES:
        raise UnreadableError(f"{size / 2**20:,.0f} MiB, the limit is {_MAX_FILE_BYTES // 2**20:,}")
    return stream


def _content(stream: IO[bytes]) -> bytes:
    """Return all bytes of a stream without changing its position."""
    position = stream.tell()
    stream.seek(0)
    data = stream.read()
    stream.seek(position)
    return data


def _reject_scans(image: Image.Image, stream: IO[bytes]) -> None:
    """Raise if a JPEG has so many scans that decoding takes hours."""
    if isinstance(image, JpegImageFile):
        data = _content(stream)
        # Data after the image, e.g. a video, contains the mark once in 65,536 bytes by chance.
        if count_scans(data) > _MAX_SCANS + len(data) // 2**14:
            raise UnreadableError("more scans than any camera or program writes")


def _reduce_on_decoding(
    image: Image.Image, color: Literal["rgb", "grey"], at_least: int | None
) -> tuple[int, Box]:
    """Make the JPEG decoder reduce the image as far as ``at_least`` permits, which saves time.

    Returns:
        Reduction and box, see :class:`DecodedImage`.
    """
    width, height = image.size
    if at_least is None or not isinstance(image, JpegImageFile):
        return 1, (0, 0, width, height)
    if _has_uneven_chroma(image):
        # libjpeg reduces such chroma as far as luma, so that it would be too coarse.
        at_least *= 2
    shorter = min(width, height)
    needed = (max(1, -(-width * at_least // shorter)), max(1, -(-height * at_least // shorter)))
    profile = profile_of(image, image.mode)
    needs_color = color == "rgb" or (profile is not None and not profile.is_srgb)
    mode = "L" if image.mode == "RGB" and not needs_color else image.mode
    image.draft(mode, needed)
    reduction = next(
        divisor
        for divisor in (8, 4, 2, 1)
        if image.size == (-(-width // divisor), -(-height // divisor))
    )
    return reduction, (0, 0, width / reduction, height / reduction)


def _has_uneven_chroma(image: JpegImageFile) -> bool:
    """Whether a JPEG's chroma is subsampled differently in x and y."""
    factors = [(width, height) for _, width, height, _ in image.layer]
    widest, highest = (max(side) for side in zip(*factors, strict=True))
    return any(widest * height != highest * width for width, height in factors)


def apply_exif_orientation(image: Image.Image) -> Image.Image:
    """Decode the first frame of an image to 8 bits and apply its EXIF orientation."""
    pixels = _load(image)
    return _transposed(pixels, _orientation_of(image))


def _load(image: Image.Image) -> Image.Image:
    """Decode the first frame of an image to 8 bits, without changing orientation and colors.

    Raises:
        UnreadableError: the size differs from the header, or white is undefined.
        OSError: pixels are missing.
    """
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
        raise UnreadableError("its header claims another size than its image has")
    try:
        return to_8_bit(image, low)
    except ValueError as error:
        raise UnreadableError(str(error)) from None


def _orientation_of(image: Image.Image) -> tuple[bool, bool, bool]:
    """Return the operations that make an image upright, see ``_TRANSPOSES``."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        # Damaged EXIF does not affect the pixels.
        orientation = 1
    return _TRANSPOSES.get(orientation, (False, False, False))


def _transposed(image: Image.Image, orientation: tuple[bool, bool, bool]) -> Image.Image:
    operations = {
        (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
        (False, True, True): Image.Transpose.ROTATE_180,
        (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
        (True, False, False): Image.Transpose.TRANSPOSE,
        (True, True, False): Image.Transpose.ROTATE_270,
        (True, True, True): Image.Transpose.TRANSVERSE,
        (True, False, True): Image.Transpose.ROTATE_90,
    }
    return image.transpose(operations[orientation]) if orientation in operations else image


def _transposed_box(box: Box, size: tuple[int, int], orientation: tuple[bool, bool, bool]) -> Box:
    """Apply the operations of :func:`_transposed` to a box of an image of this size."""
    (left, top, right, bottom), (width, height) = box, size
    is_transposed, mirror_x, mirror_y = orientation
    if is_transposed:
        left, top, right, bottom = top, left, bottom, right
        width, height = height, width
    if mirror_x:
        left, right = width - right, width - left
    if mirror_y:
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _to_rgb_or_gray(
    pixels: Image.Image, image: Image.Image, color: Literal["rgb", "grey"]
) -> Image.Image:
    """Convert decoded pixels to sRGB or its luma, composited on white."""
    profile = profile_of(image, pixels.mode)
    if pixels.mode == "LAB":
        pixels = pixels.convert("RGB")  # the only mode to which Pillow converts LAB
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
        return "not an image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "more megapixels than Pillow opens"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or "damaged"
    return "damaged"
