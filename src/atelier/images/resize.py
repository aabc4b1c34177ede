"""Bringing a picture of any shape to a square of one size."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.images.picture import DecodedImage

# Bicubic with antialiasing, as Parmar et al. 2022, "On Aliased Resizing and Surprising
# Subtleties in GAN Evaluation", recommend for data that a GAN is judged against.
_FILTER = Image.Resampling.BICUBIC
# Far larger pictures are first averaged down to this many times the size: much faster, and
# the difference cannot be seen.
_GAP = 3.0


def resize(
    picture: DecodedImage | Image.Image | NDArray[np.uint8],
    size: int,
    fit: Literal["crop", "stretch", "pad"],
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
    decoded = _decoded(picture)
    width, height = decoded.size
    if fit == "pad":
        return np.asarray(_padded(decoded, size))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return np.asarray(_resized(decoded, (left, top, left + side, top + side), (size, size)))
    return np.asarray(_resized(decoded, (0, 0, width, height), (size, size)))


def _decoded(picture: DecodedImage | Image.Image | NDArray[np.uint8]) -> DecodedImage:
    if isinstance(picture, DecodedImage):
        return picture
    if isinstance(picture, Image.Image):
        return DecodedImage.whole(picture)
    pixels = picture[:, :, 0] if picture.shape[2:] == (1,) else picture
    return DecodedImage.whole(Image.fromarray(pixels))


def _resized(
    decoded: DecodedImage, part: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    """Resize a part of a picture, in pixels of its full size."""
    x, y = decoded.box[:2]
    left, top, right, bottom = (
        origin + side / decoded.reduction for origin, side in zip((x, y, x, y), part, strict=True)
    )
    # Without what lies outside of the part, which the filter would reach.
    start = math.floor(left), math.floor(top)
    end = math.ceil(right), math.ceil(bottom)
    image = decoded.image
    if start != (0, 0) or end != image.size:
        image = image.crop((*start, *end))
    box = (left - start[0], top - start[1], right - start[0], bottom - start[1])
    return image.resize(size, _FILTER, box, _GAP)


def _padded(decoded: DecodedImage, size: int) -> Image.Image:
    width, height = decoded.size
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = Image.new(decoded.image.mode, (size, size))
    resized = _resized(decoded, (0, 0, width, height), inner)
    square.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return square
