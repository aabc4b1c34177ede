"""Images that are embedded in pages."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.figures.montage import limit_size, montage

Pixels = NDArray[np.uint8]

MAX_SIDE = 1024
"""Largest height and width of an embedded image in pixels."""

_MAX_ENLARGED = 1120  # width of the page; an image is not enlarged beyond it


@dataclass(frozen=True)
class PageImage:
    """Image that is embedded in the page.

    Attributes:
        uri: data URI.
        width: in pixels.
        height: in pixels.
        alt: description for readers who do not see the image.
    """

    uri: str
    width: int
    height: int
    alt: str

    @property
    def factors(self) -> range:
        """Whole factors by which the image can be enlarged within the page."""
        return range(1, max(1, min(16, _MAX_ENLARGED // self.width)) + 1)


@dataclass(frozen=True)
class Format:
    """Encoding of an image as WebP.

    Attributes:
        side: largest height and width in pixels.
        quality: from 0 to 100.
        lossless: keep every pixel.
    """

    side: int = MAX_SIDE
    quality: int = 80
    lossless: bool = False


# From the best to the smallest, of which the page's budget has room for every image.
MONTAGE_FORMATS = (
    Format(),
    Format(quality=60),
    Format(quality=40),
    Format(768, 60),
    Format(512, 60),
    Format(256, 40),
)


def encode_within(
    images: Sequence[Pixels],
    texts: Sequence[str],
    characters: int,
    formats: Sequence[Format] = MONTAGE_FORMATS,
) -> list[PageImage]:
    """Encode images in the first format in which all fit; in the last one if none does.

    Args:
        images: each uint8 [H, W, 3].
        texts: their descriptions.
        characters: limit of the sum of all data URIs.
        formats: from the best to the smallest.
    """
    encoded: list[PageImage] = []
    for format_ in formats:
        encoded = [encode(image, text, format_) for image, text in zip(images, texts, strict=True)]
        if sum(len(image.uri) for image in encoded) <= characters:
            break
    return encoded


def encode(image: Pixels, alt: str, format_: Format) -> PageImage:
    """Encode an image, uint8 [H, W, 3]; ``alt`` is its description."""
    image = limit_size(image, format_.side)
    height, width = image.shape[:2]
    file = io.BytesIO()
    Image.fromarray(image).save(
        file, format="WEBP", quality=format_.quality, lossless=format_.lossless, method=4
    )
    return PageImage(data_uri(file.getvalue(), "image/webp"), width, height, alt)


def sample_montage(images: Pixels, count: int) -> Pixels:
    """Return a square montage of evenly spread images, so that those of all classes are in it.

    Args:
        images: uint8 [N, H, W, C] with H = W, at least one.
        count: largest number of images in the montage.

    Returns:
        uint8 [h, w, 3] of at most ``MAX_SIDE`` pixels.
    """
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    columns = math.ceil(math.sqrt(len(places)))
    return limit_size(montage(images[places], columns, images.shape[1]), MAX_SIDE)


def data_uri(content: bytes, kind: str) -> str:
    """Return a data URI of a file's content; ``kind`` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read_image(file: Path, stage: str) -> Pixels:
    """Read an image file as uint8 [H, W, 3].

    Raises:
        AtelierError: the file is missing or damaged; the message names the stage that writes it.
    """
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # SyntaxError: of a damaged PNG
        raise AtelierError(
            f"{file.name} cannot be read as an image ({type(error).__name__}); run the {stage}"
            " stage again."
        ) from None
