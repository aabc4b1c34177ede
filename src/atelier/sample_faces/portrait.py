"""Portraits: background, shapes of a face back to front, lighting, and grain."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atelier.sample_faces.accessories import COLLARS, EARRINGS, GLASSES, HATS, NECK
from atelier.sample_faces.canvas import Canvas, Points, ellipse, mix
from atelier.sample_faces.facial_features import BROWS, CLOSED_EYES, EARS, EYES, MOUTHS, NOSES
from atelier.sample_faces.hair import BEARDS, HAIR_STYLES
from atelier.sample_faces.shapes import (
    Clip,
    Ellipse,
    Fill,
    Head,
    ShapeRenderer,
    Shapes,
    darker,
    lighter,
    resolve,
    trait,
)
from atelier.sample_faces.traits import FaceTraits, random_traits

_CHEEKS = tuple(
    Fill(Ellipse(x, 0.2, 0.13, 0.1), (226, 84, 84), trait("blush"), 0.06) for x in (-0.3, 0.3)
)


def random_portrait(width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a face with random traits as uint8 RGB [height, width, 3]."""
    return portrait(random_traits(rng), width, height, rng)


def portrait(
    face: FaceTraits, width: int, height: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw a face, large and centered, as uint8 RGB [height, width, 3].

    Args:
        face: traits of the face.
        width: pixels.
        height: pixels.
        rng: source of the background's pattern, the freckles and the grain.
    """
    canvas, traits = Canvas(width, height), _with_derived(face)
    renderer = ShapeRenderer(canvas, traits)
    hair = HAIR_STYLES[face.hair_style]
    _draw_background(canvas, face, rng)
    renderer.draw((*hair.behind, *NECK, *COLLARS[face.collar], *EARS, Fill(Head(), "skin")))
    _draw_lighting(canvas, face, Head()(traits))
    renderer.draw((Clip(Head(), _CHEEKS),))
    if face.freckles:
        renderer.draw(_freckles(rng))
    renderer.draw(BEARDS.get(face.beard, ()))
    for side in (-1, 1):
        closed = face.eye_style == "wink" and side == face.hair_side
        renderer.draw(CLOSED_EYES[side] if closed else EYES[face.eye_style][side])
        renderer.draw(BROWS[side])
    renderer.draw((*NOSES[face.nose], *MOUTHS[face.mouth], *hair.front))
    renderer.draw(EARRINGS if face.earrings else ())
    renderer.draw((*GLASSES[face.glasses], *HATS.get(face.hat, ())))
    return _with_grain(canvas, face, rng)


def _with_derived(face: FaceTraits) -> dict[str, Any]:
    """Return the traits by name, and the products of traits that the tables use."""
    dark_side = -1 if face.light > 0 else 1
    return vars(face) | {
        "part_width": face.hair_side * face.width,
        "gaze_shift": face.gaze * face.eye_size,
        "dark_side": dark_side,
        "nose_shadow": dark_side * face.nose_size,
    }


def _draw_lighting(canvas: Canvas, face: FaceTraits, head: Points) -> None:
    """Darken one side of the head and lighten the other."""
    x, y = canvas.grid()
    dark = np.clip((-face.light * x / face.width + 0.35 * y - 0.15) * 1.1, 0, 1)
    canvas.tint(head, resolve(darker(face.skin, 0.55), {}), 0.6, inside=dark * dark)
    bright = np.clip((face.light * x / face.width - 0.5 * y - 0.1) * 0.9, 0, 1)
    canvas.tint(head, resolve(lighter(face.skin, 0.6), {}), 0.35, inside=bright)


def _freckles(rng: np.random.Generator) -> Shapes:
    freckles: Shapes = ()
    for _ in range(14):
        x, y = rng.choice((-1, 1)) * rng.uniform(0.12, 0.36), rng.uniform(0.08, 0.24)
        freckles += (Fill(Ellipse(x, y, 0.012), darker("skin", 0.35)),)
    return freckles


def _draw_background(canvas: Canvas, face: FaceTraits, rng: np.random.Generator) -> None:
    """Fill the canvas with a gradient and the pattern ``face.background``."""
    first, second, third = face.background_colors
    x, y = canvas.grid()
    angle = rng.uniform(0, 2 * math.pi)
    gradient = np.clip(0.5 + 0.4 * (x * math.cos(angle) + y * math.sin(angle)), 0, 1)
    canvas.pixels[:] = first
    canvas.blend(gradient, second, 0.6)
    reach = float(max(x.max(), y.max())) + 1
    match face.background:
        case "dots":
            _draw_dots(canvas, face, rng, reach)
        case "rays":
            for turn in np.arange(12) * np.pi / 6 + rng.uniform(0, 1):
                edges = np.array([turn, turn + np.pi / 12])
                far = 2 * reach * np.stack([np.cos(edges), np.sin(edges)], axis=1)
                canvas.tint(np.concatenate([[[0, 0]], far]), third, 0.35)
        case "sun":
            center = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.0)
            canvas.tint(ellipse(*center, 0.85, 0.85), third, 0.6)
        case "hills":
            _draw_hills(canvas, face, rng, reach)
        case "stripes":
            step = rng.uniform(0.2, 0.4)
            for left in np.arange(-2 * reach, 2 * reach, 2 * step):
                stripe = [(left, -reach), (left + step, -reach), (left + step + 0.5, reach)]
                canvas.tint([*stripe, (left + 0.5, reach)], third, 0.3)
        case _:
            pass


def _draw_dots(canvas: Canvas, face: FaceTraits, rng: np.random.Generator, reach: float) -> None:
    step, radius = rng.uniform(0.28, 0.45), rng.uniform(0.05, 0.1)
    first, _, third = face.background_colors
    for row, y in enumerate(np.arange(-reach, reach, step)):
        for x in np.arange(-reach, reach, step) + step / 2 * (row % 2):
            canvas.fill(ellipse(x, y, radius, radius), mix(first, third, 0.5))


def _draw_hills(canvas: Canvas, face: FaceTraits, rng: np.random.Generator, reach: float) -> None:
    _, second, third = face.background_colors
    x = np.linspace(-reach, reach, 60)
    for depth in range(3):
        wave = np.sin(x * rng.uniform(1.5, 3) + rng.uniform(0, 6)) * 0.12
        ridge = np.stack([x, wave + 0.1 + 0.28 * depth], axis=1)
        color = mix(mix(second, third, depth / 2), (60, 70, 90), 0.1 * depth)
        canvas.fill(np.concatenate([ridge, [[reach, 3], [-reach, 3]]]), color)


def _with_grain(canvas: Canvas, face: FaceTraits, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the image, slightly brighter on the side of the light, with film grain."""
    pixels = canvas.to_image().astype(np.float32)
    height, width = pixels.shape[:2]
    side = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None] * np.float32(face.light)
    grain = rng.standard_normal((height, width, 1), np.float32)
    lit = np.clip(pixels * (1 + 0.06 * side) + 1.5 * grain + 0.5, 0, 255)
    return np.asarray(lit, np.uint8)
