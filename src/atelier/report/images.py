"""Images of the report page: encoding, the frames of its slider, and its montages."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.figures.montage import labeled_rows, limit_size, montage
from atelier.gan.sample_files import load_samples

Pixels = NDArray[np.uint8]

_MIN_FRAMES, _MAX_FRAMES = 4, 32  # of the slider
_MAX_SIDE = 1024  # of a montage
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

    side: int = _MAX_SIDE
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


@dataclass(frozen=True)
class Layout:
    """Arrangement of samples in montages.

    Attributes:
        columns: images in a row.
        classes: names of the samples' classes; each gets a row with its name.
        tile_pixels: side of an image next to a name; other montages have the samples' own pixels.
    """

    columns: int
    classes: Sequence[str] = ()
    tile_pixels: int = 64

    def montage(self, images: Pixels) -> Pixels:
        """Return the montage of images, uint8 [N, H, W, C]."""
        if not self.classes:
            return limit_size(montage(images, self.columns, images.shape[1]), _MAX_SIDE)
        rows = montage(images, len(images) // len(self.classes), self.tile_pixels)
        return limit_size(labeled_rows(rows, self.classes), _MAX_SIDE)


def frames(
    files: Mapping[int, Path], layout: Layout, characters: int
) -> list[tuple[int, PageImage]]:
    """Return the montages of evenly spread epochs, including the first and the last.

    Their number follows from their sizes. If not even a few fit, their quality is reduced.

    Args:
        files: of samples, by epoch.
        layout: of the montages.
        characters: limit of the sum of all data URIs.
    """
    found: list[tuple[int, PageImage]] = []
    for format_ in MONTAGE_FORMATS:
        found = _frames_within(files, layout, characters, format_)
        if len(found) >= min(_MIN_FRAMES, len(files)):
            break
    return found


def _frames_within(
    files: Mapping[int, Path], layout: Layout, characters: int, format_: Format
) -> list[tuple[int, PageImage]]:
    """Return as many evenly spread frames of this format as fit; at least the last one."""

    @cache
    def encoded(epoch: int) -> PageImage:
        text = f"Generated images after epoch {epoch}, in rows"
        return encode(layout.montage(load_samples(files[epoch])), text, format_)

    epochs = list(files)
    # Epochs differ in size: images of a collapsed generator are much smaller than noise.
    largest = max(len(encoded(epoch).uri) for epoch in _evenly(epochs, 3))
    count = max(1, min(_MAX_FRAMES, len(epochs), characters // largest))
    while True:
        found = [(epoch, encoded(epoch)) for epoch in _evenly(epochs, count)]
        total = sum(len(image.uri) for _, image in found)
        if total <= characters or count == 1:
            return found
        count = max(1, min(count - 1, count * characters // total))


def _evenly(epochs: Sequence[int], count: int) -> list[int]:
    """Return evenly spread epochs with the first and the last; only the last if ``count`` is 1."""
    positions = np.linspace(len(epochs) - 1, 0, min(count, len(epochs))).round().astype(int)
    return [epochs[position] for position in positions[::-1]]


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
