"""A canvas that draws smooth shapes in coordinates of its own."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
Mask = NDArray[np.floating[Any]]
Window = tuple[slice, slice]

# Pixels of the shorter side while a picture is drawn, at least; it is averaged down at the end.
_DRAWN = 192
# How much of the shorter side a head of middling height takes.
_HEAD = 0.75
# Where its middle is, across and down: what stands on a head is larger than what hangs from it.
_MIDDLE = np.array([0.5, 0.53])
# cv2 takes coordinates as integers with so many binary places.
_PLACES = 6
_ANGLES = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


class Canvas:
    """An RGB picture under work.

    The origin is the middle of a head, just below the picture's own; x runs to the right and y
    down; a head reaches from -0.65 to 0.65, which is three quarters of the shorter side. All
    lengths are in these units. ``pixels`` is uint8 [H, W, 3], larger than the finished
    picture if that is small.
    """

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        more = max(1.0, _DRAWN / min(width, height))
        drawn = np.array([round(width * more), round(height * more)])
        self._scale = drawn.min() * _HEAD / 1.3
        self._middle = drawn * _MIDDLE - 0.5
        self.pixels = np.zeros((drawn[1], drawn[0], 3), np.uint8)

    def grid(self) -> tuple[Mask, Mask]:
        """Give the coordinates of all pixels: x as float32 [1, W] and y as float32 [H, 1]."""
        height, width = self.pixels.shape[:2]
        x = ((np.arange(width) - self._middle[0]) / self._scale).astype(np.float32)
        y = ((np.arange(height) - self._middle[1]) / self._scale).astype(np.float32)
        return x[None, :], y[:, None]

    def mask(self, points: ArrayLike) -> Mask:
        """Give the inside of a polygon as float32 [H, W] in 0..1."""
        mask = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._fixed(points)], 255, cv2.LINE_AA, _PLACES)
        return mask.astype(np.float32) / np.float32(255)

    def fill(self, points: ArrayLike, colour: Colour) -> None:
        """Fill a polygon of corners [N, 2] with red, green, blue in 0..255."""
        cv2.fillPoly(self.pixels, [self._fixed(points)], colour, cv2.LINE_AA, _PLACES)

    def stroke(self, points: ArrayLike, width: float, colour: Colour) -> None:
        """Draw an open line through ``points`` with round ends, ``width`` wide."""
        pen = max(1, round(width * self._scale))
        cv2.polylines(self.pixels, [self._fixed(points)], False, colour, pen, cv2.LINE_AA, _PLACES)

    def tint(
        self,
        points: ArrayLike,
        colour: Colour,
        opacity: float = 1.0,
        blur: float = 0.0,
        inside: Mask | None = None,
    ) -> None:
        """Fill a polygon with a translucent colour, a soft edge, or only ``inside`` a mask.

        Args:
            points: corners [N, 2].
            colour: red, green, blue in 0..255.
            opacity: 0 leaves what is below, 1 covers it.
            blur: standard deviation of the edge.
            inside: float32 [H, W] in 0..1.
        """
        places, sigma = self._fixed(points), blur * self._scale
        window = self._window(places, 3 * sigma + 2)
        mask = np.zeros(self.pixels[window].shape[:2], np.uint8)
        if not mask.size:
            return
        corner = np.array([window[1].start, window[0].start]) << _PLACES
        cv2.fillPoly(mask, [places - corner], 255, cv2.LINE_AA, _PLACES)
        if sigma > 0:
            # Two box filters of variance sigma²/2 each: nearly a Gaussian, and as quick for any
            # sigma. OpenCV's own such filter, stackBlur, errs when threads run it side by side.
            side = 2 * max(1, round((math.sqrt(6 * sigma**2 + 1) - 1) / 2)) + 1
            mask = np.asarray(cv2.blur(cv2.blur(mask, (side, side)), (side, side)), np.uint8)
        weight = mask.astype(np.float32) * np.float32(opacity / 255)
        self._blend(weight if inside is None else weight * inside[window], colour, window)

    def blend(self, mask: Mask, colour: Colour, opacity: float = 1.0) -> None:
        """Lay ``colour`` over the picture where ``mask`` (float32 [H, W] in 0..1) lets it."""
        self._blend(mask * np.float32(opacity), colour, (slice(None), slice(None)))

    def finished(self) -> NDArray[np.uint8]:
        """Average down to uint8 [height, width, 3]."""
        return np.asarray(
            cv2.resize(self.pixels, self.size, interpolation=cv2.INTER_AREA), np.uint8
        )

    def _blend(self, weight: Mask, colour: Colour, window: Window) -> None:
        below = self.pixels[window].astype(np.float32)
        blended = below + weight[:, :, None] * (np.array(colour, np.float32) - below)
        self.pixels[window] = (blended + np.float32(0.5)).astype(np.uint8)

    def _window(self, places: NDArray[np.int32], margin: float) -> Window:
        """Give the rows and columns that a polygon reaches, with a margin around it."""
        low = np.floor(places.min(axis=0) / 2**_PLACES - margin).astype(int)
        high = np.ceil(places.max(axis=0) / 2**_PLACES + margin).astype(int) + 1
        height, width = self.pixels.shape[:2]
        left, right = np.clip([low[0], high[0]], 0, width)
        top, bottom = np.clip([low[1], high[1]], 0, height)
        return slice(top, bottom), slice(left, right)

    def _fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        places = np.asarray(points, np.float64) * self._scale + self._middle
        return np.asarray(np.rint(places * 2**_PLACES), np.int32)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> Points:
    """Give the outline [48, 2] of an ellipse around (x, y), turned by ``turn`` radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    axes = np.array([[radius_x * cos, radius_x * sin], [-radius_y * sin, radius_y * cos]])
    return np.asarray(_CIRCLE @ axes + np.array([x, y]), np.float64)


def curve(*points: tuple[float, float], closed: bool = False, steps: int = 8) -> Points:
    """Give a smooth line through ``points``: a Catmull-Rom spline of ``steps`` points each."""
    p = np.array(points, np.float64)
    ends = (p[-1:], p[:2]) if closed else (p[:1], p[-1:])
    p = np.concatenate([ends[0], p, ends[1]])
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    line = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    line = line.reshape(-1, 2)
    return line if closed else np.concatenate([line, p[-1:]])


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Mix two colours; ``share`` of 0 gives the first, 1 the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float) -> Colour:
    """Mix a colour with a warm near-black."""
    return mix(colour, (28, 14, 24), share)


def lighter(colour: Colour, share: float) -> Colour:
    """Mix a colour with a warm near-white."""
    return mix(colour, (255, 250, 240), share)
