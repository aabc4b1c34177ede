"""Rows of one raw file: square arrays of equal size."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.settings import ConvertSettings
from atelier.data.faces.alignment import Square, cut_square
from atelier.data.faces.extraction import face_square, find_faces, min_decoded_side
from atelier.data.image_file import DecodedImage, UnreadableError, decode
from atelier.data.members import Payload, Rejected

# Bicubic with antialiasing, recommended for the evaluation of GANs by Parmar et al. 2022, "On
# Aliased Resizing and Surprising Subtleties in GAN Evaluation".
_FILTER = Image.Resampling.BICUBIC
# Much larger images are first averaged to this multiple of the size. This is much faster, and the
# difference is not visible.
_REDUCING_GAP = 3.0
# A JPEG is decoded at no less than this multiple of the row's size; the loss is not visible.
_MIN_DECODED = 2
NO_FACE = "an image without a face"
OVERVIEW_SIDE = 64
"""Height and width in pixels of the overview of a photograph."""
_NO_PIXELS = np.empty(0, np.uint8)


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the data set.

    Attributes:
        name: of the row: the name of its file; for a face also its number, as in ``a.jpg#1``.
        pixels: uint8 [image_size, image_size, C].
        side: of the part of the image that became the row, in pixels of the file.
        center: of that part, as shares of the image's width and height.
    """

    name: str
    pixels: NDArray[np.uint8]
    side: int
    center: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True, eq=False)
class ConvertedFile:
    """A raw file and its rows.

    Attributes:
        name: of the file.
        rows: none if the file is rejected.
        sha256: of the file's bytes (of its pixels, if the source has no files), hexadecimal; empty
            if it was not read.
        width: of the upright image in pixels; 0 if it is not readable.
        height: likewise.
        reason: why the file is rejected; empty if it is used.
        size: of the file (of its pixels, if the source has no files), in bytes.
        overview: the whole image if the rows are faces, uint8 [OVERVIEW_SIDE, OVERVIEW_SIDE, 3],
            to search for near-duplicates; else empty.
    """

    name: str
    rows: tuple[Row, ...] = ()
    sha256: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""
    size: int = 0
    overview: NDArray[np.uint8] = field(default_factory=lambda: _NO_PIXELS)

    def without_pixels(self) -> "ConvertedFile":
        """Return a copy that holds no pixels."""
        rows = tuple(replace(row, pixels=_NO_PIXELS) for row in self.rows)
        return replace(self, rows=rows, overview=_NO_PIXELS)


def convert_file(
    settings: ConvertSettings, member: tuple[str, Payload], face_weights: bytes = b""
) -> ConvertedFile:
    """Return the rows of a file, or the reason to reject it.

    Args:
        settings: of the conversion.
        member: name and content of the file.
        face_weights: content of the face detector's file if the detector is ``yunet``.
    """
    name, payload = member
    if isinstance(payload, Rejected):
        return ConvertedFile(name, reason=payload.reason)
    sha256 = hashlib.sha256(payload if isinstance(payload, bytes) else payload.tobytes())
    try:
        image = _decode(settings, payload)
    except UnreadableError as error:
        return ConvertedFile(name, sha256=sha256.hexdigest(), reason=str(error))
    rows = tuple(_rows(settings, name, image, face_weights))
    has_overview = settings.faces != "none" and rows
    return ConvertedFile(
        name,
        rows,
        sha256.hexdigest(),
        *image.size,
        reason="" if rows else NO_FACE,
        size=len(payload) if isinstance(payload, bytes) else payload.nbytes,
        overview=resize(image, OVERVIEW_SIDE, "stretch") if has_overview else _NO_PIXELS,
    )


def _rows(
    settings: ConvertSettings, name: str, image: DecodedImage, face_weights: bytes
) -> Iterator[Row]:
    """Yield the whole image, or each of its faces."""
    shape = (settings.image_size, settings.image_size, settings.channels)
    if settings.faces == "none":
        pixels = resize(image, settings.image_size, settings.resize_mode)
        side = max(image.size) if settings.resize_mode == "pad" else min(image.size)
        yield Row(name, pixels.reshape(shape), side)
        return
    faces = find_faces(settings, np.asarray(image.image), face_weights)
    channels = image.image.convert("L") if settings.color == "grey" else image.image
    for number, face in enumerate(faces, 1):
        square = face_square(settings, face)
        pixels = cut_square(channels, square, settings.image_size).reshape(shape)
        side = round(2 * abs(square.right) * image.reduction)
        yield Row(f"{name}#{number}", pixels, side, _relative_center(image, square))


def _relative_center(image: DecodedImage, square: Square) -> tuple[float, float]:
    """Return the center of a square as shares of the image's width and height."""
    left, top, right, bottom = image.box
    center = square.center
    return (center.real - left) / (right - left), (center.imag - top) / (bottom - top)


def _decode(settings: ConvertSettings, payload: bytes | NDArray[np.uint8]) -> DecodedImage:
    color, at_least = settings.color, _MIN_DECODED * settings.image_size
    if settings.faces != "none":
        # The detector finds more faces in color.
        color, at_least = "rgb", min_decoded_side(settings, at_least)
    if isinstance(payload, bytes):
        return decode(payload, color, settings.max_megapixels, at_least)
    mode = "RGB" if color == "rgb" else "L"
    return DecodedImage.whole(Image.fromarray(payload).convert(mode))


def resize(
    image: DecodedImage | Image.Image | NDArray[np.uint8],
    size: int,
    mode: Literal["crop", "stretch", "pad"],
) -> NDArray[np.uint8]:
    """Resize an image of any shape to uint8 [size, size] or [size, size, 3].

    Args:
        image: an image of mode L or RGB, or uint8 [H, W] or [H, W, C] where C is 1 or 3.
        size: height and width in pixels.
        mode: ``crop`` fills the square and cuts equally on both sides; ``stretch`` changes the
            aspect ratio; ``pad`` centers the whole image on black, which a GAN learns more
            easily than a color that differs between images.
    """
    decoded = _as_decoded(image)
    width, height = decoded.size
    if mode == "pad":
        return np.asarray(_padded(decoded, size))
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return np.asarray(_resized(decoded, (left, top, left + side, top + side), (size, size)))
    return np.asarray(_resized(decoded, (0, 0, width, height), (size, size)))


def _as_decoded(image: DecodedImage | Image.Image | NDArray[np.uint8]) -> DecodedImage:
    if isinstance(image, DecodedImage):
        return image
    if isinstance(image, Image.Image):
        return DecodedImage.whole(image)
    pixels = image[:, :, 0] if image.shape[2:] == (1,) else image
    return DecodedImage.whole(Image.fromarray(pixels))


def _resized(
    decoded: DecodedImage, part: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    """Resize a part of an image, given in pixels of its full size."""
    x, y = decoded.box[:2]
    left, top, right, bottom = (
        origin + side / decoded.reduction for origin, side in zip((x, y, x, y), part, strict=True)
    )
    # Crop first: the filter would include pixels outside the part.
    start = math.floor(left), math.floor(top)
    end = math.ceil(right), math.ceil(bottom)
    image = decoded.image
    if start != (0, 0) or end != image.size:
        image = image.crop((*start, *end))
    box = (left - start[0], top - start[1], right - start[0], bottom - start[1])
    return image.resize(size, _FILTER, box, _REDUCING_GAP)


def _padded(decoded: DecodedImage, size: int) -> Image.Image:
    """Resize an image to fit into a black square."""
    width, height = decoded.size
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new(decoded.image.mode, (size, size))
    resized = _resized(decoded, (0, 0, width, height), inner)
    square.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square
