"""Detected faces, in pixels of the image that they were found in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Face:
    """A detected face. A pixel covers one unit: an image's left edge is 0, not -0.5.

    Attributes:
        box: left, top, right and bottom, float64 [4]. It may exceed the image.
        landmarks: x and y of the left eye, the right eye, the tip of the nose, and the left and
            right corner of the mouth, float64 [5, 2]. Left means left in the image.
        confidence: the detector's probability, 0 to 1.
    """

    box: Floats
    landmarks: Floats
    confidence: float

    @property
    def size(self) -> float:
        """The longer side of the box."""
        return float(max(self.box[2] - self.box[0], self.box[3] - self.box[1]))


def order_faces(faces: list[Face]) -> list[Face]:
    """Return faces from the largest to the smallest; of equal size, from left to right."""
    return sorted(faces, key=lambda face: (-face.size, *face.box.tolist()))
