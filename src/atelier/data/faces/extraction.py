"""Faces of a decoded image, and the squares that become rows."""

import math
import threading
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.core.settings import ConvertSettings
from atelier.data.faces.alignment import Square, aligned_square, square_around
from atelier.data.faces.face import Face, order_faces
from atelier.data.faces.mtcnn import Mtcnn, reduce
from atelier.data.faces.yunet import YuNet

# Faces are detected in a copy that is reduced while the smallest of them have at least this size,
# which is all that the detector's last network sees of a face.
_SMALLEST_SEEN = 48
MAX_FACES = 100
"""Largest number of faces of an image, which bounds the memory."""
# Smaller faces are not found.
_SMALLEST_FOUND = 20
# Side of the square of `align_to: celeba` divided by the longer side of the face's box: 178 / 116.
_SQUARE_PER_FACE = 1.5
# Limits for half of that side divided by the box's; 0.71 to 0.93 in 300 of CelebA's images.
_SMALLEST_SQUARE, _LARGEST_SQUARE = 0.4, 1.6


class Detector(Protocol):
    """A detector of faces, used by one thread."""

    def detect(self, image: NDArray[np.uint8], smallest: float) -> list[Face]:
        """Return the faces of an RGB image that have at least about this size in pixels."""


def min_decoded_side(settings: ConvertSettings, square: int) -> int:
    """Return the number of pixels that an image's shorter side needs after decoding.

    Args:
        settings: the smallest face.
        square: number of pixels that the side of the smallest face's square needs.
    """
    face = max(square / _SQUARE_PER_FACE, _SMALLEST_FOUND)
    return math.ceil(face / settings.smallest_face)


def find_faces(
    settings: ConvertSettings, pixels: NDArray[np.uint8], weights: bytes = b""
) -> list[Face]:
    """Return at most 100 faces of an image, uint8 [H, W, 3], from the largest to the smallest.

    Faces below ``smallest_face`` and ``face_confidence`` are left out, and those whose landmarks
    are not arranged like a face's.

    Args:
        settings: detector and limits.
        pixels: of an RGB image.
        weights: content of the detector's file if the detector is ``yunet``.
    """
    height, width = pixels.shape[:2]
    smallest = settings.smallest_face * min(height, width)
    reduction = max(1, int(smallest / _SMALLEST_SEEN))
    reduced = reduce(pixels, reduction)
    faces = [
        Face(reduction * face.box, reduction * face.landmarks, face.confidence)
        for face in _detector(settings, weights).detect(reduced, smallest / reduction)
        if face.confidence >= settings.face_confidence
    ]
    faces = order_faces([f for f in faces if f.size >= smallest and _has_plausible_landmarks(f)])
    return faces[: 1 if settings.faces_per_image == "largest" else MAX_FACES]


def _has_plausible_landmarks(face: Face) -> bool:
    half = abs(aligned_square(face, "celeba").right)
    return _SMALLEST_SQUARE * face.size < half < _LARGEST_SQUARE * face.size


def face_square(settings: ConvertSettings, face: Face) -> Square:
    """Return the square of an image that becomes a row."""
    if settings.faces == "align":
        return aligned_square(face, settings.align_to)
    return square_around(face, settings.face_margin)


_LOCAL = threading.local()


def _detector(settings: ConvertSettings, weights: bytes) -> Detector:
    """Return the detector of this thread: OpenCV's networks are not thread-safe."""
    wanted = settings.face_detector, weights
    if getattr(_LOCAL, "loaded", None) != wanted:
        # The threads of the conversion share the cores already.
        cv2.setNumThreads(1)
        _LOCAL.detector = YuNet(weights) if settings.face_detector == "yunet" else Mtcnn()
        _LOCAL.loaded = wanted
    detector: Detector = _LOCAL.detector
    return detector
