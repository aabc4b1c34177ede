"""Bringing a picture of any shape to a square of one size."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Bicubic with antialiasing, as Parmar et al. 2022, "On Aliased Resizing and Surprising
# Subtleties in GAN Evaluation", recommend for data that a GAN is judged against.
_FILTER = Image.Resampling.BICUBIC
# Far larger pictures are first averaged down to this many times the size: much faster, and
# the difference cannot be seen.
_GAP = 3.0


def resize(
    picture: Image.Image | NDArray[np.uint8], size: int, fit: Literal["crop", "stretch", "pad"]
) -> NDArray[np.uint8]:
    """Resize a picture of any shape to uint8 [size, size] or [size, size, 3].

    Args:
        picture: an image of mode L or RGB, or uint8 [H, W] or [H, W, C] where C is 1 or 3.
        size: pixels, height and width.
        fit: ``crop`` fills the square and cuts off what stands over, evenly on both sides;
            ``stretch`` distorts; ``pad`` shows the whole picture on black, which is the same in
            every picture and so learnt once, where a colour of the picture's own would be
            one more thing to learn.
    """
    image = picture if isinstance(picture, Image.Image) else _image(picture)
    if fit == "pad":
        return np.asarray(_padded(image, size))
    if fit == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), _FILTER, reducing_gap=_GAP))


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


def _padded(image: Image.Image, size: int) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new(image.mode, (size, size))
    inner = image.resize((width, height), _FILTER, reducing_gap=_GAP)
    square.paste(inner, ((size - width) // 2, (size - height) // 2))
    return square
