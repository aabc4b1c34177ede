"""Eyes, brows, nose, mouth and ears."""

import numpy as np

from atelier.images.faces.canvas import Canvas, Colour, curve, darker, ellipse, lighter, mix
from atelier.images.faces.traits import Face

EYE_LINE = -0.04
_NOSE_TIP = 0.19
MOUTH_LINE = 0.37
_TOOTH: Colour = (252, 250, 244)
_TONGUE: Colour = (214, 104, 104)
_INSIDE: Colour = (94, 28, 36)


def draw_ears(canvas: Canvas, face: Face) -> None:
    """Draw both ears, and the rings in them."""
    for side in (-1, 1):
        x = side * (face.width + 0.015)
        canvas.fill(ellipse(x, 0.03, 0.085, 0.135, side * 0.15), face.skin)
        canvas.tint(ellipse(x + side * 0.01, 0.03, 0.045, 0.08), darker(face.skin, 0.45), 0.5, 0.02)


def draw_earrings(canvas: Canvas, face: Face) -> None:
    """Draw the rings in both ears, if any."""
    if not face.earrings:
        return
    for side in (-1, 1):
        x = side * (face.width + 0.03)
        canvas.fill(ellipse(x, 0.21, 0.042, 0.042), face.accent)
        canvas.fill(ellipse(x - 0.012, 0.198, 0.014, 0.014), lighter(face.accent, 0.7))


def draw_eyes(canvas: Canvas, face: Face) -> None:
    """Draw both eyes and brows."""
    for side in (-1, 1):
        closed = face.eye_style == "happy" or (face.eye_style == "wink" and side == face.hair_side)
        if closed:
            _closed_eye(canvas, face, side)
        else:
            _open_eye(canvas, face, side)
        _brow(canvas, face, side)


def _closed_eye(canvas: Canvas, face: Face, side: int) -> None:
    x, size = side * face.eye_gap, face.eye_size
    arc = curve((x - size, EYE_LINE + 0.03), (x, EYE_LINE - 0.045), (x + size, EYE_LINE + 0.03))
    canvas.stroke(arc, 0.035, darker(face.skin, 0.85))


def _open_eye(canvas: Canvas, face: Face, side: int) -> None:
    x, size = side * face.eye_gap, face.eye_size
    tall = {"round": 0.92, "almond": 0.66, "sleepy": 0.66, "wink": 0.8}[face.eye_style] * size
    lift = 0.025 * side if face.eye_style == "almond" else 0.0
    shape = curve(
        (x - size, EYE_LINE + lift),
        (x, EYE_LINE - tall),
        (x + size, EYE_LINE - lift),
        (x, EYE_LINE + tall * 0.8),
        closed=True,
    )
    canvas.tint(ellipse(x, EYE_LINE, size * 1.35, tall * 1.5), darker(face.skin, 0.5), 0.28, 0.04)
    canvas.fill(shape, (250, 248, 244))
    white = canvas.mask(shape)
    at, radius = x + face.gaze * size * 0.8, size * 0.62
    canvas.tint(ellipse(at, EYE_LINE, radius, radius), darker(face.eye, 0.45), inside=white)
    canvas.tint(ellipse(at, EYE_LINE, radius * 0.82, radius * 0.82), face.eye, inside=white)
    canvas.tint(
        ellipse(at, EYE_LINE + radius * 0.3, radius * 0.6, radius * 0.45),
        lighter(face.eye, 0.5), 0.5, 0.01, white,
    )  # fmt: skip
    canvas.tint(ellipse(at, EYE_LINE, radius * 0.45, radius * 0.45), (18, 12, 16), inside=white)
    canvas.tint(ellipse(x, EYE_LINE - tall, size, tall * 0.55), (60, 40, 50), 0.3, 0.02, white)
    if face.eye_style == "sleepy":
        lid = ellipse(x, EYE_LINE - tall, size * 1.2, tall * 0.95)
        canvas.tint(lid, darker(face.skin, 0.12), inside=white)
        canvas.stroke(
            curve((x - size, EYE_LINE), (x, EYE_LINE - 0.012), (x + size, EYE_LINE)),
            0.026,
            darker(face.skin, 0.8),
        )
    else:
        canvas.stroke(shape[: len(shape) // 2 + 1], 0.026, darker(face.skin, 0.85))
    glint = size * 0.17
    canvas.fill(ellipse(at - radius * 0.3, EYE_LINE - radius * 0.35, glint, glint), (255, 255, 255))


def _brow(canvas: Canvas, face: Face, side: int) -> None:
    x, reach = side * face.eye_gap, face.eye_size * 1.2
    y = EYE_LINE - face.eye_size - 0.09
    tilt = face.brow_tilt * 0.09
    inner, outer = (x - side * reach, y + tilt), (x + side * reach, y - tilt + 0.03)
    colour = darker(mix(face.hair, face.skin, 0.15), 0.25)
    line = curve(inner, (x + side * 0.02, y - 0.045), outer)
    thick = face.brow_width
    below = line + np.linspace(thick, thick * 0.3, len(line))[:, None] * [[0.0, 1.0]]
    canvas.fill(np.concatenate([line, below[::-1]]), colour)


def draw_nose(canvas: Canvas, face: Face) -> None:
    """Draw the nose: a shadow at its dark side, a line below, a light on its tip."""
    s, shade = face.nose_size, darker(face.skin, 0.45)
    half = {"button": 0.075, "straight": 0.07, "wide": 0.11, "pointed": 0.055}[face.nose] * s
    dark = -1 if face.light > 0 else 1
    ridge = [(0, EYE_LINE - 0.02), (dark * half, _NOSE_TIP), (0, _NOSE_TIP + 0.03)]
    canvas.tint(ridge, shade, 0.45, 0.025)
    dip = 0.05 if face.nose == "pointed" else 0.03
    line = curve(
        (-half, _NOSE_TIP - 0.02), (-half * 0.7, _NOSE_TIP + 0.025), (0, _NOSE_TIP + dip),
        (half * 0.7, _NOSE_TIP + 0.025), (half, _NOSE_TIP - 0.02),
    )  # fmt: skip
    canvas.stroke(line, 0.024, darker(face.skin, 0.5))
    canvas.tint(
        ellipse(-dark * 0.015, _NOSE_TIP - 0.04, half * 0.45, 0.04),
        lighter(face.skin, 0.7),
        0.6,
        0.02,
    )
    if face.nose == "button":
        canvas.tint(ellipse(0, _NOSE_TIP - 0.01, half, 0.06), (226, 90, 80), 0.22, 0.03)


def draw_mouth(canvas: Canvas, face: Face) -> None:
    """Draw the mouth with its expression."""
    w, y = face.mouth_width, MOUTH_LINE
    line = darker(mix(face.skin, face.lips, 0.5), 0.5)
    match face.mouth:
        case "grin":
            _open_mouth(canvas, face, 0.11, tongue=False)
        case "laugh":
            _open_mouth(canvas, face, 0.2, tongue=True)
        case "oh":
            canvas.fill(ellipse(0, y + 0.02, 0.085, 0.1), face.lips)
            canvas.fill(ellipse(0, y + 0.02, 0.055, 0.07), _INSIDE)
        case "lips":
            upper = [(-w * 0.85, y), (-w * 0.3, y - 0.055), (0, y - 0.035), (w * 0.3, y - 0.055)]
            canvas.fill(curve(*upper, (w * 0.85, y), (0, y + 0.085), closed=True), face.lips)
            canvas.stroke(
                curve((-w * 0.85, y), (0, y + 0.015), (w * 0.85, y)), 0.02, darker(face.lips, 0.45)
            )
            canvas.tint(ellipse(0, y + 0.045, w * 0.3, 0.018), (255, 230, 226), 0.5, 0.012)
        case _:
            left, middle, right = {
                "smile": (-0.045, 0.045, -0.045), "flat": (0.0, 0.0, 0.0),
                "smirk": (0.02, 0.02, -0.07), "sad": (0.05, -0.02, 0.05),
            }[face.mouth]  # fmt: skip
            canvas.tint(ellipse(0, y + middle + 0.06, w * 0.6, 0.03), face.lips, 0.5, 0.02)
            canvas.stroke(curve((-w, y + left), (0, y + middle), (w, y + right)), 0.036, line)


def _open_mouth(canvas: Canvas, face: Face, depth: float, tongue: bool) -> None:
    w, y = face.mouth_width * 1.1, MOUTH_LINE - 0.045
    low = y + depth
    lower = [(w * 0.6, low - 0.15 * depth), (0, low + 0.03), (-w * 0.6, low - 0.15 * depth)]
    shape = curve((-w, y), (0, y + 0.03), (w, y), *lower, closed=True)
    canvas.stroke(np.concatenate([shape, shape[:1]]), 0.045, face.lips)
    canvas.fill(shape, _INSIDE)
    inside = canvas.mask(shape)
    if tongue:
        canvas.tint(ellipse(0, y + depth + 0.04, w * 0.6, depth * 0.5), _TONGUE, inside=inside)
    teeth = depth * (0.42 if tongue else 0.72)
    canvas.tint(
        [(-w, y - 0.1), (w, y - 0.1), (w, y + teeth), (-w, y + teeth)], _TOOTH, inside=inside
    )
