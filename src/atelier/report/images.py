"""Images of the report page: encoding, the frames of its slider, and its montages."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.figures.montage import labeled_rows, limit_size, montage
from atelier.gan.sample_files import load_samples

Pixels = NDArray[np.uint8]

_MAX_FRAMES = 32  # of the slider
_FRAME_CHARACTERS = 2_600_000  # of all frames' data URIs; the page stays below 5 MB
_MAX_SIDE = 1024  # of a montage
_MAX_ENLARGED = 1120  # width of the page; an image is not enlarged beyond it
_QUALITY = 80


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


def frames(files: Mapping[int, Path], layout: Layout) -> list[tuple[int, PageImage]]:
    """Return the montages of evenly spread epochs, including the first and the last.

    Their number follows from the size of the last one, so that all fit the page's budget.

    Args:
        files: of samples, by epoch.
        layout: of the montages.
    """

    def encoded(epoch: int) -> PageImage:
        text = f"Generated images after epoch {epoch}, in rows"
        return encode(layout.montage(load_samples(files[epoch])), text)

    epochs = list(files)
    last = encoded(epochs[-1])
    count = min(_MAX_FRAMES, max(4, _FRAME_CHARACTERS // len(last.uri)))
    positions = np.linspace(0, len(epochs) - 1, min(count, len(epochs))).round().astype(int)
    first = [(epochs[position], encoded(epochs[position])) for position in positions[:-1]]
    return [*first, (epochs[-1], last)]


def encode(image: Pixels, alt: str, side: int = _MAX_SIDE, lossless: bool = False) -> PageImage:
    """Encode an image as WebP.

    Args:
        image: uint8 [H, W, 3].
        alt: its description.
        side: largest height and width in pixels.
        lossless: keep every pixel.
    """
    image = limit_size(image, side)
    height, width = image.shape[:2]
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="WEBP", quality=_QUALITY, lossless=lossless, method=4)
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
