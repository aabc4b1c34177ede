"""YuNet: a single network that finds faces and five landmarks, read by OpenCV's FaceDetectorYN.

Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector". The user puts the file into
data/weights.
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.paths import user_path
from atelier.core.settings import ConvertSettings
from atelier.data.faces.face import Face

YUNET_FILE = "face_detection_yunet_2023mar.onnx"
# The only file that is accepted, so that the settings and the code determine the result.
YUNET_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
_ADDRESS = "https://github.com/opencv/opencv_zoo/tree/main/models/face_detection_yunet"

# The smallest faces have this size in the network's input; it is trained on 10 to 300 pixels.
_SMALLEST = 20
_MIN_CONFIDENCE, _MAX_OVERLAP, _MAX_CANDIDATES = 0.6, 0.3, 2000
_MAX_PIXELS = 2_000_000  # of the input, to limit memory and time


class YuNet:
    """YuNet with its network. An instance must not be used by two threads at once."""

    def __init__(self, weights: bytes) -> None:
        """Load the network from the bytes of its file.

        Raises:
            ValueError: there are none.
        """
        if not weights:
            raise ValueError("YuNet needs the content of its file")
        self._network = cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(weights, np.uint8),
            np.empty(0, np.uint8),
            (320, 320),
            _MIN_CONFIDENCE,
            _MAX_OVERLAP,
            _MAX_CANDIDATES,
        )

    def detect(self, image: NDArray[np.uint8], smallest: float) -> list[Face]:
        """Return the faces of an image, in no particular order.

        Args:
            image: RGB, uint8 [H, W, 3].
            smallest: size in pixels of the smallest faces to find.
        """
        height, width = image.shape[:2]
        scale = min(_SMALLEST / max(smallest, _SMALLEST), (_MAX_PIXELS / (width * height)) ** 0.5)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._network.setInputSize(size)
        _, found = self._network.detect(cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))
        if found is None:
            return []
        values = found.astype(np.float64)
        ratio = np.array([width / size[0], height / size[1]])
        # Points: two corners of the box as corner and size, then the landmarks.
        points = values[:, :14].reshape(-1, 7, 2) * ratio
        return [
            Face(np.concatenate([each[0], each[0] + each[1]]), each[2:], float(confidence))
            for each, confidence in zip(points, values[:, 14], strict=True)
        ]


def face_detector_weights(settings: ConvertSettings, folder: Path) -> bytes:
    """Return the weights of the face detector; empty if the settings need none.

    Args:
        settings: the ``convert`` section.
        folder: of the weights' file.

    Raises:
        AtelierError: the file is missing or damaged.
    """
    if settings.faces == "none" or settings.face_detector != "yunet":
        return b""
    return read_yunet(user_path(folder / YUNET_FILE))


def read_yunet(path: Path) -> bytes:
    """Return the content of YuNet's file.

    Raises:
        AtelierError: the file is missing, or is another one.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        content = b""
    if hashlib.sha256(content).hexdigest() == YUNET_SHA256:
        return content
    problem = "is missing or cannot be read" if not content else "has other content"
    raise AtelierError(
        f"convert.face_detector is yunet, but {path} {problem}; put {YUNET_FILE} of {_ADDRESS}"
        " there, or set convert.face_detector to mtcnn."
    )
