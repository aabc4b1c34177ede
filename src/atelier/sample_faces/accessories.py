"""Hats, glasses, earrings and clothes as tables of shapes."""

import numpy as np

from atelier.sample_faces.canvas import Color
from atelier.sample_faces.facial_features import EYE_GAP, EYE_LINE
from atelier.sample_faces.shapes import (
    HAIR_SIDE,
    LIGHT,
    PART_WIDTH,
    AnyColor,
    Clip,
    Ellipse,
    Fill,
    H,
    Outline,
    Shapes,
    Spline,
    Stroke,
    W,
    darker,
    lighter,
    loop,
    polyline,
    spline,
    symmetric,
)

_HAT = 1.12 * W  # half the width of a hat


def _dome(width: float, y: float, shoulder: tuple[float, float], top: float) -> Spline:
    """Return the upper part of a hat; widths in widths of a hat, heights in heights of the head."""
    right = ((shoulder[0] * _HAT, -shoulder[1] * H), (width * _HAT, y))
    return spline(*symmetric((0.0, -top * H), *right))


def _band(upper: tuple[float, float, float], lower: tuple[float, float, float]) -> Spline:
    """Return a band between two edges: width in widths of a hat, y of its ends and its middle."""
    (wide, end, middle), (low_wide, low_end, low_middle) = upper, lower
    edge = symmetric((0.0, middle), (wide * _HAT, end))
    low_edge = symmetric((0.0, low_middle), (low_wide * _HAT, low_end))
    return loop(*edge, *reversed(low_edge))


_RIBS = tuple(
    Stroke(
        spline((x * _HAT, -0.35), (0.9 * x * _HAT, -0.9 * H), (0.3 * x * _HAT, -1.2 * H)),
        0.014,
        darker("accent", 0.3),
    )
    for x in map(float, np.linspace(-0.7, 0.7, 7))
)
_SEAM = spline((0.0, -1.22 * H), (0.03, -0.8), (0.0, -0.42))
_PEAK_X = 0.12 * HAIR_SIDE
_PEAK = loop(
    (-0.98 * _HAT, -0.36),
    (_PEAK_X, -0.5),
    (0.98 * _HAT, -0.36),
    (0.8 * _HAT + _PEAK_X, -0.22),
    (_PEAK_X, -0.3),
    (-0.8 * _HAT + _PEAK_X, -0.22),
)
_STRAW: Color = (232, 204, 140)
_CONE = polyline((-0.3, -0.8 * H), (0.0, -1.5 * H), (0.3, -0.8 * H), (0.0, -0.72 * H))
_CONE_STRIPES = tuple(
    Fill(
        polyline((-0.4, y), (0.4, y - 0.12), (0.4, y - 0.06), (-0.4, y + 0.06)),
        lighter("accent", 0.75),
    )
    for y in (-0.98, -0.82, -0.66, -0.52)
)
_BOW_X, _BOW_Y = 0.55 * 1.12 * PART_WIDTH, -0.92 * H
_BOW_LOOPS = tuple(
    loop((_BOW_X, _BOW_Y), (_BOW_X + x * 0.22, _BOW_Y - 0.13), (_BOW_X + x * 0.24, _BOW_Y + 0.13))
    for x in (-1, 1)
)
_BAND_LINE = spline(*symmetric((0.0, -0.445), (0.94 * _HAT, -0.27)))

# The sampler draws an index: a change of the order changes all faces.
HATS: dict[str, Shapes] = {
    "beanie": (
        Fill(_dome(1.0, -0.32, (0.9, 0.95), 1.32), "accent"),
        *_RIBS,
        Fill(_band((1.03, -0.46, -0.53), (1.03, -0.26, -0.33)), lighter("accent", 0.3)),
        Fill(Ellipse(0.0, -1.36 * H, 0.13, 0.12), lighter("accent", 0.6)),
    ),
    "cap": (
        Fill(_dome(1.0, -0.3, (0.88, 1.0), 1.24), "accent"),
        Stroke(_SEAM, 0.014, darker("accent", 0.3)),
        Fill(_PEAK, darker("accent", 0.3)),
        Fill(Ellipse(0.0, -1.23 * H, 0.04, 0.025), darker("accent", 0.3)),
    ),
    "straw": (
        Fill(Ellipse(0.0, -0.36, 1.3 * _HAT, 0.12), (40, 20, 20), 0.35, 0.04),
        Fill(Ellipse(0.0, -0.43, 1.6 * _HAT, 0.15), _STRAW),
        Fill(Ellipse(0.0, -0.38, 1.4 * _HAT, 0.07), darker(_STRAW, 0.4), 0.4, 0.03),
        Fill(_dome(0.82, -0.4, (0.72, 1.1), 1.25), lighter(_STRAW, 0.15)),
        Fill(_band((0.83, -0.56, -0.5), (0.83, -0.4, -0.33)), "accent"),
    ),
    "party": (
        Fill(_CONE, "accent"),
        Clip(_CONE, _CONE_STRIPES),
        Fill(Ellipse(0.0, -1.47 * H, 0.08), (252, 236, 180)),
    ),
    "bow": (
        *(Fill(outline, "accent") for outline in _BOW_LOOPS),
        Fill(Ellipse(_BOW_X, _BOW_Y, 0.06, 0.07), darker("accent", 0.3)),
    ),
    "band": (
        Fill(_band((0.95, -0.34, -0.52), (0.93, -0.2, -0.37)), "accent"),
        Stroke(_BAND_LINE, 0.02, lighter("accent", 0.7)),
    ),
}


def _lens(side: int, lift: float = 0.0) -> Outline:
    """Return a lens with corners; the outer upper corner is ``lift`` higher."""
    corners = ((-0.17, -0.1), (0.18, -0.11 - lift), (0.165, 0.1), (0.0, 0.135), (-0.14, 0.1))
    return loop(*((side * (EYE_GAP + x), EYE_LINE + 0.01 + y) for x, y in corners))


def _glasses(
    lenses: dict[int, Outline], frame: AnyColor, glass: Color = (225, 240, 250), tint: float = 0.16
) -> Shapes:
    """Return glasses.

    Args:
        lenses: outlines of the left (-1) and the right (1) lens.
        frame: color of the frame.
        glass: color of the lenses.
        tint: opacity of the lenses.
    """
    shapes: Shapes = ()
    for side, lens in lenses.items():
        x, y = side * EYE_GAP, EYE_LINE
        glare = polyline(
            (x - 0.07, y - 0.09), (x - 0.02, y - 0.09), (x - 0.07, y + 0.08), (x - 0.11, y + 0.06)
        )
        temple = polyline((side * (EYE_GAP + 0.18), y - 0.03), (side * W, y - 0.05))
        shapes += (
            Fill(lens, glass, tint),
            Clip(lens, (Fill(glare, (255, 255, 255), 0.35, 0.008),)),
            Stroke(lens, 0.034, frame, closed=True),
            Stroke(temple, 0.03, frame),
        )
    bridge = spline(*symmetric((0.0, EYE_LINE - 0.035), (EYE_GAP - 0.17, EYE_LINE)))
    return (*shapes, Stroke(bridge, 0.032, frame))


_ROUND: dict[int, Outline] = {
    side: Ellipse(side * EYE_GAP, EYE_LINE + 0.01, 0.175) for side in (-1, 1)
}
_SQUARE = {side: _lens(side) for side in (-1, 1)}
_CAT = {side: _lens(side, lift=0.06) for side in (-1, 1)}
_DARK_ACCENT, _BLACK = darker("accent", 0.35), (36, 32, 40)
GLASSES: dict[str, Shapes] = {
    "none": (),
    "round": _glasses(_ROUND, _DARK_ACCENT),
    "square": _glasses(_SQUARE, _BLACK),
    "cat": _glasses(_CAT, _DARK_ACCENT),
    "sun": _glasses(_SQUARE, _BLACK, glass=(32, 28, 44), tint=0.92),
}

EARRINGS: Shapes = tuple(
    ring
    for side in (-1, 1)
    for ring in (
        Fill(Ellipse(side * (W + 0.03), 0.21, 0.042), "accent"),
        Fill(Ellipse(side * (W + 0.03) - 0.012, 0.198, 0.014), lighter("accent", 0.7)),
    )
)
_NECK = spline((-0.25, 0.4), (-0.22, 0.7), (-0.3, 1.05), (0.3, 1.05), (0.22, 0.7), (0.25, 0.4))
_CHIN_SHADOW = Fill(Ellipse(0.0, H + 0.02, 0.32, 0.13), darker("skin", 0.6), 0.5, 0.04)
NECK: Shapes = (Fill(_NECK, darker("skin", 0.12)), Clip(_NECK, (_CHIN_SHADOW,)))


def _clothes(neckline: float = 0.88, collar: Shapes = (), stripes: tuple[Fill, ...] = ()) -> Shapes:
    """Return the upper body, a collar on it, stripes inside it, and a shadow."""
    right = ((0.27, 0.76), (0.72, 0.86), (1.0, 1.05), (1.05, 1.6))
    body = spline(*symmetric((0.0, neckline), *right))
    shadow = Fill(Ellipse(-0.9 * LIGHT, 1.1, 0.5), (20, 10, 30), 0.3, 0.15)
    return (Fill(body, "clothes"), *collar, Clip(body, (*stripes, shadow)))


_SHIRT_COLLAR = tuple(
    polyline((side * 0.28, 0.7), (0.0, 0.93), (side * 0.14, 1.08), (side * 0.38, 0.86))
    for side in (-1, 1)
)
_ROLL = loop((-0.27, 0.66), (0.0, 0.72), (0.27, 0.66), (0.3, 0.9), (0.0, 0.96), (-0.3, 0.9))
_STRIPES = tuple(
    polyline((-2.0, y), (2.0, y), (2.0, y + 0.06), (-2.0, y + 0.06))
    for y in map(float, np.arange(0.84, 1.6, 0.13))
)
# Clothes by collar. The sampler draws an index: a change of the order changes all faces.
COLLARS: dict[str, Shapes] = {
    "round": _clothes(),
    "vee": _clothes(neckline=1.02),
    "shirt": _clothes(
        neckline=0.92,
        collar=tuple(Fill(wing, lighter("clothes", 0.6)) for wing in _SHIRT_COLLAR),
    ),
    "turtleneck": _clothes(collar=(Fill(_ROLL, lighter("clothes", 0.15)),)),
    "striped": _clothes(
        stripes=tuple(Fill(stripe, lighter("clothes", 0.75)) for stripe in _STRIPES)
    ),
}
