"""The drawn faces: every trait, shape and color is the stored one.

`python -m tests.images.test_drawn_faces` stores the sums anew after a drawing was changed on
purpose; `dvc repro` then makes another sample, so that measured numbers change too.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from atelier.images.faces.canvas import Canvas, curve, darker, ellipse, lighter, mix
from atelier.images.faces.portrait import portrait
from atelier.images.faces.traits import HAIR_STYLES, Face, random_face

from ..support.golden import differences, store

_STORED = Path(__file__).with_name("drawn_faces.npz")
_TRAITS = "eb9a10b7f3a0cf6d46503f707938c10a879282aa6937331cbfc58d7574e2155c"
_EYES = ("round", "almond", "sleepy", "happy", "wink")
_MOUTHS = ("smile", "grin", "laugh", "flat", "smirk", "sad", "oh", "lips")
_BACKDROPS = ("gradient", "dots", "rays", "sun", "hills", "stripes")
_COLLARS = ("round", "vee", "shirt", "turtleneck", "striped")
_BEARDS = ("none", "goatee", "none", "full", "none", "moustache", "none", "stubble")
_HATS = ("beanie", "cap", "straw", "party", "bow", "band")
_NOSES = ("button", "straight", "wide", "pointed")
_GLASSES = ("round", "square", "cat", "sun")


def _face(number: int) -> Face:
    """Return one of 26 faces that wear everything that can be drawn, twice if possible."""
    hat = number - 20
    hair = ("bald", "short", "fringe", "long", "buzz", "bob")[hat] if hat >= 0 else None
    return replace(
        random_face(np.random.default_rng(number)),
        hair_style=hair or HAIR_STYLES[number % 13],
        hair_side=(-1, 1)[number % 2],
        eye_style=_EYES[number % 5],
        mouth=_MOUTHS[number % 8],
        nose=_NOSES[(number + number // 8) % 4],
        beard=_BEARDS[(number + number // 8) % 8],
        glasses=_GLASSES[number // 6] if number % 6 == 5 else "none",
        hat=_HATS[hat] if hat >= 0 else "none",
        collar=_COLLARS[number % 5],
        backdrop=_BACKDROPS[number % 6],
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


def test_every_drawn_shape_and_color_is_the_stored_one() -> None:
    assert differences(_STORED, _images()) == []


def _digest() -> str:
    faces = [random_face(np.random.default_rng([7, number])) for number in range(500)]
    return hashlib.sha256(repr(faces).encode()).hexdigest()


def test_traits_are_drawn_with_the_stored_choices_and_frequencies() -> None:
    assert _digest() == _TRAITS


@pytest.mark.parametrize(("share", "expected"), [(0, (10, 200, 0)), (0.25, (20, 150, 10))])
def test_colors_mix_in_proportion(share: float, expected: tuple[int, int, int]) -> None:
    assert mix((10, 200, 0), (50, 0, 40), share) == expected
    assert darker((10, 200, 0), 1.0) == (28, 14, 24)
    assert lighter((10, 200, 0), 1.0) == (255, 250, 240)


def test_a_curve_passes_through_its_points_and_an_ellipse_has_its_radii() -> None:
    points = [(0.0, 0.0), (1.0, 2.0), (3.0, 1.0)]
    line = curve(*points, steps=5)
    assert line[::5].tolist() == [list(point) for point in points]
    assert len(curve(*points, closed=True)) == 24
    # A straight, evenly spaced line stays straight and even, but for its ends.
    even = curve(*((float(x), 0.0) for x in range(6)), steps=4)
    assert np.allclose(even[4:-5, 0], np.arange(1, 4, 0.25))
    outline = ellipse(1.0, 2.0, 3.0, 0.5, np.pi / 2)
    assert outline.shape == (48, 2)
    assert np.allclose([outline.min(0), outline.max(0)], [[0.5, -1], [1.5, 5]])


def test_an_image_is_drawn_at_192_pixels_or_more_and_averaged_down() -> None:
    assert Canvas(96, 48).pixels.shape == (192, 384, 3)
    assert Canvas(400, 300).pixels.shape == (300, 400, 3)
    canvas = Canvas(96, 96)
    x, y = canvas.grid()
    assert x.shape == (1, 192)
    # A head of 1.3 units takes three quarters of the side; its middle is at 50% and 53%.
    assert np.allclose(np.diff(x), 1.3 / (0.75 * 192))
    assert np.allclose([x[0, 0], y[0, 0]], -(np.array([0.5, 0.53]) * 192 - 0.5) * 1.3 / 144)
    canvas.pixels[::2] = 100
    assert (canvas.finished() == 50).all()
    assert canvas.finished().shape == (96, 96, 3)


def test_a_shape_outside_of_the_canvas_draws_nothing() -> None:
    canvas = Canvas(192, 192)
    canvas.tint(ellipse(9.0, 0.0, 0.1, 0.1), (255, 255, 255))
    assert canvas.pixels.max() == 0
    canvas.tint(ellipse(0.0, 0.0, 0.5, 0.5), (200, 100, 50), 0.5)
    middle = canvas.pixels[102, 96].tolist()
    assert middle == [100, 50, 25]


if __name__ == "__main__":
    store(_STORED, _images())
    print(_digest())
