"""Built-in style images, drawn by the program: a night sky, a woodblock wave, stained glass.

They differ at a glance in palette and texture: long brush strokes in blue and gold, flat areas
of blue and cream with dark outlines and foam, glowing pieces of glass between black lead lines.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.settings import STYLES
from atelier.style.drawn import drawn_style

Image = NDArray[np.uint8]
Floats = NDArray[np.floating]
Color = tuple[int, int, int]

# RGB, 0 to 255.
_PAPER: Color = (238, 226, 196)
_HAZE: Color = (214, 190, 150)
_OUTLINE: Color = (18, 32, 62)
_FOAM: Color = (247, 243, 230)
_WATER: tuple[Color, ...] = ((150, 184, 198), (74, 120, 160), (34, 72, 124), (24, 50, 98))
_LEAD: Color = (16, 14, 18)
_GLASS: tuple[Color, ...] = (
    *((190, 24, 40), (226, 66, 36), (244, 150, 30), (252, 204, 72), (34, 122, 70)),
    *((20, 78, 160), (40, 140, 190), (92, 40, 130), (168, 40, 110), (236, 226, 200)),
)
_OVERSAMPLING = 2
# Rings of the window: pieces in the ring, and its radius in parts of half the side.
_RINGS = (
    (1, 0.0),
    (8, 0.15),
    (12, 0.31),
    (18, 0.48),
    (24, 0.66),
    (30, 0.85),
    (36, 1.05),
    (40, 1.3),
)


def demo_style_image(name: str, size: int, seed: int) -> Image:
    """Draw a built-in style image.

    Args:
        name: one of :data:`atelier.settings.STYLES`, or ``drawn``, an older name of the night sky.
        size: pixels, height and width.
        seed: varies details, not the style.

    Returns:
        uint8 ``[size, size, 3]``, RGB.

    Raises:
        ValueError: there is no such style.
    """
    match name:
        case "night_sky" | "drawn":
            return drawn_style(size, seed)
        case "wave":
            large = _draw_wave(size * _OVERSAMPLING, np.random.default_rng(seed))
            return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        case "stained_glass":
            return _draw_stained_glass(size, np.random.default_rng(seed))
    raise ValueError(f"{name} is not a built-in style; there are {', '.join(STYLES)}")


def demo_style_sources(size: int, seed: int) -> dict[str, Callable[[], dict[str, Image]]]:
    """Return for each word that names a built-in style a function that draws it, by its name."""

    def source(name: str) -> Callable[[], dict[str, Image]]:
        return lambda: {name: demo_style_image(name, size, seed)}

    return {name: source(name) for name in (*STYLES, "drawn")}


def _draw_wave(side: int, rng: np.random.Generator) -> Image:
    """Draw rows of breaking waves in front of a pale sky, from back to front."""
    down = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    sky = np.array(_PAPER) + (np.array(_HAZE) - np.array(_PAPER)) * (1.2 * down).clip(0, 1)
    image = np.broadcast_to(sky, (side, side, 3)).astype(np.uint8).copy()
    for row in range(7):
        height = 0.16 + 0.12 * row
        _draw_row(image, height, 0.055 + 0.012 * row, rng)
    grain = rng.normal(0, 4, (side, side, 1))
    return (image + grain).clip(0, 255).astype(np.uint8)


def _draw_row(image: Image, top: float, swell: float, rng: np.random.Generator) -> None:
    """Draw one row of waves: water with contour lines below a crest of foam."""
    side = len(image)
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(2.6, 3.4)
    along = np.linspace(-0.1, 1.1, 400)
    angle = 2 * np.pi * along * period + phase
    # A trochoid has wide crests and sharp troughs; a larger factor would tie loops there.
    x = along + min(0.6 * swell, 0.045) * np.sin(angle)
    crest = np.stack([x, top - swell * np.cos(angle)], axis=1) * side
    bottom = np.array([[1.1, 1.2], [-0.1, 1.2]]) * side
    _fill(image, np.vstack([crest, bottom]), _WATER[3])
    thin = max(1, side // 300)
    for line in range(1, 9):
        depth = 0.014 * line * side
        fade = 1 - 0.08 * line
        contour = np.stack([crest[:, 0], (crest[:, 1] - top * side) * fade + top * side + depth], 1)
        color = _WATER[line % 3] if line % 2 else _WATER[0]
        _stroke(image, contour, color, thin * (3 if line % 3 else 6))
    _stroke(image, crest, _OUTLINE, 4 * thin)
    _draw_foam(image, crest, angle, swell, rng)


def _draw_foam(
    image: Image, crest: Floats, angle: Floats, swell: float, rng: np.random.Generator
) -> None:
    """Draw foam as outlined drops, thick at the crests, with spray above them."""
    side = len(image)
    near = np.flatnonzero(np.cos(angle) > 0.15)
    for point in rng.choice(near, 90):
        high = float(np.cos(angle[point]))
        radius = side * rng.uniform(0.005, 0.014) * (0.5 + high)
        offset = rng.normal(0, 0.22, 2) * swell * side + (0, -0.1 * swell * side * high)
        _drop(image, crest[point] + offset, radius)
    for point in rng.choice(near, 30):
        offset = rng.normal(0, 0.5, 2) * swell * side - (0, 0.9 * swell * side)
        _drop(image, crest[point] + offset, side * rng.uniform(0.002, 0.005))


def _drop(image: Image, center: Floats, radius: float) -> None:
    x, y = (round(float(value)) for value in center)
    border = max(1, len(image) // 320)
    cv2.circle(image, (x, y), round(radius) + border, _OUTLINE, -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), max(1, round(radius)), _FOAM, -1, cv2.LINE_AA)


def _fill(image: Image, points: Floats, color: Color) -> None:
    cv2.fillPoly(image, [np.round(points).astype(np.int32)], color, cv2.LINE_AA)


def _stroke(image: Image, points: Floats, color: Color, width: int) -> None:
    cv2.polylines(image, [np.round(points).astype(np.int32)], False, color, width, cv2.LINE_AA)


def _draw_stained_glass(side: int, rng: np.random.Generator) -> Image:
    """Draw a round window: pieces of glass in rings, each the area nearest to its center."""
    centers, rings = _pieces(rng)
    down, across = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / side * 2 - 1
    points = np.stack([across, down], axis=-1)
    nearest = np.full((side, side), np.inf, np.float32)
    second = nearest.copy()
    piece = np.zeros((side, side), np.int64)
    for number, center in enumerate(centers):
        distance = np.linalg.norm(points - center, axis=-1)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        piece[closer] = number
        nearest = np.where(closer, distance, nearest)
    colors = _glass_colors(rings, rng)[piece]
    streaks = cv2.GaussianBlur(rng.normal(0, 1, (side, side)), (0, 0), side / 90, sigmaY=side / 30)
    light = 1.18 - 1.1 * nearest + 0.16 * streaks / streaks.std()
    glass = colors * light[..., None]
    lead = ((second - nearest - 0.022) * side / 6).clip(0, 1)[..., None]
    image: Image = (np.array(_LEAD) + (glass - np.array(_LEAD)) * lead).clip(0, 255)
    return image.astype(np.uint8)


def _pieces(rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Return the centers of the pieces [N, 2], -1 to 1, and the ring of each [N]."""
    centers, rings = [], []
    for ring, (count, radius) in enumerate(_RINGS):
        turn = 2 * np.pi * (np.arange(count) + 0.5 * (ring % 2)) / count
        ring_centers = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        centers.append(ring_centers + rng.normal(0, 0.014, (count, 2)))
        rings.append(np.full(count, ring))
    return np.concatenate(centers).astype(np.float32), np.concatenate(rings)


def _glass_colors(rings: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Return a color for each piece [N, 3]; neighbours in a ring differ."""
    count = len(_GLASS)
    start = rng.permutation(count)
    order = np.arange(len(rings)) * 3 + start[rings % count]
    colors = np.array(_GLASS, np.float32)[order % count]
    return np.asarray(colors * rng.uniform(0.85, 1.1, (len(rings), 1)))
