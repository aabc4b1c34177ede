"""Images with several drawn faces that the face detector finds."""

from functools import cache

import numpy as np
from PIL import Image

from atelier.sample_faces.portrait import random_portrait

# Seeds of portraits that MTCNN finds with a confidence above 0.99.
SEEDS = (0, 2, 3, 11, 15, 19)


@cache
def portrait(seed: int) -> Image.Image:
    """Return a drawn face, 192x192."""
    return Image.fromarray(random_portrait(192, 192, np.random.default_rng(seed)))


def drawn_group(
    size: tuple[int, int],
    places: list[tuple[int, int, int]],
    mode: str = "RGB",
    seeds: tuple[int, ...] = SEEDS,
) -> Image.Image:
    """Return an image with drawn faces at (left, top, side)."""
    image = Image.new("RGB", size, (120, 140, 160))
    for seed, (left, top, side) in zip(seeds, places, strict=False):
        image.paste(portrait(seed).resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return image.convert(mode)
