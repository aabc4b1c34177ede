"""Ears, eyes, brows, noses and mouths as tables of shapes."""

from dataclasses import dataclass

import numpy as np

from atelier.sample_faces.canvas import Color, Points
from atelier.sample_faces.shapes import (
    Clip,
    Ellipse,
    Fill,
    Length,
    Mixture,
    Outline,
    Shapes,
    Stroke,
    Traits,
    W,
    darker,
    lighter,
    loop,
    polyline,
    spline,
    symmetric,
    trait,
)

EYE_LINE = -0.04
EYE_GAP = trait("eye_gap")  # from the middle to the center of an eye
_EYE_SIZE = trait("eye_size")  # half the width of an eye
_GAZE = trait("gaze_shift")  # shift of the irises
_NOSE_TIP = 0.19
_NOSE_SIZE = trait("nose_size")
_DARK_SIDE = trait("dark_side")  # -1 or 1
_NOSE_SHADOW = trait("nose_shadow")  # _NOSE_SIZE times _DARK_SIDE
_MOUTH_LINE = 0.37
_MOUTH_WIDTH = trait("mouth_width")  # half the width of a mouth
_MOUTH_INSIDE: Color = (94, 28, 36)

EARS: Shapes = tuple(
    part
    for side in (-1, 1)
    for part in (
        Fill(Ellipse(side * (W + 0.015), 0.03, 0.085, 0.135, side * 0.15), "skin"),
        Fill(Ellipse(side * (W + 0.025), 0.03, 0.045, 0.08), darker("skin", 0.45), 0.5, 0.02),
    )
)


@dataclass(frozen=True)
class Tapered:
    """Band below a line; its height falls to 0.3 of the trait ``brow_width``."""

    line: Outline

    def __call__(self, traits: Traits) -> Points:
        """Return the line and, in reverse, the lower edge."""
        line, height = self.line(traits), traits["brow_width"]
        below = line + np.linspace(height, height * 0.3, len(line))[:, None] * [[0.0, 1.0]]
        return np.concatenate([line, below[::-1]])


@dataclass(frozen=True)
class UpperEdge:
    """First half of a closed outline, with its middle point."""

    outline: Outline

    def __call__(self, traits: Traits) -> Points:
        """Return the points of the upper half."""
        points = self.outline(traits)
        return points[: len(points) // 2 + 1]


def _brow(side: int) -> Shapes:
    inner, outer = side * (EYE_GAP - 1.2 * _EYE_SIZE), side * (EYE_GAP + 1.2 * _EYE_SIZE)
    y, tilt = EYE_LINE - 0.09 - _EYE_SIZE, 0.09 * trait("brow_tilt")
    middle = (side * (EYE_GAP + 0.02), y - 0.045)
    line = spline((inner, y + tilt), middle, (outer, y - tilt + 0.03))
    return (Fill(Tapered(line), darker(Mixture("hair", "skin", 0.15), 0.25)),)


def _closed_eye(side: int) -> Shapes:
    x, y = side * EYE_GAP, EYE_LINE
    arc = spline((x - _EYE_SIZE, y + 0.03), (x, y - 0.045), (x + _EYE_SIZE, y + 0.03))
    return (Stroke(arc, 0.035, darker("skin", 0.85)),)


def _open_eye(side: int, height: float, tilt: float = 0.0, drooping: bool = False) -> Shapes:
    """Return the left (-1) or the right (1) eye.

    Args:
        side: -1 or 1.
        height: height above the eye line in sizes of the eye.
        tilt: height of the outer corner above the eye line.
        drooping: cover the upper half with the lid.
    """
    x, y, tall = side * EYE_GAP, EYE_LINE, height * _EYE_SIZE
    left, right = (x - _EYE_SIZE, y + side * tilt), (x + _EYE_SIZE, y - side * tilt)
    outline = loop(left, (x, y - tall), right, (x, y + 0.8 * tall))
    shadow = Fill(Ellipse(x, y - tall, _EYE_SIZE, 0.55 * tall), (60, 40, 50), 0.3, 0.02)
    inside = (*_iris(x + 0.8 * _GAZE), shadow)
    lid = Stroke(UpperEdge(outline), 0.026, darker("skin", 0.85))
    if drooping:
        cover = Ellipse(x, y - tall, 1.2 * _EYE_SIZE, 0.95 * tall)
        inside = (*inside, Fill(cover, darker("skin", 0.12)))
        edge = spline((x - _EYE_SIZE, y), (x, y - 0.012), (x + _EYE_SIZE, y))
        lid = Stroke(edge, 0.026, darker("skin", 0.8))
    glint_x, glint_y = x + 0.8 * _GAZE - 0.186 * _EYE_SIZE, y - 0.217 * _EYE_SIZE
    return (
        Fill(Ellipse(x, y, 1.35 * _EYE_SIZE, 1.5 * tall), darker("skin", 0.5), 0.28, 0.04),
        Fill(outline, (250, 248, 244)),
        Clip(outline, inside),
        lid,
        Fill(Ellipse(glint_x, glint_y, 0.17 * _EYE_SIZE), (255, 255, 255)),
    )


def _iris(x: Length) -> tuple[Fill, ...]:
    y, radius = EYE_LINE, 0.62 * _EYE_SIZE
    reflection = Ellipse(x, y + 0.3 * radius, 0.6 * radius, 0.45 * radius)
    return (
        Fill(Ellipse(x, y, radius), darker("eye", 0.45)),
        Fill(Ellipse(x, y, 0.82 * radius), "eye"),
        Fill(reflection, lighter("eye", 0.5), 0.5, 0.01),
        Fill(Ellipse(x, y, 0.45 * radius), (18, 12, 16)),
    )


# Shapes of the left (-1) and the right (1) side.
BROWS = {side: _brow(side) for side in (-1, 1)}
CLOSED_EYES = {side: _closed_eye(side) for side in (-1, 1)}
# The portrait closes one eye of the style "wink".
EYES: dict[str, dict[int, Shapes]] = {
    "round": {side: _open_eye(side, 0.92) for side in (-1, 1)},
    "almond": {side: _open_eye(side, 0.66, tilt=0.025) for side in (-1, 1)},
    "sleepy": {side: _open_eye(side, 0.66, drooping=True) for side in (-1, 1)},
    "happy": CLOSED_EYES,
    "wink": {side: _open_eye(side, 0.8) for side in (-1, 1)},
}


def _nose(width: float, dip: float = 0.03) -> Shapes:
    """Return a shadow on the dark side, the lower edge, and a highlight on the tip.

    Args:
        width: half its width for a nose of size 1.
        dip: distance from the tip to the lowest point.
    """
    half, tip = width * _NOSE_SIZE, _NOSE_TIP
    ridge = polyline((0.0, EYE_LINE - 0.02), (width * _NOSE_SHADOW, tip), (0.0, tip + 0.03))
    edge = spline(*symmetric((0.0, tip + dip), (0.7 * half, tip + 0.025), (half, tip - 0.02)))
    highlight = Ellipse(-0.015 * _DARK_SIDE, tip - 0.04, 0.45 * half, 0.04)
    return (
        Fill(ridge, darker("skin", 0.45), 0.45, 0.025),
        Stroke(edge, 0.024, darker("skin", 0.5)),
        Fill(highlight, lighter("skin", 0.7), 0.6, 0.02),
    )


_RED_TIP = Ellipse(0.0, _NOSE_TIP - 0.01, 0.075 * _NOSE_SIZE, 0.06)
# The sampler draws an index: a change of the order changes all faces.
NOSES: dict[str, Shapes] = {
    "button": (*_nose(0.075), Fill(_RED_TIP, (226, 90, 80), 0.22, 0.03)),
    "straight": _nose(0.07),
    "wide": _nose(0.11),
    "pointed": _nose(0.055, dip=0.05),
}


def _closed_mouth(left: float, middle: float, right: float) -> Shapes:
    """Return a line with ends and middle at distances below the mouth line, and a lower lip."""
    y, width = _MOUTH_LINE, _MOUTH_WIDTH
    line = spline((-width, y + left), (0.0, y + middle), (width, y + right))
    return (
        Fill(Ellipse(0.0, y + middle + 0.06, 0.6 * width, 0.03), "lips", 0.5, 0.02),
        Stroke(line, 0.036, darker(Mixture("skin", "lips", 0.5), 0.5)),
    )


def _open_mouth(depth: float, teeth: float, tongue: bool) -> Shapes:
    """Return an open mouth; the upper teeth cover a share of its depth."""
    width, y = 1.1 * _MOUTH_WIDTH, _MOUTH_LINE - 0.045
    left, right = (-0.6 * width, y + 0.85 * depth), (0.6 * width, y + 0.85 * depth)
    lower = (right, (0.0, y + depth + 0.03), left)
    outline = loop((-width, y), (0.0, y + 0.03), (width, y), *lower)
    edge = y + teeth * depth
    row = polyline((-width, y - 0.1), (width, y - 0.1), (width, edge), (-width, edge))
    tongue_shape = Ellipse(0.0, y + depth + 0.04, 0.6 * width, 0.5 * depth)
    inside = (Fill(tongue_shape, (214, 104, 104)), Fill(row, (252, 250, 244)))
    return (
        Stroke(outline, 0.045, "lips", closed=True),
        Fill(outline, _MOUTH_INSIDE),
        Clip(outline, inside if tongue else inside[1:]),
    )


def _full_lips() -> Shapes:
    y, end, peak = _MOUTH_LINE, 0.85 * _MOUTH_WIDTH, 0.3 * _MOUTH_WIDTH
    upper = symmetric((0.0, y - 0.035), (peak, y - 0.055), (end, y))
    line = spline(*symmetric((0.0, y + 0.015), (end, y)))
    return (
        Fill(loop(*upper, (0.0, y + 0.085)), "lips"),
        Stroke(line, 0.02, darker("lips", 0.45)),
        Fill(Ellipse(0.0, y + 0.045, peak, 0.018), (255, 230, 226), 0.5, 0.012),
    )


MOUTHS: dict[str, Shapes] = {
    "smile": _closed_mouth(-0.045, 0.045, -0.045),
    "grin": _open_mouth(0.11, teeth=0.72, tongue=False),
    "laugh": _open_mouth(0.2, teeth=0.42, tongue=True),
    "flat": _closed_mouth(0.0, 0.0, 0.0),
    "smirk": _closed_mouth(0.02, 0.02, -0.07),
    "sad": _closed_mouth(0.05, -0.02, 0.05),
    "oh": (
        Fill(Ellipse(0.0, _MOUTH_LINE + 0.02, 0.085, 0.1), "lips"),
        Fill(Ellipse(0.0, _MOUTH_LINE + 0.02, 0.055, 0.07), _MOUTH_INSIDE),
    ),
    "lips": _full_lips(),
}
