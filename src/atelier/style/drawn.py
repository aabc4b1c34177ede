"""The embedded style picture: lights over hills at dusk, in thousands of brush strokes.

Painterly rendering after Hertzmann 1998, "Painterly rendering with curved brush strokes of
multiple sizes" (SIGGRAPH), with a scene of our own instead of a photograph: first a scene of
smooth colours and directions, then layers of ever finer strokes that follow the directions.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Picture = NDArray[np.uint8]

# From shade to light, RGB, 0 to 255.
_SKY = ((10, 18, 58), (20, 46, 112), (38, 90, 162), (98, 154, 190), (206, 212, 190))
_LIGHT = ((46, 96, 152), (226, 140, 52), (248, 200, 84), (255, 242, 186))
_LAND = ((44, 34, 62), (112, 50, 40), (196, 100, 34), (232, 166, 60), (246, 210, 120))

# Across, down and radius, in parts of the picture's side.
_LIGHTS = (
    (0.71, 0.23, 0.125),
    (0.21, 0.17, 0.060),
    (0.44, 0.42, 0.070),
    (0.08, 0.52, 0.045),
    (0.91, 0.56, 0.045),
)


class _Scene(NamedTuple):
    """What there is to paint: ``color`` [S, S, 3] and stroke ``direction`` [S, S], radians."""

    color: Floats
    direction: Floats


class _Brush(NamedTuple):
    """One layer of strokes; lengths in parts of the picture's side."""

    strokes: int
    width: float
    length: float
    contrast: float


_BRUSHES = (
    _Brush(strokes=900, width=0.040, length=0.16, contrast=14),
    _Brush(strokes=2600, width=0.022, length=0.11, contrast=20),
    _Brush(strokes=2400, width=0.012, length=0.07, contrast=26),
)
_BRISTLES = 5
_POINTS = 9
# OpenCV takes positions with this many binary digits after the point.
_SHIFT = 4


def drawn_style(size: int, seed: int) -> Picture:
    """Draw the embedded style picture.

    Args:
        size: pixels, height and width.
        seed: another seed gives another sky and other strokes over the same hills.

    Returns:
        uint8 ``[size, size, 3]``, RGB.
    """
    rng = np.random.default_rng(seed)
    scene = _scene(size, rng)
    canvas = scene.color.astype(np.uint8)
    for brush in _BRUSHES:
        _paint_layer(canvas, scene, brush, rng)
    return canvas


def _scene(size: int, rng: np.random.Generator) -> _Scene:
    down, across = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    clouds = _noise(5, size, rng)
    glow, flow = _lights(down, across, rng)
    sky = _ramp(_SKY, 0.12 + 0.55 * down + 0.16 * clouds)
    sky = _blend(sky, _ramp(_LIGHT, 1.25 * glow - 0.15), np.clip(1.9 * glow - 0.2, 0, 1))
    wind = np.stack([1 + _noise(3, size, rng), 0.3 * np.sin(6 * across) + _noise(3, size, rng)])
    flow = flow + wind
    direction = np.arctan2(flow[1], flow[0])
    for depth in range(3):
        ridge = 0.70 + 0.10 * depth + 0.05 * np.sin(across * (5 - depth) + 2.1 * depth + 0.6)
        below = np.clip((down - ridge) * size / 4 + 0.5, 0, 1)
        light = 0.9 - 0.16 * depth - 4.0 * (down - ridge) + 0.1 * clouds
        sky = _blend(sky, _ramp(_LAND, light), below)
        slope = np.gradient(ridge[0]) * size
        direction = np.where(below > 0.5, np.arctan(slope) + 0.25 * clouds, direction)
    return _Scene(sky, direction)


def _lights(down: Floats, across: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return how brightly the lights glow, [S, S], and the whirl around them, [2, S, S]."""
    glow = np.zeros_like(down)
    whirl = np.zeros((2, *down.shape), np.float32)
    for x, y, radius in _LIGHTS:
        dx, dy = across - x, down - y
        distance = np.hypot(dx, dy) + 1e-6
        rings = 0.85 + 0.15 * np.cos(distance / radius * 8)
        glow = np.maximum(glow, rings * np.exp(-((distance / (1.3 * radius)) ** 2)))
        strength = rng.choice([-7, 7]) * np.exp(-((distance / (2.4 * radius)) ** 2))
        whirl += np.stack([-dy, dx]) / distance * strength
    return glow, whirl


def _paint_layer(canvas: Picture, scene: _Scene, brush: _Brush, rng: np.random.Generator) -> None:
    size = len(canvas)
    starts = rng.uniform(-0.05, 1.02, (brush.strokes, 2)).astype(np.float32) * size
    lengths = brush.length * size * rng.uniform(0.5, 1.2, brush.strokes)
    paths = _follow(scene.direction, starts, lengths)
    widths = brush.width * size * rng.uniform(0.6, 1.2, brush.strokes)
    paints = _mix(_at(scene.color, paths[:, _POINTS // 2]), brush.contrast, rng)
    bristles = _bristles(paths, widths)
    points = np.round(bristles * 2**_SHIFT).astype(np.int32)
    thickness = np.maximum(1, np.round(widths / _BRISTLES * 1.3)).astype(int)
    for stroke in range(brush.strokes):
        for bristle in range(_BRISTLES):
            cv2.polylines(
                canvas,
                [points[stroke, bristle]],
                isClosed=False,
                color=paints[stroke, bristle].tolist(),
                thickness=int(thickness[stroke]),
                lineType=cv2.LINE_AA,
                shift=_SHIFT,
            )


def _follow(direction: Floats, starts: Floats, lengths: Floats) -> Floats:
    """Return paths [N, points, 2] (x, y in pixels) that go along ``direction``."""
    paths = np.repeat(starts[:, None], _POINTS, axis=1)
    for point in range(1, _POINTS):
        angle = _at(direction, paths[:, point - 1])
        step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * lengths[:, None] / (_POINTS - 1)
        paths[:, point] = paths[:, point - 1] + step
    return paths


def _bristles(paths: Floats, widths: Floats) -> Floats:
    """Return each path as parallel lines [N, bristles, points, 2] over the brush's width."""
    along = np.gradient(paths, axis=1)
    across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    across /= np.linalg.norm(across, axis=-1, keepdims=True) + 1e-6
    offsets = widths[:, None] * np.linspace(-0.5, 0.5, _BRISTLES)
    return paths[:, None] + across[:, None] * offsets[:, :, None, None]


def _mix(colors: Floats, contrast: float, rng: np.random.Generator) -> Floats:
    """Return the bristles' paints [N, bristles, 3]: lit from one side, no two quite alike."""
    count = len(colors)
    lightness = rng.normal(0, contrast, (count, 1))
    hue = rng.normal(0, contrast * 0.4, (count, 3))
    colors = colors * (1 + rng.normal(0, 0.08, (count, 1))) + lightness + hue
    relief = np.linspace(10, -10, _BRISTLES) + rng.normal(0, 12, (count, _BRISTLES))
    return np.clip(colors[:, None] + relief[:, :, None], 0, 255)


def _at(field: Floats, points: Floats) -> Floats:
    """Return the values of ``field`` at the pixels nearest to ``points`` (x, y)."""
    x, y = np.clip(points, 0, len(field) - 1).astype(int).T
    values: Floats = field[y, x]
    return values


def _ramp(stops: tuple[tuple[int, int, int], ...], place: Floats) -> Floats:
    """Return the colours [..., 3] at ``place`` (0 to 1) between evenly spaced ``stops``."""
    where = np.linspace(0, 1, len(stops))
    channels = [np.interp(place, where, channel) for channel in zip(*stops, strict=True)]
    return np.stack(channels, axis=-1)


def _blend(under: Floats, over: Floats, cover: Floats) -> Floats:
    return under + (over - under) * cover[..., None]


def _noise(cells: int, size: int, rng: np.random.Generator) -> Floats:
    """Return smooth noise [S, S] around 0 that changes ``cells`` times over the picture."""
    # A border of cells is cut off, because interpolation is flat there.
    grid = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    whole = cv2.resize(grid, None, fx=size / cells, fy=size / cells, interpolation=cv2.INTER_CUBIC)
    border = (len(whole) - size) // 2
    return whole[border : border + size, border : border + size].astype(np.float32)
