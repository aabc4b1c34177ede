"""Squares around faces: upright around the box, or turned so that the landmarks align.

Points and vectors are complex numbers, x + iy. A similarity transform without reflection is then
``scale * point + offset``.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atelier.data.faces.face import Face, Floats

Template = Literal["celeba", "ffhq"]
Complexes = NDArray[np.complex128]

# Landmarks in CelebA's aligned images of 178x218 pixels: the detector's medians over the first
# 2,000 of them at half size, 2026-11-27. The means of CelebA's annotations differ by at most 0.8.
_CELEBA_SIZE = 178, 218
_CELEBA = np.array([69.4 + 111.9j, 108.8 + 111.9j, 88.6 + 136j, 71.7 + 153j, 106.2 + 153j])
# Eyes and corners of the mouth. The tip of the nose moves when a head turns: with it, the corners
# of CelebA's aligned images move by 1.9 of 64 pixels instead of 1.6 (median of 400 images).
_RIGID = [0, 1, 3, 4]

# A larger square is first averaged to at least this multiple of the row's size.
_REDUCING_GAP = 4


@dataclass(frozen=True)
class Square:
    """A square of an image, maybe turned.

    Attributes:
        center: its center.
        right: vector from the center to the middle of the right side.
    """

    center: complex
    right: complex


def square_around(face: Face, margin: float) -> Square:
    """Return the upright square around a face's box.

    Args:
        face: a face.
        margin: added at each side, as a share of the box's longer side.
    """
    left, top, right, bottom = face.box.tolist()
    center = complex(left + right, top + bottom) / 2
    return Square(center, face.size * (0.5 + margin))


def aligned_square(face: Face, template: Template) -> Square:
    """Return the square in which a face's landmarks are where a dataset has them.

    ``celeba`` is the central square of CelebA's aligned images, ``ffhq`` an image of FFHQ.
    """
    landmarks = as_complex(face.landmarks)
    if template == "ffhq":
        return _ffhq_square(landmarks)
    scale, offset = similarity(landmarks[_RIGID], _celeba_template()[_RIGID])
    # The square from -1-i to 1+i, mapped back to the image.
    return Square(-offset / scale, 1 / scale)


def as_complex(points: Floats) -> Complexes:
    """Return points [N, 2] as complex numbers [N]."""
    return np.asarray(points[:, 0] + 1j * points[:, 1])


def similarity(source: Complexes, target: Complexes) -> tuple[complex, complex]:
    """Return scale and offset of the similarity transform with the least squared error.

    The closed form of Umeyama 1991, "Least-squares estimation of transformation parameters between
    two point patterns". ``scale * source + offset`` is close to ``target``; the angle of ``scale``
    is the rotation.
    """
    centered = source - source.mean()
    scale = complex(np.vdot(centered, target - target.mean()) / np.vdot(centered, centered))
    return scale, complex(target.mean() - scale * source.mean())


def cut_square(image: Image.Image, square: Square, size: int) -> NDArray[np.uint8]:
    """Return a square of an image as uint8 [size, size] or [size, size, 3].

    The image is continued by reflection at its sides. Reducing is antialiased.
    """
    center, right = square.center, square.right
    reduction = int(2 * abs(right) / (size * _REDUCING_GAP))
    if reduction > 1:
        image = image.reduce(reduction)
        center, right = center / reduction, right / reduction
    # Pixels of the image are sampled at least as densely as they are, and averaged afterwards.
    side = size * max(1, math.ceil(2 * abs(right) / size))
    step = 2 * right / side  # from one sample to the next
    # OpenCV's coordinates are those of pixel centers.
    first = center - right * (1 + 1j) + step * (1 + 1j) / 2 - (0.5 + 0.5j)
    matrix = np.array([[step.real, -step.imag, first.real], [step.imag, step.real, first.imag]])
    samples = cv2.warpAffine(
        np.asarray(image),
        matrix,
        (side, side),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        # BORDER_REFLECT_101 never returns for an image with a side of one pixel (OpenCV 5.0).
        borderMode=cv2.BORDER_REFLECT,
    )
    if side == size:
        return np.asarray(samples, np.uint8)
    return np.asarray(Image.fromarray(samples).resize((size, size), Image.Resampling.BICUBIC))


def _celeba_template() -> Complexes:
    """Return CelebA's landmarks in its central square, which is from -1-i to 1+i."""
    width, height = _CELEBA_SIZE
    return (_CELEBA - complex(width, height) / 2) / (min(_CELEBA_SIZE) / 2)


def _ffhq_square(landmarks: Complexes) -> Square:
    """Return the crop of Karras et al. 2019, "A Style-Based Generator Architecture for GANs".

    Appendix A describes it: it depends on the eyes and on the corners of the mouth.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = landmarks.tolist()
    eyes, eye_to_eye = (left_eye + right_eye) / 2, right_eye - left_eye
    eye_to_mouth = (left_mouth + right_mouth) / 2 - eyes
    # A quarter turn makes the vector from the eyes to the mouth parallel to that between the eyes.
    direction = eye_to_eye - 1j * eye_to_mouth
    half = max(2.0 * abs(eye_to_eye), 1.8 * abs(eye_to_mouth))
    length = abs(direction)
    right = half * direction / length if length else complex(half)
    return Square(eyes + 0.1 * eye_to_mouth, right)
