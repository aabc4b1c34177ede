"""Captions: strips of text above or below an image."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (243, 241, 237)
TEXT = (52, 48, 44)
CAPTION_HEIGHT = 30
FONT_SIZE = 15
IMAGES_NOT_SHARED = "Real images are not shown here: convert.share_images"
"""Sentence in place of images of the data, which this setting keeps private."""


def caption(text: str, width: int, height: int = CAPTION_HEIGHT) -> NDArray[np.uint8]:
    """Return a strip with ``text`` in its center.

    Args:
        text: one line; the font shrinks if the strip is too narrow.
        width: of the strip, in pixels.
        height: of the strip, in pixels.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    strip = Image.new("RGB", (width, height), BACKGROUND)
    scale = 0.94 * width / max(1.0, _font(FONT_SIZE).getlength(text))
    font = _font(max(4, int(FONT_SIZE * min(1.0, scale))))
    center = (width / 2, height / 2)
    ImageDraw.Draw(strip).text(center, text, fill=TEXT, font=font, anchor="mm")
    return np.asarray(strip)


def text_width(texts: Sequence[str]) -> int:
    """Return the width in pixels of a strip for the longest line at full size."""
    return int(max(_font(FONT_SIZE).getlength(text) for text in texts) / 0.94) + FONT_SIZE


def captioned(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Append a caption below an image.

    Args:
        image: uint8 [H, W, 3], RGB.
        text: one line.

    Returns:
        uint8 [H + CAPTION_HEIGHT, W, 3], RGB.
    """
    return np.vstack([image, caption(text, image.shape[1])])


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    # Every Pillow has the basic layout; the other one depends on installed libraries.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
