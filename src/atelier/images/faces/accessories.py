"""Glasses and hats."""

from collections.abc import Callable

import numpy as np

from atelier.images.faces.canvas import Canvas, Points, curve, darker, ellipse, lighter
from atelier.images.faces.features import EYE_LINE
from atelier.images.faces.traits import Face


def draw_glasses(canvas: Canvas, face: Face) -> None:
    """Draw glasses over the eyes, if any."""
    if face.glasses == "none":
        return
    frame = (36, 32, 40) if face.glasses in ("square", "sun") else darker(face.accent, 0.35)
    for side in (-1, 1):
        lens = _lens(face, side)
        if face.glasses == "sun":
            canvas.tint(lens, (32, 28, 44), 0.92)
        else:
            canvas.tint(lens, (225, 240, 250), 0.16)
        x = side * face.eye_gap
        glare = [
            (x - 0.07, EYE_LINE - 0.09),
            (x - 0.02, EYE_LINE - 0.09),
            (x - 0.07, EYE_LINE + 0.08),
            (x - 0.11, EYE_LINE + 0.06),
        ]
        canvas.tint(glare, (255, 255, 255), 0.35, 0.008, canvas.mask(lens))
        canvas.stroke(np.concatenate([lens, lens[:1]]), 0.034, frame)
        canvas.stroke(
            [(x + side * 0.18, EYE_LINE - 0.03), (side * face.width, EYE_LINE - 0.05)], 0.03, frame
        )
    bridge = face.eye_gap - 0.17
    canvas.stroke(
        curve((-bridge, EYE_LINE), (0, EYE_LINE - 0.035), (bridge, EYE_LINE)), 0.032, frame
    )


def _lens(face: Face, side: int) -> Points:
    x, y = side * face.eye_gap, EYE_LINE + 0.01
    if face.glasses == "round":
        return ellipse(x, y, 0.175, 0.175)
    lift = 0.06 if face.glasses == "cat" else 0.0
    corners = [(-0.17, -0.1), (0.18, -0.11 - lift), (0.165, 0.1), (0.0, 0.135), (-0.14, 0.1)]
    return curve(*[(x + side * a, y + b) for a, b in corners], closed=True)


def draw_hat(canvas: Canvas, face: Face) -> None:
    """Draw what is worn on the head, if anything."""
    if face.hat in _HATS:
        _HATS[face.hat](canvas, face)


def _brim(face: Face) -> float:
    """Give half the width of what sits on the hair."""
    return face.width * 1.12


def _beanie(canvas: Canvas, face: Face) -> None:
    w, h, colour = _brim(face), face.height, face.accent
    dome = curve(
        (-w, -0.32), (-w * 0.9, -h * 0.95), (0, -h * 1.32), (w * 0.9, -h * 0.95), (w, -0.32)
    )
    canvas.fill(dome, colour)
    for x in np.linspace(-0.7, 0.7, 7) * w:
        rib = curve((x, -0.35), (x * 0.9, -h * 0.9), (x * 0.3, -h * 1.2))
        canvas.stroke(rib, 0.014, darker(colour, 0.3))
    band = curve(
        (-w * 1.03, -0.46),
        (0, -0.53),
        (w * 1.03, -0.46),
        (w * 1.03, -0.26),
        (0, -0.33),
        (-w * 1.03, -0.26),
        closed=True,
    )
    canvas.fill(band, lighter(colour, 0.3))
    canvas.fill(ellipse(0, -h * 1.36, 0.13, 0.12), lighter(colour, 0.6))


def _cap(canvas: Canvas, face: Face) -> None:
    w, h, shade = _brim(face), face.height, darker(face.accent, 0.3)
    dome = curve((-w, -0.3), (-w * 0.88, -h), (0, -h * 1.24), (w * 0.88, -h), (w, -0.3))
    canvas.fill(dome, face.accent)
    canvas.stroke(curve((0, -h * 1.22), (0.03, -0.8), (0.0, -0.42)), 0.014, shade)
    s = face.hair_side * 0.12
    peak = curve(
        (-w * 0.98, -0.36),
        (s, -0.5),
        (w * 0.98, -0.36),
        (w * 0.8 + s, -0.22),
        (s, -0.3),
        (-w * 0.8 + s, -0.22),
        closed=True,
    )
    canvas.fill(peak, shade)
    canvas.fill(ellipse(0, -h * 1.23, 0.04, 0.025), shade)


def _straw_hat(canvas: Canvas, face: Face) -> None:
    w, h, straw = _brim(face), face.height, (232, 204, 140)
    crown = curve(
        (-w * 0.82, -0.4),
        (-w * 0.72, -h * 1.1),
        (0, -h * 1.25),
        (w * 0.72, -h * 1.1),
        (w * 0.82, -0.4),
    )
    ribbon = curve(
        (-w * 0.83, -0.56),
        (0, -0.5),
        (w * 0.83, -0.56),
        (w * 0.83, -0.4),
        (0, -0.33),
        (-w * 0.83, -0.4),
        closed=True,
    )
    canvas.tint(ellipse(0, -0.36, w * 1.3, 0.12), (40, 20, 20), 0.35, 0.04)
    canvas.fill(ellipse(0, -0.43, w * 1.6, 0.15), straw)
    canvas.tint(ellipse(0, -0.38, w * 1.4, 0.07), darker(straw, 0.4), 0.4, 0.03)
    canvas.fill(crown, lighter(straw, 0.15))
    canvas.fill(ribbon, face.accent)


def _party_hat(canvas: Canvas, face: Face) -> None:
    h, colour = face.height, face.accent
    cone = np.array([(-0.3, -h * 0.8), (0.0, -h * 1.5), (0.3, -h * 0.8), (0.0, -h * 0.72)])
    canvas.fill(cone, colour)
    inside = canvas.mask(cone)
    for y in (-0.98, -0.82, -0.66, -0.52):
        stripe = [(-0.4, y), (0.4, y - 0.12), (0.4, y - 0.06), (-0.4, y + 0.06)]
        canvas.tint(stripe, lighter(colour, 0.75), inside=inside)
    canvas.fill(ellipse(0, -h * 1.47, 0.08, 0.08), (252, 236, 180))


def _bow(canvas: Canvas, face: Face) -> None:
    x, y = face.hair_side * _brim(face) * 0.55, -face.height * 0.92
    for side in (-1, 1):
        loop = curve((x, y), (x + side * 0.22, y - 0.13), (x + side * 0.24, y + 0.13), closed=True)
        canvas.fill(loop, face.accent)
    canvas.fill(ellipse(x, y, 0.06, 0.07), darker(face.accent, 0.3))


def _headband(canvas: Canvas, face: Face) -> None:
    w = _brim(face)
    band = curve(
        (-w * 0.95, -0.34),
        (0, -0.52),
        (w * 0.95, -0.34),
        (w * 0.93, -0.2),
        (0, -0.37),
        (-w * 0.93, -0.2),
        closed=True,
    )
    canvas.fill(band, face.accent)
    middle = curve((-w * 0.94, -0.27), (0, -0.445), (w * 0.94, -0.27))
    canvas.stroke(middle, 0.02, lighter(face.accent, 0.7))


_HATS: dict[str, Callable[[Canvas, Face], None]] = {
    "beanie": _beanie,
    "cap": _cap,
    "straw": _straw_hat,
    "party": _party_hat,
    "bow": _bow,
    "band": _headband,
}
