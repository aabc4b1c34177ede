"""Words on pictures: strips of lettering above or below a montage."""

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


def caption(text: str, width: int, height: int = CAPTION_HEIGHT) -> NDArray[np.uint8]:
    """Set ``text`` in the middle of a strip of paper.

    Args:
        text: one line; lettered smaller where the strip is too narrow for it.
        width: of the strip, in pixels.
        height: of the strip, in pixels.

    Returns:
        uint8 [height, width, 3], RGB.
    """
    strip = Image.new("RGB", (width, height), BACKGROUND)
    room = 0.94 * width / max(1.0, _font(FONT_SIZE).getlength(text))
    font = _font(max(4, int(FONT_SIZE * min(1.0, room))))
    middle = (width / 2, height / 2)
    ImageDraw.Draw(strip).text(middle, text, fill=TEXT, font=font, anchor="mm")
    return np.asarray(strip)


def text_width(texts: Sequence[str]) -> int:
    """How wide a strip must be for the longest of these lines at full size, in pixels."""
    return int(max(_font(FONT_SIZE).getlength(text) for text in texts) / 0.94) + FONT_SIZE


def captioned(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Put a strip with ``text`` under a picture, so that the words hide nothing.

    Args:
        picture: uint8 [H, W, 3], RGB.
        text: one line.

    Returns:
        uint8 [H + STRIP, W, 3], RGB.
    """
    return np.vstack([picture, caption(text, picture.shape[1])])


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    # The basic layout is part of every Pillow; the other one depends on what is installed.
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
