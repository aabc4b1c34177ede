"""Conversions of images before and after style transfer."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UInt8Image = NDArray[np.uint8]


def to_tensor(image: UInt8Image, size: int) -> Tensor:
    """Resize an image so that its shorter side has ``size`` pixels, and convert it to a tensor.

    Args:
        image: uint8 ``[H, W, 3]``, RGB.
        size: pixels of the shorter side; the longer side keeps the aspect ratio, rounded.

    Returns:
        float32 ``[1, 3, h, w]``, RGB, 0 to 1.
    """
    # A copy, because torch warns about read-only arrays.
    scaled = np.array(_resize(image, *scaled_shape(image.shape, size)))
    return torch.from_numpy(scaled).permute(2, 0, 1)[None].contiguous().float() / 255


def scaled_shape(shape: tuple[int, ...], size: int) -> tuple[int, int]:
    """Return height and width of an image of ``shape``, scaled to a shorter side of ``size``."""
    height, width = shape[:2]
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def to_uint8(images: Tensor) -> UInt8Image:
    """Convert float ``[B, 3, H, W]``, 0 to 1, to uint8 ``[B, H, W, 3]``, rounded and clamped."""
    levels = (images.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def name_faces(faces: UInt8Image) -> dict[str, UInt8Image]:
    """Return generated faces as RGB images, named ``face_01``, ``face_02`` and so on.

    Args:
        faces: uint8 ``[N, H, W, C]``, grayscale (C = 1) or RGB (C = 3).

    Returns:
        uint8 ``[H, W, 3]`` by name, in order.
    """
    rgb = np.broadcast_to(faces, (*faces.shape[:3], 3))
    return {f"face_{number:02d}": face for number, face in enumerate(rgb, start=1)}


def _resize(image: UInt8Image, height: int, width: int) -> UInt8Image:
    if (height, width) == image.shape[:2]:
        return image
    interpolation = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=interpolation).astype(np.uint8)
