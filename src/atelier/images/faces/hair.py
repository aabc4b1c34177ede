"""Hair of the head and of the chin."""

from collections.abc import Callable

import numpy as np

from atelier.images.faces.canvas import Canvas, Colour, Points, curve, darker, ellipse, lighter, mix
from atelier.images.faces.traits import Face


def outline(face: Face, grow: float = 1.0) -> Points:
    """Give the outline [96, 2] of the head, ``grow`` times its size."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    narrowing = 1 - face.jaw * np.clip(y, 0, 1) ** 1.5
    return grow * np.stack([face.width * x * narrowing, face.height * y], axis=1)


def draw_hair_behind(canvas: Canvas, face: Face) -> None:
    """Draw what of the hair is behind the head."""
    if face.hair_style in _BEHIND:
        _BEHIND[face.hair_style](canvas, face)


def draw_hair(canvas: Canvas, face: Face) -> None:
    """Draw what of the hair is before the head."""
    _BEFORE[face.hair_style](canvas, face)


def draw_beard(canvas: Canvas, face: Face) -> None:
    """Draw beard and moustache below where the mouth will be."""
    colour = mix(face.hair, darker(face.hair, 1.0), 0.12)
    match face.beard:
        case "full":
            canvas.fill(_jaw(face), colour)
            lit = ellipse(0, face.height * 0.9, face.width * 0.5, 0.07)
            canvas.tint(lit, lighter(face.hair, 0.4), 0.25, 0.05)
        case "stubble":
            inside = canvas.mask(outline(face))
            canvas.tint(_jaw(face), mix(face.hair, face.skin, 0.2), 0.35, 0.03, inside)
        case "goatee":
            canvas.fill(_goatee(face.height), colour)
        case _:
            pass
    if face.beard in ("full", "moustache", "goatee"):
        _moustache(canvas, darker(colour, 0.15))


def _jaw(face: Face) -> Points:
    w = face.width
    chin = outline(face, 1.05)
    cheek = curve((-w * 0.97, 0.05), (-w * 0.7, 0.26), (0, 0.25), (w * 0.7, 0.26), (w * 0.97, 0.05))
    return np.concatenate([chin[chin[:, 1] > 0.02], cheek])


def _goatee(h: float) -> Points:
    return curve(
        (-0.13, 0.5), (0, 0.46), (0.13, 0.5), (0.12, h), (0, h * 1.12), (-0.12, h), closed=True
    )


def _moustache(canvas: Canvas, colour: Colour) -> None:
    for side in (-1, 1):
        tips = [(side * 0.12, 0.25), (side * 0.25, 0.33), (side * 0.1, 0.325)]
        canvas.fill(curve((0, 0.26), *tips, (0, 0.3), closed=True), colour)


def _long_behind(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    side = [(w * 1.22, -0.1), (w * 1.3, 0.5), (w * 1.2, 1.1)]
    arch = [(0, -h * 1.2), (w * 0.85, -h * 0.85), *side]
    mirrored = [(-x, y) for x, y in reversed(arch[1:])]
    canvas.fill(curve(*mirrored, *arch, steps=6), darker(face.hair, 0.22))


def _bob_behind(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    side = [(w * 1.24, 0.0), (w * 1.28, 0.4), (w * 0.9, 0.52)]
    arch = [(0, -h * 1.16), (w * 0.9, -h * 0.8), *side]
    mirrored = [(-x, y) for x, y in reversed(arch[1:])]
    canvas.fill(curve(*mirrored, *arch), darker(face.hair, 0.22))


def _afro_behind(canvas: Canvas, face: Face) -> None:
    _tuft(canvas, face, [(0.0, -0.25)], 0.76)
    ring = np.linspace(0.75 * np.pi, 2.25 * np.pi, 17)
    _tuft(canvas, face, [(0.68 * np.cos(a), -0.25 + 0.66 * np.sin(a)) for a in ring], 0.17)


def _bun_behind(canvas: Canvas, face: Face) -> None:
    _tuft(canvas, face, [(0.0, -face.height * 1.12)], 0.25)


def _pigtails_behind(canvas: Canvas, face: Face) -> None:
    w = face.width
    _tuft(canvas, face, [(-w * 1.28, 0.22), (w * 1.28, 0.22)], 0.2)
    _tuft(canvas, face, [(-w * 1.32, 0.42), (w * 1.32, 0.42)], 0.13)


def _bald(canvas: Canvas, face: Face) -> None:
    shine = ellipse(-0.2 * face.light, -face.height * 0.72, 0.16, 0.06)
    canvas.tint(shine, (255, 255, 255), 0.45, 0.04)


def _buzz(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    brow = [(-w * 0.9, -0.25), (-w * 0.6, -h * 0.66), (w * 0.6, -h * 0.66), (w * 0.9, -0.25)]
    canvas.tint(_cap(face, 1.02, 0.2, brow), face.hair, 0.8, 0.012)


def _short(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    left, right = [(-w * 0.88, -0.16), (-w * 0.66, -0.38)], [(w * 0.66, -0.38), (w * 0.88, -0.16)]
    _lock(canvas, face, _cap(face, 1.1, 0.1, [*left, (0, -h * 0.7), *right]))


def _spiky(canvas: Canvas, face: Face) -> None:
    canvas.fill(_spikes(face, np.linspace(1.05, 1.95, 8) * np.pi, 0.2), face.hair)
    _short(canvas, face)


def _parted(canvas: Canvas, face: Face) -> None:
    _parted_at(canvas, face, 0.35)


def _parted_in_the_middle(canvas: Canvas, face: Face) -> None:
    _parted_at(canvas, face, 0.04)


def _parted_at(canvas: Canvas, face: Face, share: float) -> None:
    """Draw hair that falls to both sides of a line, ``share`` of the width from the middle."""
    w, h = face.width, face.height
    part = face.hair_side * w * share
    left, right = [(-w * 0.97, 0.0), (-w * 0.82, -0.3)], [(w * 0.82, -0.3), (w * 0.97, 0.0)]
    _lock(canvas, face, _cap(face, 1.12, -0.05, [*left, (part, -h * 0.8), *right]))
    canvas.stroke([(part, -h * 0.8), (part * 0.8, -h * 1.08)], 0.018, darker(face.hair, 0.45))


def _fringe(canvas: Canvas, face: Face) -> None:
    w = face.width
    across = np.linspace(-0.92, 0.92, 9)
    brow = [(w * a, -0.27 - 0.07 * (1 - a * a) + 0.025 * (-1) ** i) for i, a in enumerate(across)]
    _lock(canvas, face, _cap(face, 1.12, -0.05, [(-w * 0.99, 0.02), *brow, (w * 0.99, 0.02)]))


def _curly(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    ring = np.linspace(0.97 * np.pi, 2.03 * np.pi, 13)
    _tuft(canvas, face, [(w * 0.98 * np.cos(a), h * 0.92 * np.sin(a)) for a in ring], 0.17)
    _tuft(canvas, face, [(w * 0.62 * np.cos(a), h * 0.8 * np.sin(a)) for a in ring[3:-3]], 0.13)


def _afro(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    brow = [(-w * 0.98, -0.1), (-w * 0.6, -h * 0.62), (w * 0.6, -h * 0.62), (w * 0.98, -0.1)]
    canvas.fill(_cap(face, 1.1, 0.0, brow), face.hair)


def _mohawk(canvas: Canvas, face: Face) -> None:
    w, h = face.width, face.height
    shaved = _cap(face, 1.01, 0.3, [(-w, -0.3), (0, -h * 0.8), (w, -0.3)])
    canvas.tint(shaved, face.hair, 0.35, 0.03)
    canvas.fill(_spikes(face, np.linspace(1.34, 1.66, 6) * np.pi, 0.3), face.hair)
    canvas.fill(ellipse(0, -h * 0.85, w * 0.36, 0.13), face.hair)


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


_BEHIND: dict[str, Callable[[Canvas, Face], None]] = {
    "long": _long_behind,
    "bob": _bob_behind,
    "afro": _afro_behind,
    "bun": _bun_behind,
    "pigtails": _pigtails_behind,
}
_BEFORE: dict[str, Callable[[Canvas, Face], None]] = {
    "bald": _bald,
    "buzz": _buzz,
    "short": _short,
    "parted": _parted,
    "fringe": _fringe,
    "curly": _curly,
    "afro": _afro,
    "long": _parted_in_the_middle,
    "bob": _fringe,
    "bun": _parted_in_the_middle,
    "spiky": _spiky,
    "mohawk": _mohawk,
    "pigtails": _fringe,
}
