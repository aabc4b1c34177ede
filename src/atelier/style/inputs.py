"""Images to stylize, their styles and masks, and conversions before the style transfer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atelier.core.arrays import to_tensor
from atelier.core.resizing import Method, resize_image

UInt8Image = NDArray[np.uint8]


@dataclass(frozen=True)
class StyleInputs:
    """Images of style transfers, uint8 ``[H, W, 3]``, RGB, of any sizes.

    Attributes:
        contents: images to stylize, by name.
        styles: style images, by name.
        masks: one for each style, white where the style applies; empty for whole images.
    """

    contents: Mapping[str, UInt8Image]
    styles: Mapping[str, UInt8Image]
    masks: Sequence[UInt8Image] = ()


def resize_to_tensor(image: UInt8Image, size: int) -> Tensor:
    """Resize an image so that its shorter side has ``size`` pixels, and convert it to a tensor.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        size: pixels of the shorter side; the longer side keeps the aspect ratio, rounded.

    Returns:
        float32 ``[1, 3, h, w]``, RGB, 0 to 1.
    """
    height, width = scaled_shape(image.shape, size)
    method: Method = "area" if height < image.shape[0] else "cubic"
    # A copy, because torch warns about read-only arrays.
    pixels = torch.from_numpy(np.array(resize_image(image, height, width, method)))
    return to_tensor(pixels[None], signed=False).contiguous()


def scaled_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return height and width of an image of ``shape``, scaled to a shorter side of ``size``."""
    height, width = shape[:2]
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def name_faces(faces: UInt8Image) -> dict[str, UInt8Image]:
    """Return generated faces as RGB images, named ``face_01``, ``face_02`` and so on.

    Args:
        faces: uint8 ``[N, H, W, C]``, grayscale (C = 1) or RGB (C = 3).

    Returns:
        uint8 ``[H, W, 3]`` by name, in order.
    """
    rgb = np.broadcast_to(faces, (*faces.shape[:3], 3))
    return {f"face_{number:02d}": face for number, face in enumerate(rgb, start=1)}
