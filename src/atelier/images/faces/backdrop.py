"""What stands behind a face."""

import math

import numpy as np

from atelier.images.faces.canvas import Canvas, ellipse, mix
from atelier.images.faces.traits import Face


def draw_backdrop(canvas: Canvas, face: Face, random: np.random.Generator) -> None:
    """Fill the whole canvas: a gradient, and what ``face.backdrop`` names upon it."""
    first, second, third = face.backdrop_colours
    x, y = canvas.grid()
    angle = random.uniform(0, 2 * math.pi)
    slope = np.clip(0.5 + 0.4 * (x * math.cos(angle) + y * math.sin(angle)), 0, 1)
    canvas.pixels[:] = first
    canvas.blend(slope, second, 0.6)
    reach = float(max(x.max(), y.max())) + 1
    match face.backdrop:
        case "dots":
            _dots(canvas, face, random, reach)
        case "rays":
            for turn in np.arange(12) * np.pi / 6 + random.uniform(0, 1):
                edges = np.array([turn, turn + np.pi / 12])
                far = 2 * reach * np.stack([np.cos(edges), np.sin(edges)], axis=1)
                canvas.tint(np.concatenate([[[0, 0]], far]), third, 0.35)
        case "sun":
            middle = random.uniform(-0.6, 0.6), random.uniform(-0.6, 0.0)
            canvas.tint(ellipse(*middle, 0.85, 0.85), third, 0.6)
        case "hills":
            _hills(canvas, face, random, reach)
        case "stripes":
            step = random.uniform(0.2, 0.4)
            for left in np.arange(-2 * reach, 2 * reach, 2 * step):
                band = [(left, -reach), (left + step, -reach), (left + step + 0.5, reach)]
                canvas.tint([*band, (left + 0.5, reach)], third, 0.3)
        case _:
            pass


def _dots(canvas: Canvas, face: Face, random: np.random.Generator, reach: float) -> None:
    step, radius = random.uniform(0.28, 0.45), random.uniform(0.05, 0.1)
    for row, y in enumerate(np.arange(-reach, reach, step)):
        for x in np.arange(-reach, reach, step) + step / 2 * (row % 2):
            canvas.fill(
                ellipse(x, y, radius, radius),
                mix(face.backdrop_colours[0], face.backdrop_colours[2], 0.5),
            )


def _hills(canvas: Canvas, face: Face, random: np.random.Generator, reach: float) -> None:
    x = np.linspace(-reach, reach, 60)
    for depth in range(3):
        wave = np.sin(x * random.uniform(1.5, 3) + random.uniform(0, 6)) * 0.12
        top = np.stack([x, wave + 0.1 + 0.28 * depth], axis=1)
        shade = mix(face.backdrop_colours[1], face.backdrop_colours[2], depth / 2)
        canvas.fill(
            np.concatenate([top, [[reach, 3], [-reach, 3]]]), mix(shade, (60, 70, 90), 0.1 * depth)
        )
