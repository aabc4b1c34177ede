"""Comparison of the built-in faces with stored traits, images and hashes.

After an intended change of a drawing, store new sums and hashes with
`python -m tests.sample_faces.test_drawn_faces`. `dvc repro` then writes another sample, so
measured numbers change too.
"""

import hashlib
from dataclasses import astuple, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from atelier.sample_faces.canvas import Canvas, curve, ellipse, mix
from atelier.sample_faces.hair import HAIR_STYLES
from atelier.sample_faces.portrait import portrait
from atelier.sample_faces.shapes import HAIR_SIDE, W, darker, evaluate, lighter, resolve, symmetric
from atelier.sample_faces.traits import FaceTraits, random_traits

from ..support.golden import differences, store
from ..support.selection import slow_after

_STORED = Path(__file__).with_name("drawn_faces.npz")
_HASHES = Path(__file__).with_name("drawn_faces.txt")
_TRAITS = "fc5517cb2f84f2655a6df5705fc338e6ba9d02614f9d1c87be3f57ab037e45a4"
# Image sizes of training sets (64, 32) and of files of the source `sample`.
_SIZES = ((64, 64), (32, 32), (64, 64), (137, 137), (64, 64), (94, 80), (200, 280), (180, 201))
_EYES = ("round", "almond", "sleepy", "happy", "wink")
_MOUTHS = ("smile", "grin", "laugh", "flat", "smirk", "sad", "oh", "lips")
_BACKGROUNDS = ("gradient", "dots", "rays", "sun", "hills", "stripes")
_COLLARS = ("round", "vee", "shirt", "turtleneck", "striped")
_BEARDS = ("none", "goatee", "none", "full", "none", "moustache", "none", "stubble")
_HATS = ("beanie", "cap", "straw", "party", "bow", "band")
_NOSES = ("button", "straight", "wide", "pointed")
_GLASSES = ("round", "square", "cat", "sun")


def _face(number: int) -> FaceTraits:
    """Return one of 26 faces that have all options, most of them at least twice."""
    hat = number - 20
    hair = ("bald", "short", "fringe", "long", "buzz", "bob")[hat] if hat >= 0 else None
    return replace(
        random_traits(np.random.default_rng(number)),
        hair_style=hair or list(HAIR_STYLES)[number % 13],
        hair_side=(-1, 1)[number % 2],
        eye_style=_EYES[number % 5],
        mouth=_MOUTHS[number % 8],
        nose=_NOSES[(number + number // 8) % 4],
        beard=_BEARDS[(number + number // 8) % 8],
        glasses=_GLASSES[number // 6] if number % 6 == 5 else "none",
        hat=_HATS[hat] if hat >= 0 else "none",
        collar=_COLLARS[number % 5],
        background=_BACKGROUNDS[number % 6],
        earrings=number % 3 == 1,
        freckles=number % 3 == 0,
        light=(0.4, -0.9, 0.8)[number % 3],
    )


def _images() -> dict[str, NDArray[np.uint8]]:
    shapes = ((96, 96), (84, 96), (96, 72))
    return {
        f"face_{number:02d}": portrait(
            _face(number), *shapes[number % 3], np.random.default_rng(number)
        )
        for number in range(26)
    }


def test_drawn_faces_equal_stored_images() -> None:
    assert differences(_STORED, _images()) == []


def _random_faces(count: int = 320) -> list[FaceTraits]:
    return [random_traits(np.random.default_rng([11, number])) for number in range(count)]


def _hashes(count: int = 320) -> list[str]:
    """Return a line with number, size and SHA-256 for each of the first random faces."""
    lines = []
    for number, face in enumerate(_random_faces(count)):
        width, height = _SIZES[number % len(_SIZES)]
        image = portrait(face, width, height, np.random.default_rng([13, number]))
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        lines.append(f"{number:03d} {width}x{height} {digest[:32]}")
    return lines


def _platform() -> str:
    """Return the version and CPU features that affect rounding in OpenCV."""
    return f"OpenCV {cv2.__version__} {cv2.getCPUFeaturesLine()}"


@pytest.mark.parametrize("count", slow_after(1, [80, 320]))
def test_random_faces_equal_stored_hashes(count: int) -> None:
    platform, *stored = _HASHES.read_text("utf-8").splitlines()
    if platform != _platform():
        pytest.skip(f"the hashes are of {platform}; another one may round a level differently")
    assert _hashes(count) == stored[:count]


def test_hashed_faces_have_all_options() -> None:
    faces = _random_faces()
    for trait, options in {
        "hair_style": HAIR_STYLES,
        "hair_side": (-1, 1),
        "eye_style": _EYES,
        "mouth": _MOUTHS,
        "nose": _NOSES,
        "beard": _BEARDS,
        "glasses": ("none", *_GLASSES),
        "hat": ("none", *_HATS),
        "collar": _COLLARS,
        "background": _BACKGROUNDS,
        "earrings": (False, True),
        "freckles": (False, True),
    }.items():
        values = [getattr(face, trait) for face in faces]
        assert set(values) == set(options)
        assert min(map(values.count, options)) >= 5, trait
    assert {np.sign(face.light) for face in faces} == {-1, 1}


def _digest() -> str:
    faces = [astuple(random_traits(np.random.default_rng([7, number]))) for number in range(500)]
    return hashlib.sha256(repr(faces).encode()).hexdigest()


def test_random_traits_equal_stored_hash() -> None:
    assert _digest() == _TRAITS


@pytest.mark.parametrize(("fraction", "expected"), [(0, (10, 200, 0)), (0.25, (20, 150, 10))])
def test_colors_mix_in_proportion(fraction: float, expected: tuple[int, int, int]) -> None:
    assert mix((10, 200, 0), (50, 0, 40), fraction) == expected
    assert resolve(darker((10, 200, 0), 1.0), {}) == (28, 14, 24)
    assert resolve(lighter("hair", 1.0), {"hair": (10, 200, 0)}) == (255, 250, 240)


def test_length_is_linear_combination_of_traits() -> None:
    traits = {"width": 10.0, "hair_side": -1}
    assert evaluate(0.5 * W + 2 * HAIR_SIDE - 0.25, traits) == 2.75
    assert evaluate(1.0 - (W + 0.5) * 2, traits) == -20
    assert evaluate(0.75, traits) == 0.75
    points = symmetric((0.0, 1.0), (W, 2.0), (2 * W, 3.0))
    assert [evaluate(x, traits) for x, _ in points] == [-20, -10, 0, 10, 20]
    assert [y for _, y in points] == [3, 2, 1, 2, 3]


def test_curve_contains_its_points_and_ellipse_has_its_radii() -> None:
    points = [(0.0, 0.0), (1.0, 2.0), (3.0, 1.0)]
    line = curve(*points, steps=5)
    assert line[::5].tolist() == [list(point) for point in points]
    assert len(curve(*points, closed=True)) == 24
    # Evenly spaced points on a line give an evenly spaced line, except at its ends.
    even = curve(*((float(x), 0.0) for x in range(6)), steps=4)
    assert np.allclose(even[4:-5, 0], np.arange(1, 4, 0.25))
    outline = ellipse(1.0, 2.0, 3.0, 0.5, np.pi / 2)
    assert outline.shape == (48, 2)
    assert np.allclose([outline.min(0), outline.max(0)], [[0.5, -1], [1.5, 5]])


def test_image_is_drawn_at_192_pixels_or_more_and_downsampled() -> None:
    assert Canvas(96, 48).pixels.shape == (192, 384, 3)
    assert Canvas(400, 300).pixels.shape == (300, 400, 3)
    canvas = Canvas(96, 96)
    x, y = canvas.grid()
    assert x.shape == (1, 192)
    # A head of 1.3 units takes 75 % of the side; its center is at 50 % and 53 %.
    assert np.allclose(np.diff(x), 1.3 / (0.75 * 192))
    assert np.allclose([x[0, 0], y[0, 0]], -(np.array([0.5, 0.53]) * 192 - 0.5) * 1.3 / 144)
    canvas.pixels[::2] = 100
    assert (canvas.to_image() == 50).all()
    assert canvas.to_image().shape == (96, 96, 3)


def test_shape_outside_of_canvas_is_not_drawn() -> None:
    canvas = Canvas(192, 192)
    canvas.tint(ellipse(9.0, 0.0, 0.1, 0.1), (255, 255, 255))
    assert canvas.pixels.max() == 0
    canvas.tint(ellipse(0.0, 0.0, 0.5, 0.5), (200, 100, 50), 0.5)
    middle = canvas.pixels[102, 96].tolist()
    assert middle == [100, 50, 25]


if __name__ == "__main__":
    store(_STORED, _images())
    _HASHES.write_text("\n".join([_platform(), *_hashes()]) + "\n", "utf-8")
    print(_digest())
