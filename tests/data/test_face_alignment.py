"""Alignment of faces: closed forms, published crops, and crops of known pixels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from atelier.data.faces.alignment import (
    Square,
    aligned_square,
    as_complex,
    cut_square,
    similarity,
    square_around,
)
from atelier.data.faces.face import Face, order_faces

# The detector's landmarks in CelebA's aligned images of 178x218 pixels.
CELEBA = np.array([[69.4, 111.9], [108.8, 111.9], [88.6, 136.0], [71.7, 153.0], [106.2, 153.0]])


def face(landmarks: np.ndarray, box: tuple[float, ...] = (0, 0, 10, 10)) -> Face:
    return Face(np.array(box, np.float64), landmarks, 1.0)


@given(
    scale=st.floats(0.01, 100),
    angle=st.floats(-3.1, 3.1),
    x=st.floats(-1000, 1000),
    y=st.floats(-1000, 1000),
)
def test_known_similarity_is_recovered(scale: float, angle: float, x: float, y: float) -> None:
    points = as_complex(CELEBA)
    expected, offset = scale * np.exp(1j * angle), complex(x, y)
    found = similarity(points, expected * points + offset)
    assert found == pytest.approx((expected, offset), rel=1e-9, abs=1e-6)


def test_similarity_equals_linear_least_squares() -> None:
    generator = np.random.default_rng(1)
    source, target = generator.normal(size=(2, 5, 2))
    (x, y), one, zero = source.T, np.ones(5), np.zeros(5)
    system = np.vstack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, target.T.ravel(), rcond=None)[0]
    found = similarity(as_complex(source), as_complex(target))
    assert found == pytest.approx((complex(a, b), complex(c, d)), rel=1e-9)


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (0.5, 0.0), (3.0, 0.4), (20.0, -0.4)])
def test_face_of_an_aligned_image_gives_its_central_square(scale: float, angle: float) -> None:
    turn = scale * np.exp(1j * angle)
    points = turn * as_complex(CELEBA) + (7 - 3j)
    square = aligned_square(face(np.stack([points.real, points.imag], 1)), "celeba")
    assert square.center == pytest.approx(turn * (89 + 109j) + (7 - 3j), rel=1e-9)
    assert square.right == pytest.approx(89 * turn, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_ffhq_square_equals_the_published_rule(seed: int) -> None:
    """The rule in the notation of ffhq-dataset's script: vectors of x and y."""
    landmarks = CELEBA + np.random.default_rng(seed).normal(0, 8, (5, 2))
    left_eye, right_eye, _, left_mouth, right_mouth = landmarks
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    x = right_eye - left_eye - np.flipud(mouth - eyes) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*(right_eye - left_eye)) * 2.0, np.hypot(*(mouth - eyes)) * 1.8)
    y = np.flipud(x) * [-1, 1]
    center = eyes + (mouth - eyes) * 0.1
    square = aligned_square(face(landmarks), "ffhq")
    corner = square.center - square.right * (1 + 1j)
    assert [corner.real, corner.imag] == pytest.approx(center - x - y, rel=1e-9)
    assert [square.right.real, square.right.imag] == pytest.approx(x, rel=1e-9)


def test_square_around_a_box_has_the_margin_at_each_side() -> None:
    square = square_around(face(CELEBA, (10, 20, 50, 100)), 0.25)
    assert square == Square(30 + 60j, 60)  # 80 pixels and two margins of 20


def test_faces_are_ordered_by_size_and_place() -> None:
    boxes = [(5, 0, 9, 3), (0, 0, 4, 4), (0, 0, 9, 1), (0, 1, 4, 4)]
    faces = [face(CELEBA, box) for box in boxes]
    expected = [boxes[2], boxes[1], boxes[3], boxes[0]]
    for order in (faces, faces[::-1]):
        assert [tuple(f.box) for f in order_faces(order)] == expected


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_square_of_equal_size_is_copied(turns: int) -> None:
    """Quarter turns map pixels to pixels, so that no value changes."""
    pixels = noise(30, 40)
    square = Square(10 + 12j, 8 * 1j**turns)
    row = cut_square(Image.fromarray(pixels), square, 16)
    assert np.array_equal(row, np.rot90(pixels[4:20, 2:18], turns))


def test_outside_of_the_image_is_its_reflection() -> None:
    pixels = noise(20, 16)
    row = cut_square(Image.fromarray(pixels), Square(2 + 19j, 16), 32)
    padded = np.pad(pixels, ((16, 16), (16, 16), (0, 0)), mode="symmetric")
    assert np.array_equal(row, padded[19:51, 2:34])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3)])
@pytest.mark.parametrize("half", [0.2, 4.0, 3e3])
def test_very_small_image_is_continued(size: tuple[int, int], half: float) -> None:
    row = cut_square(Image.new("RGB", size, (1, 2, 3)), Square(0.5 + 0.5j, half), 16)
    assert (row == [1, 2, 3]).all()


@pytest.mark.parametrize("side", [130, 400, 2000])
def test_reduced_stripes_are_averaged(side: int) -> None:
    """Without antialiasing, samples of stripes of one pixel are black and white."""
    stripes = np.zeros((side, side), np.uint8)
    stripes[:, ::2] = 255
    square = Square(complex(side, side) / 2, side / 2.2 * np.exp(0.3j))
    row = cut_square(Image.fromarray(stripes), square, 16).astype(int)
    assert np.abs(row - 127.5).max() < 16


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("half", [9.0, 31.0, 77.0, 500.0])
def test_positions_are_exact_at_any_scale_and_angle(half: float, mode: Any) -> None:
    """A blob at 0.5 and -0.25 of the square is there in the row."""
    center, right = 600 + 550j, half * np.exp(0.35j)
    middle = center + right * (0.5 - 0.25j)
    rows, columns = np.mgrid[0:1100, 0:1200] + 0.5
    blob = 255 * np.exp(
        -((columns - middle.real) ** 2 + (rows - middle.imag) ** 2) / (2 * (0.12 * half) ** 2)
    )
    image = Image.fromarray(np.round(blob).astype(np.uint8)).convert(mode)
    row = cut_square(image, Square(center, right), 64).reshape(64, 64, -1)[:, :, 0].astype(float)
    steps = np.arange(64) + 0.5
    found = np.array([(row.sum(0) @ steps), (row.sum(1) @ steps)]) / row.sum()
    assert found == pytest.approx([48, 24], abs=0.06)
