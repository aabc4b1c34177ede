"""Anti-aliased drawing in head units, and the geometry of curves and ellipses."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Color = tuple[int, int, int]
Points = NDArray[np.float64]
Mask = NDArray[np.floating[Any]]
Window = tuple[slice, slice]

# Minimum pixels of the shorter side while drawing; the result is averaged down.
_MIN_SIDE = 192
# Share of the shorter side that a head of average height covers.
_HEAD_SHARE = 0.75
# Center of the head, across and down. It is low because hats need more space than chins.
_CENTER = np.array([0.5, 0.53])
# cv2 takes coordinates as integers with this many fractional bits.
_FRACTION_BITS = 6
_ANGLES = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


class Canvas:
    """RGB image with coordinates in head units.

    The origin is the center of the head, slightly below the center of the image; x points right
    and y points down. An average head reaches from -0.65 to 0.65, three quarters of the shorter
    side. ``pixels`` is uint8 [H, W, 3] and larger than the result if the result is small.
    """

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        factor = max(1.0, _MIN_SIDE / min(width, height))
        drawn = np.array([round(width * factor), round(height * factor)])
        self._scale = drawn.min() * _HEAD_SHARE / 1.3
        self._center = drawn * _CENTER - 0.5
        self.pixels = np.zeros((drawn[1], drawn[0], 3), np.uint8)

    def grid(self) -> tuple[Mask, Mask]:
        """Return the coordinates of all pixels: x as float32 [1, W] and y as float32 [H, 1]."""
        height, width = self.pixels.shape[:2]
        x = ((np.arange(width) - self._center[0]) / self._scale).astype(np.float32)
        y = ((np.arange(height) - self._center[1]) / self._scale).astype(np.float32)
        return x[None, :], y[:, None]

    def mask(self, points: ArrayLike) -> Mask:
        """Return the inside of a polygon as float32 [H, W] in 0..1."""
        mask = np.zeros(self.pixels.shape[:2], np.uint8)
        cv2.fillPoly(mask, [self._to_fixed(points)], 255, cv2.LINE_AA, _FRACTION_BITS)
        return mask.astype(np.float32) / np.float32(255)

    def fill(self, points: ArrayLike, color: Color) -> None:
        """Fill a polygon of corners [N, 2] with an opaque color."""
        cv2.fillPoly(self.pixels, [self._to_fixed(points)], color, cv2.LINE_AA, _FRACTION_BITS)

    def stroke(self, points: ArrayLike, width: float, color: Color) -> None:
        """Draw an open line through ``points`` with round ends."""
        pixels = max(1, round(width * self._scale))
        fixed = self._to_fixed(points)
        cv2.polylines(self.pixels, [fixed], False, color, pixels, cv2.LINE_AA, _FRACTION_BITS)

    def tint(
        self,
        points: ArrayLike,
        color: Color,
        opacity: float = 1.0,
        blur: float = 0.0,
        inside: Mask | None = None,
    ) -> None:
        """Blend a color over a polygon.

        Args:
            points: corners [N, 2].
            color: red, green, blue in 0..255.
            opacity: 0 is invisible, 1 is opaque.
            blur: standard deviation of the edge.
            inside: mask that limits the polygon, float32 [H, W] in 0..1.
        """
        fixed, sigma = self._to_fixed(points), blur * self._scale
        window = self._window(fixed, 3 * sigma + 2)
        mask = np.zeros(self.pixels[window].shape[:2], np.uint8)
        if not mask.size:
            return
        corner = np.array([window[1].start, window[0].start]) << _FRACTION_BITS
        cv2.fillPoly(mask, [fixed - corner], 255, cv2.LINE_AA, _FRACTION_BITS)
        if sigma > 0:
            # Two box filters of variance sigma²/2 each approximate a Gaussian, at the same cost
            # for any sigma. cv2.stackBlur does so too, but is wrong when several threads call it.
            side = 2 * max(1, round((math.sqrt(6 * sigma**2 + 1) - 1) / 2)) + 1
            mask = np.asarray(cv2.blur(cv2.blur(mask, (side, side)), (side, side)), np.uint8)
        weight = mask.astype(np.float32) * np.float32(opacity / 255)
        self._blend(weight if inside is None else weight * inside[window], color, window)

    def blend(self, mask: Mask, color: Color, opacity: float = 1.0) -> None:
        """Blend a color over the whole image, weighted by ``mask`` (float32 [H, W] in 0..1)."""
        self._blend(mask * np.float32(opacity), color, (slice(None), slice(None)))

    def to_image(self) -> NDArray[np.uint8]:
        """Average down to uint8 [height, width, 3]."""
        return np.asarray(
            cv2.resize(self.pixels, self.size, interpolation=cv2.INTER_AREA), np.uint8
        )

    def _blend(self, weight: Mask, color: Color, window: Window) -> None:
        below = self.pixels[window].astype(np.float32)
        blended = below + weight[:, :, None] * (np.array(color, np.float32) - below)
        self.pixels[window] = (blended + np.float32(0.5)).astype(np.uint8)

    def _window(self, fixed: NDArray[np.int32], margin: float) -> Window:
        """Return the rows and columns of a polygon's bounding box with a margin of pixels."""
        low = np.floor(fixed.min(axis=0) / 2**_FRACTION_BITS - margin).astype(int)
        high = np.ceil(fixed.max(axis=0) / 2**_FRACTION_BITS + margin).astype(int) + 1
        height, width = self.pixels.shape[:2]
        left, right = np.clip([low[0], high[0]], 0, width)
        top, bottom = np.clip([low[1], high[1]], 0, height)
        return slice(top, bottom), slice(left, right)

    def _to_fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        """Convert head units to cv2's fixed-point pixel coordinates."""
        pixels = np.asarray(points, np.float64) * self._scale + self._center
        return np.asarray(np.rint(pixels * 2**_FRACTION_BITS), np.int32)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0) -> Points:
    """Return the outline [48, 2] of an ellipse around (x, y), turned by ``turn`` radians."""
    cos, sin = math.cos(turn), math.sin(turn)
    axes = np.array([[radius_x * cos, radius_x * sin], [-radius_y * sin, radius_y * cos]])
    return np.asarray(_CIRCLE @ axes + np.array([x, y]), np.float64)


def curve(*points: tuple[float, float], closed: bool = False, steps: int = 8) -> Points:
    """Return a Catmull-Rom spline through ``points``, with ``steps`` points per segment."""
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


def mix(first: Color, second: Color, share: float) -> Color:
    """Mix two colors; a share of 0 returns the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
