"""The second face detector, with a made network of YuNet's outputs."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.core.settings import ConvertSettings
from atelier.data.faces import yunet
from atelier.data.faces.extraction import find_faces
from atelier.data.faces.yunet import YUNET_FILE, YuNet, face_detector_weights, read_yunet
from atelier.data.image_list import read_image_list
from atelier.data.rows import convert_file

from ..support.image_files import saved
from ..support.project import Project

# Of the made network, in cells: box center and logarithm of its size, and landmarks.
BOX = [0.5, 0.5, np.log(1.5), np.log(2.0)]
LANDMARKS = [0.2, 0.1, 0.8, 0.1, 0.5, 0.5, 0.3, 0.8, 0.7, 0.8]


@pytest.fixture(scope="module")
def weights() -> bytes:
    """Return a network that finds a face in each white cell of 32x32 pixels.

    Outputs of the strides 8 and 16 are 0. The confidence is the cell's mean brightness.
    """
    nodes, constants = [], [numpy_helper.from_array(np.array([1, -1, 3]), "shape")]
    outputs = []
    for stride in (8, 16, 32):
        pool, cells, flat = (f"{part}_{stride}" for part in ("pool", "cells", "flat"))
        sides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(helper.make_node("AveragePool", ["input"], [pool], **sides))
        nodes.append(helper.make_node("Transpose", [pool], [cells], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Reshape", [cells, "shape"], [flat]))
        for name, bias in (("cls", [0]), ("obj", [0]), ("bbox", BOX), ("kps", LANDMARKS)):
            brightness = 1 / 765 if stride == 32 and len(bias) == 1 else 0
            factor, addend, product, output = (
                f"{name}_{stride}{part}" for part in ("_factor", "_bias", "_product", "")
            )
            matrix = np.full((3, len(bias)), brightness, np.float32)
            constants.append(numpy_helper.from_array(matrix, factor))
            constants.append(numpy_helper.from_array(np.array(bias, np.float32), addend))
            nodes.append(helper.make_node("MatMul", [flat, factor], [product]))
            nodes.append(helper.make_node("Add", [product, addend], [output]))
            shape = [1, None, len(bias)]
            outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, shape))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 160, 224])
    graph = helper.make_graph(nodes, "made", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@pytest.fixture
def settings(conversion: Callable[..., ConvertSettings]) -> ConvertSettings:
    return conversion(faces="crop", face_detector="yunet")


@pytest.fixture
def picture() -> np.ndarray:
    """Return a black image with a white cell in row 1 and column 3, and a gray one in row 3."""
    image = np.zeros((160, 224, 3), np.uint8)
    image[32:64, 96:128] = 255
    image[96:128, 32:64] = 215
    return image


def test_box_and_landmarks_are_in_pixels_of_the_image(weights: bytes, picture: np.ndarray) -> None:
    faces = sorted(YuNet(weights).detect(picture, 10), key=lambda face: -face.confidence)
    assert [round(face.confidence, 2) for face in faces] == [1.0, 0.84]
    assert faces[0].box == pytest.approx([112 - 24, 48 - 32, 112 + 24, 48 + 32], abs=0.01)
    landmarks = np.reshape(LANDMARKS, (5, 2)) * 32 + [96, 32]
    assert faces[0].landmarks == pytest.approx(landmarks, abs=0.01)


def test_large_image_is_reduced_until_the_smallest_face_is_20_pixels(
    weights: bytes, picture: np.ndarray
) -> None:
    large = picture.repeat(3, axis=0).repeat(3, axis=1)
    (small, *_), (face, *_) = (
        sorted(YuNet(weights).detect(image, size), key=lambda face: -face.confidence)
        for image, size in ((picture, 20), (large, 60))
    )
    assert face.box == pytest.approx(3 * small.box, abs=0.1)
    assert face.landmarks == pytest.approx(3 * small.landmarks, abs=0.1)


def test_faces_of_the_setting_are_rows(
    weights: bytes, picture: np.ndarray, settings: ConvertSettings
) -> None:
    assert len(find_faces(settings, picture, weights)) == 1, "the gray cell is too uncertain"
    file = convert_file(settings, ("a.png", saved(Image.fromarray(picture))), weights)
    assert [row.name for row in file.rows] == ["a.png#1"]
    assert find_faces(settings, np.zeros_like(picture), weights) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_tiny_image_has_no_face(weights: bytes, size: tuple[int, int]) -> None:
    assert YuNet(weights).detect(np.full((*size, 3), 90, np.uint8), 1) == []


def test_only_the_published_file_is_read(
    tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / YUNET_FILE
    with pytest.raises(AtelierError, match=r"2023mar\.onnx is missing or cannot be read; put face"):
        read_yunet(path)
    path.write_bytes(weights)
    with pytest.raises(AtelierError, match=r"has other content; .* convert\.face_detector to mtcn"):
        read_yunet(path)
    monkeypatch.setattr(yunet, "YUNET_SHA256", hashlib.sha256(weights).hexdigest())
    assert read_yunet(path) == weights


@pytest.mark.parametrize(
    ("faces", "detector", "needed"),
    [("none", "yunet", False), ("crop", "yunet", True), ("align", "mtcnn", False)],
)
def test_weights_of_the_face_detector_are_read_if_needed(
    settings: ConvertSettings, tmp_path: Path, faces: str, detector: str, needed: bool
) -> None:
    changed = settings.model_copy(update={"faces": faces, "face_detector": detector})
    if needed:
        with pytest.raises(AtelierError, match=YUNET_FILE):
            face_detector_weights(changed, tmp_path)
    else:
        assert face_detector_weights(changed, tmp_path) == b""


def test_convert_stage_uses_the_detector_of_the_settings(
    ready: Project,
    tmp_path: Path,
    weights: bytes,
    picture: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(picture).save(folder / "cells.png")
    ready.set(
        **{
            "download.source": "folder",
            "download.folders": {"mine": str(folder)},
            "convert.faces": "crop",
            "convert.face_detector": "yunet",
        }
    )
    ready.stage("watch", DVC_STAGE="watch@mine")
    ready.stage("download")
    assert f"data/weights/{YUNET_FILE} is missing" in ready.stage("convert", ok=False)
    (ready.folder / "data/weights" / YUNET_FILE).write_bytes(weights)
    monkeypatch.setattr(yunet, "YUNET_SHA256", hashlib.sha256(weights).hexdigest())
    ready.stage("convert")
    names = [entry.name for entry in read_image_list(ready.folder / "data/images.csv")]
    assert names == ["mine/cells.png#1"]  # MTCNN finds no face in it


def test_network_needs_the_file(settings: ConvertSettings, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="content of its file"):
        find_faces(settings, picture)
