"""Resizing of uint8 images."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Method = Literal["nearest", "lanczos", "area", "linear", "cubic"]

_PILLOW = {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
_OPENCV = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def resize_image(
    image: NDArray[np.uint8], height: int, width: int, method: Method
) -> NDArray[np.uint8]:
    """Resize an image.

    Args:
        image: uint8 [H, W, 3].
        height: pixels of the result.
        width: pixels of the result.
        method: ``nearest`` and ``lanczos`` are Pillow's, the others OpenCV's. Lanczos widens its
            filter when it reduces; ``linear`` and ``cubic`` do not.

    Returns:
        uint8 [height, width, 3]; the image itself if it has this size.
    """
    if image.shape[:2] == (height, width):
        return image
    if method in _PILLOW:
        return np.asarray(Image.fromarray(image).resize((width, height), _PILLOW[method]))
    return cv2.resize(image, (width, height), interpolation=_OPENCV[method]).astype(np.uint8)
