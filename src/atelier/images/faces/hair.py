"""Hair of the head and of the chin."""

import numpy as np

from atelier.images.faces.canvas import Canvas, Points, curve, darker, ellipse, lighter, mix
from atelier.images.faces.traits import Face


def outline(face: Face, grow: float = 1.0) -> Points:
    """Give the outline [96, 2] of the head, ``grow`` times its size."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    narrowing = 1 - face.jaw * np.clip(y, 0, 1) ** 1.5
    return grow * np.stack([face.width * x * narrowing, face.height * y], axis=1)


def draw_hair_behind(canvas: Canvas, face: Face) -> None:
    """Draw what of the hair is behind the head."""
    w, h, colour = face.width, face.height, darker(face.hair, 0.22)
    match face.hair_style:
        case "long":
            side = [(w * 1.22, -0.1), (w * 1.3, 0.5), (w * 1.2, 1.1)]
            arch = [(0, -h * 1.2), (w * 0.85, -h * 0.85), *side]
            mirrored = [(-x, y) for x, y in reversed(arch[1:])]
            canvas.fill(curve(*mirrored, *arch, steps=6), colour)
        case "bob":
            side = [(w * 1.24, 0.0), (w * 1.28, 0.4), (w * 0.9, 0.52)]
            arch = [(0, -h * 1.16), (w * 0.9, -h * 0.8), *side]
            canvas.fill(curve(*[(-x, y) for x, y in reversed(arch[1:])], *arch), colour)
        case "afro":
            _tuft(canvas, face, [(0.0, -0.25)], 0.76)
            ring = np.linspace(0.75 * np.pi, 2.25 * np.pi, 17)
            _tuft(canvas, face, [(0.68 * np.cos(a), -0.25 + 0.66 * np.sin(a)) for a in ring], 0.17)
        case "bun":
            _tuft(canvas, face, [(0.0, -h * 1.12)], 0.25)
        case "pigtails":
            _tuft(canvas, face, [(-w * 1.28, 0.22), (w * 1.28, 0.22)], 0.2)
            _tuft(canvas, face, [(-w * 1.32, 0.42), (w * 1.32, 0.42)], 0.13)
        case _:
            pass


def draw_hair(canvas: Canvas, face: Face) -> None:
    """Draw what of the hair is before the head."""
    w, h, s = face.width, face.height, face.hair_side
    match face.hair_style:
        case "buzz":
            brow = [
                (-w * 0.9, -0.25),
                (-w * 0.6, -h * 0.66),
                (w * 0.6, -h * 0.66),
                (w * 0.9, -0.25),
            ]
            canvas.tint(_cap(face, 1.02, 0.2, brow), face.hair, 0.8, 0.012)
        case "short" | "spiky":
            brow = [
                (-w * 0.88, -0.16),
                (-w * 0.66, -0.38),
                (0, -h * 0.7),
                (w * 0.66, -0.38),
                (w * 0.88, -0.16),
            ]
            cap = _cap(face, 1.1, 0.1, brow)
            if face.hair_style == "spiky":
                canvas.fill(_spikes(face, np.linspace(1.05, 1.95, 8) * np.pi, 0.2), face.hair)
            _lock(canvas, face, cap)
        case "parted" | "long" | "bun":
            part = s * w * (0.35 if face.hair_style == "parted" else 0.04)
            brow = [
                (-w * 0.97, 0.0),
                (-w * 0.82, -0.3),
                (part, -h * 0.8),
                (w * 0.82, -0.3),
                (w * 0.97, 0.0),
            ]
            _lock(canvas, face, _cap(face, 1.12, -0.05, brow))
            canvas.stroke(
                [(part, -h * 0.8), (part * 0.8, -h * 1.08)], 0.018, darker(face.hair, 0.45)
            )
        case "fringe" | "bob" | "pigtails":
            across = np.linspace(-0.92, 0.92, 9)
            brow = [
                (w * a, -0.27 - 0.07 * (1 - a * a) + 0.025 * (-1) ** i)
                for i, a in enumerate(across)
            ]
            _lock(
                canvas, face, _cap(face, 1.12, -0.05, [(-w * 0.99, 0.02), *brow, (w * 0.99, 0.02)])
            )
        case "curly":
            ring = np.linspace(0.97 * np.pi, 2.03 * np.pi, 13)
            at = [(w * 0.98 * np.cos(a), h * 0.92 * np.sin(a)) for a in ring]
            low = [(w * 0.62 * np.cos(a), h * 0.8 * np.sin(a)) for a in ring[3:-3]]
            _tuft(canvas, face, at, 0.17)
            _tuft(canvas, face, low, 0.13)
        case "afro":
            brow = [
                (-w * 0.98, -0.1),
                (-w * 0.6, -h * 0.62),
                (w * 0.6, -h * 0.62),
                (w * 0.98, -0.1),
            ]
            canvas.fill(_cap(face, 1.1, 0.0, brow), face.hair)
        case "mohawk":
            canvas.tint(
                _cap(face, 1.01, 0.3, [(-w, -0.3), (0, -h * 0.8), (w, -0.3)]), face.hair, 0.35, 0.03
            )
            canvas.fill(_spikes(face, np.linspace(1.34, 1.66, 6) * np.pi, 0.3), face.hair)
            canvas.fill(ellipse(0, -h * 0.85, w * 0.36, 0.13), face.hair)
        case _:
            canvas.tint(
                ellipse(-0.2 * face.light, -h * 0.72, 0.16, 0.06), (255, 255, 255), 0.45, 0.04
            )


def _cap(face: Face, grow: float, drop: float, hairline: list[tuple[float, float]]) -> Points:
    """Give the shape between the crown of the head, grown, and a hairline from left to right."""
    angle = np.linspace(np.pi + drop, 2 * np.pi - drop, 40)
    top = np.stack([face.width * 1.04 * np.cos(angle), face.height * grow * np.sin(angle)], axis=1)
    return np.concatenate([top, curve(*hairline[::-1])])


def _spikes(face: Face, angles: Points, length: float) -> Points:
    fine = np.linspace(angles[0], angles[-1], 2 * len(angles) - 1)
    reach = np.where(np.arange(len(fine)) % 2, 1.0, 1.0 + length / face.height)
    tips = np.stack(
        [face.width * 1.02 * reach * np.cos(fine), face.height * 1.03 * reach * np.sin(fine)], 1
    )
    return np.concatenate([tips, 0.8 * tips[::-1]])


def _lock(canvas: Canvas, face: Face, shape: Points) -> None:
    """Fill a shape of hair, with a sheen along the crown and a shadow at the hairline."""
    canvas.tint(shape + np.array([0.0, 0.035]), darker(face.skin, 0.6), 0.3, 0.03)
    canvas.fill(shape, face.hair)
    inside = canvas.mask(shape)
    for offset in (-0.55, -0.2, 0.25, 0.6):
        x = offset * face.width
        strand = ellipse(x, -face.height * 0.75, 0.02, 0.4, offset * 0.9)
        canvas.tint(strand, darker(face.hair, 0.5), 0.35, 0.008, inside)
    sheen = ellipse(
        0.28 * face.light, -face.height * 0.9, face.width * 0.4, 0.055, 0.25 * face.light
    )
    canvas.tint(sheen, lighter(face.hair, 0.55), 0.5, 0.03, inside)


def _tuft(canvas: Canvas, face: Face, middles: list[tuple[float, float]], radius: float) -> None:
    """Draw balls of hair, each lit from the side of the light."""
    for x, y in middles:
        canvas.fill(ellipse(x, y, radius, radius), face.hair)
    for x, y in middles:
        lit = ellipse(
            x + 0.3 * radius * face.light, y - 0.35 * radius, radius * 0.45, radius * 0.35
        )
        canvas.tint(lit, lighter(face.hair, 0.3), 0.55, radius * 0.2)


def draw_beard(canvas: Canvas, face: Face) -> None:
    """Draw beard and moustache below where the mouth will be."""
    w, h, colour = face.width, face.height, mix(face.hair, darker(face.hair, 1.0), 0.12)
    chin = outline(face, 1.05)
    chin = chin[chin[:, 1] > 0.02]
    cheek = curve((-w * 0.97, 0.05), (-w * 0.7, 0.26), (0, 0.25), (w * 0.7, 0.26), (w * 0.97, 0.05))
    full = np.concatenate([chin, cheek])
    match face.beard:
        case "full":
            canvas.fill(full, colour)
            canvas.tint(ellipse(0, h * 0.9, w * 0.5, 0.07), lighter(face.hair, 0.4), 0.25, 0.05)
        case "stubble":
            canvas.tint(
                full, mix(face.hair, face.skin, 0.2), 0.35, 0.03, canvas.mask(outline(face))
            )
        case "goatee":
            canvas.fill(
                curve(
                    (-0.13, 0.5),
                    (0, 0.46),
                    (0.13, 0.5),
                    (0.12, h),
                    (0, h * 1.12),
                    (-0.12, h),
                    closed=True,
                ),
                colour,
            )
        case _:
            pass
    if face.beard in ("full", "moustache", "goatee"):
        for side in (-1, 1):
            wing = curve(
                (0, 0.26),
                (side * 0.12, 0.25),
                (side * 0.25, 0.33),
                (side * 0.1, 0.325),
                (0, 0.3),
                closed=True,
            )
            canvas.fill(wing, darker(colour, 0.15))
