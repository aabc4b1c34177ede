"""Pictures on their way into painting and out of it."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UInt8Image = NDArray[np.uint8]


def to_tensor(picture: UInt8Image, size: int) -> Tensor:
    """Scale a picture so that its shorter side is ``size`` pixels, and make it a tensor.

    Args:
        picture: uint8 ``[H, W, 3]``, RGB.
        size: pixels of the shorter side; the other follows, rounded.

    Returns:
        float32 ``[1, 3, h, w]``, RGB, 0 to 1.
    """
    # A copy, because pictures that may not be written to are none for torch.
    scaled = np.array(_resize(picture, *scaled_shape(picture.shape, size)))
    return torch.from_numpy(scaled).permute(2, 0, 1)[None].contiguous().float() / 255


def scaled_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Height and width of a picture of ``shape`` when its shorter side is ``size`` pixels."""
    height, width = shape[:2]
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def to_uint8(pictures: Tensor) -> UInt8Image:
    """Turn float ``[B, 3, H, W]``, 0 to 1, into uint8 ``[B, H, W, 3]``, rounded and clamped."""
    levels = (pictures.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def name_faces(faces: UInt8Image) -> dict[str, UInt8Image]:
    """Give generated faces names, ``face_01`` and so on, and colour channels.

    Args:
        faces: uint8 ``[N, H, W, C]``, grey (C = 1) or RGB (C = 3).

    Returns:
        uint8 ``[H, W, 3]``, RGB, by name, in the order given.
    """
    colored = np.broadcast_to(faces, (*faces.shape[:3], 3))
    return {f"face_{number:02d}": face for number, face in enumerate(colored, start=1)}


def _resize(picture: UInt8Image, height: int, width: int) -> UInt8Image:
    if (height, width) == picture.shape[:2]:
        return picture
    shrinks = height < picture.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(picture, (width, height), interpolation=how).astype(np.uint8)
