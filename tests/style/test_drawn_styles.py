"""Built-in style images against stored values.

Run `python -m tests.style.test_drawn_styles` to store new values after an intended change.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.style.demo_styles import _night_sky_field, demo_style_image

from ..support.golden import differences, store

_STORED = Path(__file__).with_name("drawn_styles.npz")


def _images() -> dict[str, NDArray[np.uint8] | NDArray[np.floating]]:
    """Return the style images, and the colors and stroke directions of the night sky, scaled."""
    field = _night_sky_field(96, np.random.default_rng(1))
    fields = {"scene_colors": 16 * field.color, "scene_strokes": 1000 * field.direction[..., None]}
    sizes = (("night_sky", 48, 1), ("wave", 300, 1), ("wave", 84, 2), ("stained_glass", 96, 1))
    return fields | {
        f"{name}_{size}": demo_style_image(name, size, seed) for name, size, seed in sizes
    }


def test_images_equal_the_stored_ones() -> None:
    assert differences(_STORED, _images()) == []


if __name__ == "__main__":
    store(_STORED, _images())
