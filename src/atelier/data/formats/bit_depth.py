"""Conversion of images of 16 bits per channel to 8 bits, with rounding."""

import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

Pixels = NDArray[np.uint8]
Values = NDArray[np.uint16]

_WHITE = 0xFFFF
# Bit depths that cameras and scanners store in 16 bits, in increasing order.
_DEPTHS = (8, 10, 12, 14)
# Number of pixels that are scaled at a time, to limit memory.
_BAND_PIXELS = 2**20
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR = 258, 262, 284
_WHITE_IS_ZERO, _SEPARATE = 0, 2
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def low_bytes(image: Image.Image) -> Image.Image | None:
    """Return the low bytes of an image of several channels of 16 bits.

    Pillow decodes only the high bytes. Decoding with the opposite byte order gives the low bytes.

    Args:
        image: an opened image; it is not decoded.

    Returns:
        An image of the mode that ``image`` has when decoded, or ``None`` if it has 8 bits.
    """
    if not isinstance(image, PngImageFile | TiffImageFile) or image.fp is None or not image.tile:
        return None
    stream: IO[bytes] = image.fp
    _set_layout_of_planes(image)
    rawmode = _rawmode(image.tile[0])
    if ";16" not in rawmode or rawmode.startswith(("I", "RGBa")):
        return None
    is_gray = rawmode == "LA;16B"  # both bytes of both channels fill the four channels of RGBA
    position = stream.tell()
    stream.seek(0)
    twin = type(image)(stream)
    _set_layout_of_planes(twin)
    twin.tile = [
        _with_rawmode(tile, "RGBA" if is_gray else _other_order(_rawmode(tile)))
        for tile in twin.tile
    ]
    twin.load()
    stream.seek(position)
    if is_gray:
        _, level, _, alpha = twin.split()
        return Image.merge("RGBA", (level, level, level, alpha))
    return twin


def _rawmode(tile: Any) -> str:
    """Return Pillow's raw mode of a tile: the layout of stored pixels."""
    rawmode = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else ""
    return rawmode if isinstance(rawmode, str) else ""


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    args = rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])
    return tile._replace(args=args)


def _other_order(rawmode: str) -> str:
    return rawmode[:-1] + _OTHER_BYTE[rawmode[-1]]


def _set_layout_of_planes(image: PngImageFile | TiffImageFile) -> None:
    """Correct the raw mode of a TIFF with separate planes of 16 bits, which Pillow reads as 8."""
    if not isinstance(image, TiffImageFile) or image.tag_v2.get(_PLANAR) != _SEPARATE:
        return
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))
    if set(bits) == {16}:
        order = ";16B" if image.tag_v2.prefix == b"MM" else ";16L"
        image.tile = [
            _with_rawmode(tile, _rawmode(tile) + order) if len(_rawmode(tile)) == 1 else tile
            for tile in image.tile
        ]


def to_8_bit(image: Image.Image, low: Image.Image | None) -> Image.Image:
    """Scale 16 bits per channel to 8 bits; return an image of 8 bits unchanged.

    White is 65,535. If no color exceeds 14, 12, 10 or 8 bits, white is the largest number of the
    smallest sufficient depth, because cameras and scanners store such data. Colors that were
    scaled up from 8 bits (multiples of 257) keep white at 65,535.

    Args:
        image: a decoded image.
        low: low bytes of the image, see :func:`low_bytes`.

    Raises:
        ValueError: pixels have 32 bits or are negative.
    """
    if low is not None:
        return _colors_to_8_bit(image, low)
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    if image.mode == "F" or _stored_bits(image) > 16:
        raise ValueError("pixels of 32 bits, for which white is undefined")
    if image.mode == "I" and not _fits(image):
        raise ValueError("pixels that are negative or exceed 16 bits")

    def parts() -> Iterator[Values]:
        for band in _bands(image.size):
            yield np.asarray(image.crop(band)).astype(np.uint16)

    white = _stored_white(image) or _white(parts)
    pixels = np.concatenate([_scaled(part, white) for part in parts()])
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    scaled = Image.fromarray(pixels)
    hidden = image.info.get("transparency")
    if hidden is not None:
        opaque = [np.where(part == hidden, 0, 255).astype(np.uint8) for part in parts()]
        scaled.putalpha(Image.fromarray(np.concatenate(opaque)))
    return scaled


def _fits(image: Image.Image) -> bool:
    values = np.asarray(image)
    return bool(values.min() >= 0 and values.max() <= _WHITE)


def _colors_to_8_bit(image: Image.Image, low: Image.Image) -> Image.Image:
    channels = len(image.getbands())
    colors = 3 if image.mode in ("RGB", "RGBA") else channels

    def parts() -> Iterator[Values]:
        for band in _bands(image.size):
            high = np.asarray(image.crop(band)).astype(np.uint16)
            yield high << 8 | np.asarray(low.crop(band))

    white = _white(lambda: (part[:, :, :colors] for part in parts()))
    if image.mode == "CMYK":
        white = _WHITE
    whites = np.full(channels, white, np.uint32)
    if channels > colors and max(int(part[:, :, colors:].max()) for part in parts()) > white:
        whites[colors:] = _WHITE
    pixels = np.concatenate([_scaled(part, whites) for part in parts()])
    scaled = Image.frombytes(image.mode, image.size, pixels.tobytes())
    hidden = image.info.get("transparency")
    if isinstance(hidden, tuple) and image.mode == "RGB":
        opaque = [255 - 255 * (part == hidden).all(axis=2).astype(np.uint8) for part in parts()]
        scaled.putalpha(Image.fromarray(np.concatenate(opaque)))
    return scaled


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of full width that cover an image."""
    width, height = size
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(height, top + rows)


def _stored_bits(image: Image.Image) -> int:
    """Return the bits per channel of a TIFF; 16 for other formats."""
    if not isinstance(image, TiffImageFile):
        return 16
    return int(image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0])


def _stored_white(image: Image.Image) -> int | None:
    """Return the value of white if the file states it."""
    if isinstance(image, PpmImageFile):
        return _WHITE  # Pillow has scaled the file's maximum to it
    bits = _stored_bits(image)
    return (1 << bits) - 1 if 8 < bits < 16 else None


def _white(parts: Callable[[], Iterator[Values]]) -> int:
    """Return the value of white, see :func:`to_8_bit`."""
    largest = max(int(part.max()) for part in parts())
    depth = next((bits for bits in _DEPTHS if largest < 2**bits), 16)
    if depth == 16 or all((part % 257 == 0).all() for part in parts()):
        return _WHITE
    return (1 << depth) - 1


def _scaled(values: Values, white: int | NDArray[np.uint32]) -> Pixels:
    half = np.asarray(white, np.uint32) // 2
    return ((values.astype(np.uint32) * 255 + half) // white).astype(np.uint8)
