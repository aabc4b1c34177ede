"""Shapes as data, in terms of a face's traits, and their renderer.

Tables list fills and strokes of outlines. Their lengths and colors refer to traits by name; the
renderer inserts the traits of one face and draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from atelier.sample_faces.canvas import Canvas, Color, Mask, Points, curve, ellipse, mix

# Values of one face by name: lengths in head units, angles in radians, colors.
Traits = Mapping[str, Any]


@dataclass(frozen=True)
class Length:
    """Linear combination of traits, e.g. ``0.8 * W + 0.12 * HAIR_SIDE - 0.3``."""

    terms: tuple[tuple[str, float], ...]
    constant: float = 0.0

    def __add__(self, other: Length | float) -> Length:
        if isinstance(other, Length):
            return Length(self.terms + other.terms, self.constant + other.constant)
        return Length(self.terms, self.constant + other)

    __radd__ = __add__

    def __mul__(self, factor: float) -> Length:
        terms = tuple((name, factor * value) for name, value in self.terms)
        return Length(terms, factor * self.constant)

    __rmul__ = __mul__

    def __neg__(self) -> Length:
        return self * -1

    def __sub__(self, other: Length | float) -> Length:
        return self + -other

    def __rsub__(self, other: float) -> Length:
        return -self + other


AnyLength = Length | float
Point = tuple[AnyLength, AnyLength]


def trait(name: str) -> Length:
    """Return the trait of this name as a length."""
    return Length(((name, 1.0),))


W = trait("width")  # half the width of the head
H = trait("height")  # half the height of the head
HAIR_SIDE = trait("hair_side")  # -1 or 1
PART_WIDTH = trait("part_width")  # W times HAIR_SIDE
LIGHT = trait("light")  # from -1 (light from the left) to 1


def evaluate(length: AnyLength, traits: Traits) -> float:
    """Return the value of a length for one face."""
    if isinstance(length, Length):
        return length.constant + float(sum(value * traits[name] for name, value in length.terms))
    return length


@dataclass(frozen=True)
class Mixture:
    """Mix of two colors; a share of 0 is the first, 1 the second."""

    first: AnyColor
    second: AnyColor
    share: float


# Red, green and blue in 0..255, the name of a trait, or a mix of these.
AnyColor = Color | str | Mixture


def darker(color: AnyColor, share: float) -> Mixture:
    """Mix a color with a warm near-black."""
    return Mixture(color, (28, 14, 24), share)


def lighter(color: AnyColor, share: float) -> Mixture:
    """Mix a color with a warm near-white."""
    return Mixture(color, (255, 250, 240), share)


def resolve(color: AnyColor, traits: Traits) -> Color:
    """Return red, green and blue of a color for one face."""
    if isinstance(color, Mixture):
        return mix(resolve(color.first, traits), resolve(color.second, traits), color.share)
    if isinstance(color, str):
        red, green, blue = traits[color]
        return red, green, blue
    return color


# Returns the corners of a polygon or the points of a line [N, 2] for one face.
Outline = Callable[[Traits], Points]


@dataclass(frozen=True)
class Polyline:
    """Straight lines between points; a polygon if filled."""

    knots: tuple[Point, ...]

    def __call__(self, traits: Traits) -> Points:
        """Return the points themselves."""
        return np.array([[evaluate(value, traits) for value in knot] for knot in self.knots])


@dataclass(frozen=True)
class Spline:
    """Catmull-Rom spline with ``steps`` points per segment."""

    knots: tuple[Point, ...]
    closed: bool = False
    steps: int = 8

    def __call__(self, traits: Traits) -> Points:
        """Return the points of all segments."""
        knots = [(evaluate(x, traits), evaluate(y, traits)) for x, y in self.knots]
        return curve(*knots, closed=self.closed, steps=self.steps)


@dataclass(frozen=True)
class Ellipse:
    """Ellipse around (x, y), turned by ``turn`` radians; a circle without ``radius_y``."""

    x: AnyLength
    y: AnyLength
    radius_x: AnyLength
    radius_y: AnyLength | None = None
    turn: AnyLength = 0.0

    def __call__(self, traits: Traits) -> Points:
        """Return 48 points."""
        radius_y = self.radius_x if self.radius_y is None else self.radius_y
        values = (self.x, self.y, self.radius_x, radius_y, self.turn)
        return ellipse(*(evaluate(value, traits) for value in values))


@dataclass(frozen=True)
class Head:
    """Outline of the head, ``grow`` times its size; only the part below y = ``top``."""

    grow: float = 1.0
    top: float = -np.inf

    def __call__(self, traits: Traits) -> Points:
        """Return up to 96 points."""
        angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        x, y = np.cos(angle), np.sin(angle)
        narrowing = 1 - traits["jaw"] * np.clip(y, 0, 1) ** 1.5
        points = np.stack([traits["width"] * x * narrowing, traits["height"] * y], axis=1)
        points *= self.grow
        return points[points[:, 1] > self.top]


def polyline(*knots: Point) -> Polyline:
    """Return straight lines between points."""
    return Polyline(knots)


def spline(*knots: Point, steps: int = 8) -> Spline:
    """Return an open spline."""
    return Spline(knots, steps=steps)


def loop(*knots: Point) -> Spline:
    """Return a closed spline."""
    return Spline(knots, closed=True)


def symmetric(middle: Point | None, *right: Point) -> tuple[Point, ...]:
    """Return points from left to right: ``right`` mirrored, the middle, ``right``."""
    left = tuple((-x, y) for x, y in reversed(right))
    return (*left, *right) if middle is None else (*left, middle, *right)


@dataclass(frozen=True)
class Fill:
    """Filled outline with an opacity in 0..1; the edge is blurred by a standard deviation."""

    outline: Outline
    color: AnyColor
    opacity: AnyLength = 1.0
    blur: float = 0.0


@dataclass(frozen=True)
class Stroke:
    """Line of a given width; a closed one returns to its first point."""

    outline: Outline
    width: float
    color: AnyColor
    closed: bool = False


@dataclass(frozen=True)
class Clip:
    """Fills that appear only inside an outline."""

    outline: Outline
    fills: tuple[Fill, ...]


Shapes = tuple[Fill | Stroke | Clip, ...]


class ShapeRenderer:
    """Draws shapes with the traits of one face."""

    def __init__(self, canvas: Canvas, traits: Traits) -> None:
        self._canvas = canvas
        self._traits = traits

    def draw(self, shapes: Iterable[Fill | Stroke | Clip]) -> None:
        """Draw shapes in order."""
        for shape in shapes:
            points = shape.outline(self._traits)
            match shape:
                case Fill():
                    self._fill(shape)
                case Stroke():
                    points = np.concatenate([points, points[:1]]) if shape.closed else points
                    self._canvas.stroke(points, shape.width, resolve(shape.color, self._traits))
                case Clip():
                    inside = self._canvas.mask(points)
                    for fill in shape.fills:
                        self._fill(fill, inside)

    def _fill(self, fill: Fill, inside: Mask | None = None) -> None:
        points, color = fill.outline(self._traits), resolve(fill.color, self._traits)
        opacity = evaluate(fill.opacity, self._traits)
        if inside is None and opacity == 1 and fill.blur == 0:
            self._canvas.fill(points, color)
        else:
            self._canvas.tint(points, color, opacity, fill.blur, inside)
