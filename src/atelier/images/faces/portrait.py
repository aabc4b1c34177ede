"""A whole portrait: the order in which a face is painted, and the light upon it."""

import numpy as np
from numpy.typing import NDArray

from atelier.images.faces.accessories import draw_glasses, draw_hat
from atelier.images.faces.backdrop import draw_backdrop
from atelier.images.faces.canvas import Canvas, Mask, curve, darker, ellipse, lighter
from atelier.images.faces.features import (
    draw_earrings,
    draw_ears,
    draw_eyes,
    draw_mouth,
    draw_nose,
)
from atelier.images.faces.hair import draw_beard, draw_hair, draw_hair_behind, outline
from atelier.images.faces.traits import Face, random_face


def random_portrait(width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Paint a face drawn from ``random`` as uint8 RGB [height, width, 3]."""
    return portrait(random_face(random), width, height, random)


def portrait(face: Face, width: int, height: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Paint ``face``, large and in the middle, as uint8 RGB [height, width, 3].

    Args:
        face: what to paint.
        width: pixels.
        height: pixels.
        random: for what no trait names: places of freckles and of shapes behind, and the grain.
    """
    canvas = Canvas(width, height)
    draw_backdrop(canvas, face, random)
    draw_hair_behind(canvas, face)
    _draw_body(canvas, face)
    draw_ears(canvas, face)
    canvas.fill(outline(face), face.skin)
    _draw_skin(canvas, face, random)
    draw_beard(canvas, face)
    draw_eyes(canvas, face)
    draw_nose(canvas, face)
    draw_mouth(canvas, face)
    draw_hair(canvas, face)
    draw_earrings(canvas, face)
    draw_glasses(canvas, face)
    draw_hat(canvas, face)
    return _grained(canvas, face, random)


def _draw_body(canvas: Canvas, face: Face) -> None:
    neck = curve((-0.25, 0.4), (-0.22, 0.7), (-0.3, 1.05), (0.3, 1.05), (0.22, 0.7), (0.25, 0.4))
    canvas.fill(neck, darker(face.skin, 0.12))
    shadow = ellipse(0, face.height + 0.02, 0.32, 0.13)
    canvas.tint(shadow, darker(face.skin, 0.6), 0.5, 0.04, canvas.mask(neck))
    shoulders = [(-1.05, 1.6), (-1.0, 1.05), (-0.72, 0.86), (-0.27, 0.76)]
    dip = {"vee": 1.02, "shirt": 0.92}.get(face.collar, 0.88)
    body = curve(*shoulders, (0, dip), *[(-x, y) for x, y in reversed(shoulders)])
    canvas.fill(body, face.clothes)
    inside = canvas.mask(body)
    _draw_collar(canvas, face, inside)
    canvas.tint(ellipse(-0.9 * face.light, 1.1, 0.5, 0.5), (20, 10, 30), 0.3, 0.15, inside)


def _draw_collar(canvas: Canvas, face: Face, body: Mask) -> None:
    match face.collar:
        case "striped":
            for y in np.arange(0.84, 1.6, 0.13):
                stripe = [(-2, y), (2, y), (2, y + 0.06), (-2, y + 0.06)]
                canvas.tint(stripe, lighter(face.clothes, 0.75), inside=body)
        case "turtleneck":
            above, below = [(-0.27, 0.66), (0, 0.72), (0.27, 0.66)], [(0.3, 0.9), (0, 0.96)]
            roll = curve(*above, *below, (-0.3, 0.9), closed=True)
            canvas.fill(roll, lighter(face.clothes, 0.15))
        case "shirt":
            for side in (-1, 1):
                wing = [(side * 0.28, 0.7), (0, 0.93), (side * 0.14, 1.08), (side * 0.38, 0.86)]
                canvas.fill(wing, lighter(face.clothes, 0.6))
        case _:
            pass


def _draw_skin(canvas: Canvas, face: Face, random: np.random.Generator) -> None:
    """Light the head from one side, and colour its cheeks."""
    head = outline(face)
    x, y = canvas.grid()
    away = np.clip((-face.light * x / face.width + 0.35 * y - 0.15) * 1.1, 0, 1)
    canvas.tint(head, darker(face.skin, 0.55), 0.6, inside=away * away)
    towards = np.clip((face.light * x / face.width - 0.5 * y - 0.1) * 0.9, 0, 1)
    canvas.tint(head, lighter(face.skin, 0.6), 0.35, inside=towards)
    for side in (-1, 1):
        canvas.tint(
            ellipse(side * 0.3, 0.2, 0.13, 0.1), (226, 84, 84), face.blush, 0.06, canvas.mask(head)
        )
    if face.freckles:
        for _ in range(14):
            at = random.choice((-1, 1)) * random.uniform(0.12, 0.36), random.uniform(0.08, 0.24)
            canvas.fill(ellipse(*at, 0.012, 0.012), darker(face.skin, 0.35))


def _grained(canvas: Canvas, face: Face, random: np.random.Generator) -> NDArray[np.uint8]:
    """Light the whole picture a little from the side, and give it the grain of a photograph."""
    pixels = canvas.finished().astype(np.float32)
    height, width = pixels.shape[:2]
    side = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * np.float32(face.light)
    grain = random.standard_normal((height, width, 1), np.float32)
    lit = np.clip(pixels * (1 + 0.06 * side) + 1.5 * grain + 0.5, 0, 255)
    return np.asarray(lit, np.uint8)
