"""Hair styles and beards as tables of shapes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from atelier.sample_faces.canvas import Points
from atelier.sample_faces.shapes import (
    LIGHT,
    PART_WIDTH,
    AnyLength,
    Clip,
    Ellipse,
    Fill,
    H,
    Head,
    Mixture,
    Outline,
    Point,
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
)


@dataclass(frozen=True)
class HairStyle:
    """Shapes in front of the head and behind it."""

    front: Shapes
    behind: Shapes = ()
    fits_hat: bool = False  # recognizable below a hat


@dataclass(frozen=True)
class Crown:
    """Outline between the top of the head, ``grow`` times its height, and a hairline.

    ``lift`` is the angle from the middle of the head up to both ends of the top.
    """

    grow: float
    lift: float
    hairline: tuple[Point, ...]  # from left to right

    def __call__(self, traits: Traits) -> Points:
        """Return the top from left to right, then the hairline from right to left."""
        angle = np.linspace(np.pi + self.lift, 2 * np.pi - self.lift, 40)
        x = traits["width"] * 1.04 * np.cos(angle)
        y = traits["height"] * self.grow * np.sin(angle)
        hairline = spline(*reversed(self.hairline))(traits)
        return np.concatenate([np.stack([x, y], axis=1), hairline])


@dataclass(frozen=True)
class Spikes:
    """Zigzag band along the crown between two angles in half turns."""

    start: float
    stop: float
    count: int
    length: float

    def __call__(self, traits: Traits) -> Points:
        """Return the zigzag and, in reverse, its base."""
        angle = np.linspace(self.start * np.pi, self.stop * np.pi, 2 * self.count - 1)
        reach = np.where(np.arange(len(angle)) % 2, 1.0, 1.0 + self.length / traits["height"])
        x = traits["width"] * 1.02 * reach * np.cos(angle)
        y = traits["height"] * 1.03 * reach * np.sin(angle)
        zigzag = np.stack([x, y], axis=1)
        return np.concatenate([zigzag, 0.8 * zigzag[::-1]])


@dataclass(frozen=True)
class Lowered:
    """Outline moved down by ``distance``."""

    outline: Outline
    distance: float

    def __call__(self, traits: Traits) -> Points:
        """Return the moved points."""
        return np.asarray(self.outline(traits) + np.array([0.0, self.distance]))


def _jaw(traits: Traits) -> Points:
    """Return the lower edge of the head and a line from cheek to cheek."""
    cheeks = spline(*symmetric((0.0, 0.25), (0.7 * W, 0.26), (0.97 * W, 0.05)))
    return np.concatenate([Head(1.05, top=0.02)(traits), cheeks(traits)])


def _strands(outline: Outline) -> Shapes:
    """Return hair with a shadow below, four dark strands and a sheen near the top."""
    strands = (
        Fill(Ellipse(x * W, -0.75 * H, 0.02, 0.4, x * 0.9), darker("hair", 0.5), 0.35, 0.008)
        for x in (-0.55, -0.2, 0.25, 0.6)
    )
    sheen = Ellipse(0.28 * LIGHT, -0.9 * H, 0.4 * W, 0.055, 0.25 * LIGHT)
    return (
        Fill(Lowered(outline, 0.035), darker("skin", 0.6), 0.3, 0.03),
        Fill(outline, "hair"),
        Clip(outline, (*strands, Fill(sheen, lighter("hair", 0.55), 0.5, 0.03))),
    )


def _tufts(radius: float, *centers: Point) -> Shapes:
    """Return balls of hair with highlights on the side of the light."""
    balls = (Fill(Ellipse(x, y, radius), "hair") for x, y in centers)
    highlights = (
        Ellipse(x + 0.3 * radius * LIGHT, y - 0.35 * radius, radius * 0.45, radius * 0.35)
        for x, y in centers
    )
    tint = lighter("hair", 0.3)
    return (*balls, *(Fill(outline, tint, 0.55, radius * 0.2) for outline in highlights))


def _arc(
    half_turns: Iterable[float], radius_x: AnyLength, radius_y: AnyLength, y: float = 0.0
) -> list[Point]:
    """Return points on an ellipse around (0, y)."""
    angles = [half_turn * np.pi for half_turn in half_turns]
    return [(radius_x * float(np.cos(a)), y + radius_y * float(np.sin(a))) for a in angles]


def _parted(share: float) -> Shapes:
    """Return hair that falls to both sides of a line, ``share`` of the width from the middle."""
    top = (share * PART_WIDTH, -0.8 * H)
    hairline = symmetric(top, (0.82 * W, -0.3), (0.97 * W, 0.0))
    line = polyline(top, (0.8 * share * PART_WIDTH, -1.08 * H))
    return (*_strands(Crown(1.12, -0.05, hairline)), Stroke(line, 0.018, darker("hair", 0.45)))


def _curtain(middle: Point, *right: Point, steps: int = 8) -> Shapes:
    """Return symmetric hair behind the head."""
    return (Fill(spline(*symmetric(middle, *right), steps=steps), darker("hair", 0.22)),)


_SHORT = _strands(Crown(1.1, 0.1, symmetric((0.0, -0.7 * H), (0.66 * W, -0.38), (0.88 * W, -0.16))))
_ZIGZAG = (
    (x * W, -0.27 - 0.07 * (1 - x * x) + 0.025 * (-1) ** i)
    for i, x in enumerate(map(float, np.linspace(-0.92, 0.92, 9)))
)
_FRINGE = _strands(Crown(1.12, -0.05, ((-0.99 * W, 0.02), *_ZIGZAG, (0.99 * W, 0.02))))
_BUZZ = Crown(1.02, 0.2, symmetric(None, (0.6 * W, -0.66 * H), (0.9 * W, -0.25)))
_AFRO = Crown(1.1, 0.0, symmetric(None, (0.6 * W, -0.62 * H), (0.98 * W, -0.1)))
_SHAVED = Crown(1.01, 0.3, symmetric((0.0, -0.8 * H), (W, -0.3)))
_SHINE = Ellipse(-0.2 * LIGHT, -0.72 * H, 0.16, 0.06)
_CURLS = np.linspace(0.97, 2.03, 13)

# The sampler draws an index: a change of the order changes all faces.
HAIR_STYLES: dict[str, HairStyle] = {
    "bald": HairStyle((Fill(_SHINE, (255, 255, 255), 0.45, 0.04),), fits_hat=True),
    "buzz": HairStyle((Fill(_BUZZ, "hair", 0.8, 0.012),), fits_hat=True),
    "short": HairStyle(_SHORT, fits_hat=True),
    "parted": HairStyle(_parted(0.35)),
    "fringe": HairStyle(_FRINGE, fits_hat=True),
    "curly": HairStyle(
        (
            *_tufts(0.17, *_arc(_CURLS, 0.98 * W, 0.92 * H)),
            *_tufts(0.13, *_arc(_CURLS[3:-3], 0.62 * W, 0.8 * H)),
        )
    ),
    "afro": HairStyle(
        front=(Fill(_AFRO, "hair"),),
        behind=(
            *_tufts(0.76, (0.0, -0.25)),
            *_tufts(0.17, *_arc(np.linspace(0.75, 2.25, 17), 0.68, 0.66, y=-0.25)),
        ),
    ),
    "long": HairStyle(
        front=_parted(0.04),
        behind=_curtain(
            (0.0, -1.2 * H),
            (0.85 * W, -0.85 * H),
            (1.22 * W, -0.1),
            (1.3 * W, 0.5),
            (1.2 * W, 1.1),
            steps=6,
        ),
        fits_hat=True,
    ),
    "bob": HairStyle(
        front=_FRINGE,
        behind=_curtain(
            (0.0, -1.16 * H), (0.9 * W, -0.8 * H), (1.24 * W, 0.0), (1.28 * W, 0.4), (0.9 * W, 0.52)
        ),
        fits_hat=True,
    ),
    "bun": HairStyle(_parted(0.04), behind=_tufts(0.25, (0.0, -1.12 * H))),
    "spiky": HairStyle((Fill(Spikes(1.05, 1.95, 8, length=0.2), "hair"), *_SHORT)),
    "mohawk": HairStyle(
        (
            Fill(_SHAVED, "hair", 0.35, 0.03),
            Fill(Spikes(1.34, 1.66, 6, length=0.3), "hair"),
            Fill(Ellipse(0.0, -0.85 * H, 0.36 * W, 0.13), "hair"),
        )
    ),
    "pigtails": HairStyle(
        front=_FRINGE,
        behind=(
            *_tufts(0.2, (-1.28 * W, 0.22), (1.28 * W, 0.22)),
            *_tufts(0.13, (-1.32 * W, 0.42), (1.32 * W, 0.42)),
        ),
        fits_hat=True,
    ),
}

_BEARD = darker("hair", 0.12)
_MOUSTACHE: Shapes = tuple(
    Fill(
        loop((0.0, 0.26), (x * 0.12, 0.25), (x * 0.25, 0.33), (x * 0.1, 0.325), (0.0, 0.3)),
        darker(_BEARD, 0.15),
    )
    for x in (-1, 1)
)
_GOATEE = loop((-0.13, 0.5), (0.0, 0.46), (0.13, 0.5), (0.12, H), (0.0, 1.12 * H), (-0.12, H))
_SHEEN = Ellipse(0.0, 0.9 * H, 0.5 * W, 0.07)
BEARDS: dict[str, Shapes] = {
    "full": (Fill(_jaw, _BEARD), Fill(_SHEEN, lighter("hair", 0.4), 0.25, 0.05), *_MOUSTACHE),
    "goatee": (Fill(_GOATEE, _BEARD), *_MOUSTACHE),
    "moustache": _MOUSTACHE,
    "stubble": (Clip(Head(), (Fill(_jaw, Mixture("hair", "skin", 0.2), 0.35, 0.03),)),),
}
