"""Group photographs composed of CelebA's aligned faces, with the true positions of the eyes."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from atelier.data.faces.face import Face

# Mean eyes of CelebA's annotations, (69, 111) and (108, 111) in pixels of 178x218 counted from 0,
# in the pictures of half that size.
EYES = (np.array([[69.0, 111.0], [108.0, 111.0]]) + 0.5) / 2
# Middle and half axes of the ellipse that is cut out of an aligned picture.
_MIDDLE, _AXES = np.array([44.5, 57.0]), np.array([33.0, 43.0])
_FEATHER = 0.12
# Side of the square crop at 64 pixels, in pixels of the aligned pictures.
CROP = 89.0


@dataclass(frozen=True, eq=False)
class GroupPhotograph:
    """Picture, uint8 [H, W, 3], with the eyes of its faces, [N, 2, 2], and their scales, [N]."""

    pixels: np.ndarray
    eyes: np.ndarray
    scales: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Recall, precision, and the median error of the eyes in pixels of a row of 64x64."""

    recall: float
    precision: float
    eye_error: float


def celeba_faces(archive: Path, count: int, start: int = 0) -> list[np.ndarray]:
    """Return aligned faces of a zip file, uint8 [109, 89, 3]."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        streams = (BytesIO(file.read(name)) for name in names[start : start + count])
        return [np.asarray(Image.open(stream).convert("RGB")) for stream in streams]


def group_photographs(
    faces: list[np.ndarray],
    count: int,
    size: tuple[int, int],
    seed: int,
    tilt: float | None = None,
) -> Iterator[GroupPhotograph]:
    """Yield pictures of one to six faces at random places and sizes.

    The side of a face is 6 to 33 percent of the picture's shorter side. All faces are turned by
    ``tilt`` degrees to the left or right; if it is ``None``, by random angles of up to 25.
    """
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield _compose(faces, size, generator, tilt)


def evaluate(photographs: list[GroupPhotograph], found: list[list[Face]]) -> Evaluation:
    """Compare detected faces with the true ones: eyes within 10 of 64 pixels are a match."""
    errors, true, detected = [], 0, 0
    for photograph, faces in zip(photographs, found, strict=True):
        true += len(photograph.eyes)
        detected += len(faces)
        remaining = [face.landmarks[:2] for face in faces]
        for eyes, scale in zip(photograph.eyes, photograph.scales, strict=True):
            row_pixel = CROP * scale / 64
            distances = [np.hypot(*(eyes - other).T).mean() / row_pixel for other in remaining]
            if distances and min(distances) < 10:
                errors.append(min(distances))
                remaining.pop(int(np.argmin(distances)))
    eye_error = float(np.median(errors)) if errors else np.inf
    return Evaluation(len(errors) / true, len(errors) / max(1, detected), eye_error)


def _compose(
    faces: list[np.ndarray],
    size: tuple[int, int],
    generator: np.random.Generator,
    tilt: float | None,
) -> GroupPhotograph:
    width, height = size
    pixels = _background(size, generator)
    circles: list[tuple[float, float, float]] = []
    eyes, scales = [], []
    for face in generator.permutation(len(faces))[: generator.integers(1, 7)]:
        # A face is 58 pixels high in an aligned picture.
        scale = min(size) * np.exp(generator.uniform(np.log(0.06), np.log(0.33))) / 58
        radius = scale * _AXES.max()
        for _ in range(100):
            x, y = generator.uniform(radius, [width - radius, height - radius])
            if all(np.hypot(x - a, y - b) > radius + other for a, b, other in circles):
                break
        else:
            continue
        circles.append((x, y, radius))
        share = generator.uniform(-1, 1)
        angle = np.deg2rad(25 * share if tilt is None else np.copysign(tilt, share))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        offset = np.array([x, y]) - turn @ _MIDDLE
        _paste(pixels, faces[face], turn, offset)
        eyes.append(EYES @ turn.T + offset)
        scales.append(scale)
    return GroupPhotograph(pixels, np.array(eyes), np.array(scales))


def _paste(pixels: np.ndarray, face: np.ndarray, turn: np.ndarray, offset: np.ndarray) -> None:
    """Blend the ellipse of a face into a picture; ``turn @ p + offset`` maps points."""
    scale = np.sqrt(abs(np.linalg.det(turn)))
    if scale < 1:
        face = cv2.GaussianBlur(face, (0, 0), 0.5 * np.sqrt(1 / scale**2 - 1))
    radius = scale * _AXES.max() + 1
    left, top = np.maximum(np.floor(turn @ _MIDDLE + offset - radius), 0).astype(int)
    right, bottom = np.ceil(turn @ _MIDDLE + offset + radius).astype(int)
    part = pixels[top:bottom, left:right]
    offset = offset - [left, top]
    # OpenCV's coordinates are those of pixel centers.
    matrix = np.hstack([turn, (offset + turn @ [0.5, 0.5] - 0.5)[:, None]])
    warped = cv2.warpAffine(
        face, matrix, part.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    y, x = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] + 0.5
    points = np.stack([x, y], axis=-1) - offset
    distance = np.hypot(*np.moveaxis((points @ np.linalg.inv(turn).T - _MIDDLE) / _AXES, -1, 0))
    alpha = np.clip((1 - distance) / _FEATHER, 0, 1)[..., None]
    part[:] = np.round(alpha * warped + (1 - alpha) * part)


def _background(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Return a gradient with blurred rectangles, ellipses and noise."""
    width, height = size
    corners = generator.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    pixels = cv2.resize(corners, size, interpolation=cv2.INTER_LINEAR)
    for _ in range(generator.integers(5, 40)):
        color = generator.integers(0, 256, 3).tolist()
        x, y = generator.integers(0, [width, height]).tolist()
        a, b = generator.integers(4, max(5, min(size) // 3), 2).tolist()
        if generator.random() < 0.5:
            cv2.rectangle(pixels, (x - a, y - b), (x + a, y + b), color, -1)
        else:
            angle = float(generator.uniform(0, 180))
            cv2.ellipse(pixels, (x, y), (a, b), angle, 0, 360, color, -1, cv2.LINE_AA)
    pixels = cv2.GaussianBlur(pixels, (0, 0), float(generator.uniform(0.5, 4)))
    noise = generator.normal(0, generator.uniform(1, 10), pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)
