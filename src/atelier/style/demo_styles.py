"""Built-in style images, drawn procedurally: a night sky, a woodblock wave, stained glass.

They differ in palette and texture: long brush strokes in blue and gold, flat areas of blue and
cream with dark outlines and foam, bright pieces of glass between black lead lines.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from atelier.core.setting_types import STYLES

Floats = NDArray[np.floating]
Image = NDArray[np.uint8]
Color = tuple[int, int, int]

# Colors are RGB, 0 to 255. Those of the night sky go from dark to light.
_SKY: tuple[Color, ...] = (
    *((10, 18, 58), (20, 46, 112), (38, 90, 162)),
    *((98, 154, 190), (206, 212, 190)),
)
_LIGHT: tuple[Color, ...] = ((46, 96, 152), (226, 140, 52), (248, 200, 84), (255, 242, 186))
_LAND: tuple[Color, ...] = (
    *((44, 34, 62), (112, 50, 40), (196, 100, 34)),
    *((232, 166, 60), (246, 210, 120)),
)
# x, y and radius of the moon and the stars, as fractions of the image's side.
_LIGHTS = (
    (0.71, 0.23, 0.125),
    (0.21, 0.17, 0.060),
    (0.44, 0.42, 0.070),
    (0.08, 0.52, 0.045),
    (0.91, 0.56, 0.045),
)
_BRISTLES = 5  # lines per stroke
_POINTS = 9  # points per line
_SHIFT = 4  # fractional bits of OpenCV's coordinates

_PAPER_COLOR: Color = (238, 226, 196)
_HAZE: Color = (214, 190, 150)
_OUTLINE: Color = (18, 32, 62)
_FOAM: Color = (247, 243, 230)
_WATER: tuple[Color, ...] = ((150, 184, 198), (74, 120, 160), (34, 72, 124), (24, 50, 98))
_OVERSAMPLING = 2  # of the wave, against jagged outlines

_LEAD: Color = (16, 14, 18)
_GLASS: tuple[Color, ...] = (
    *((190, 24, 40), (226, 66, 36), (244, 150, 30), (252, 204, 72), (34, 122, 70)),
    *((20, 78, 160), (40, 140, 190), (92, 40, 130), (168, 40, 110), (236, 226, 200)),
)
# Rings of the window: number of pieces, and radius as a fraction of half the side.
_RINGS = (
    (1, 0.0),
    (8, 0.15),
    (12, 0.31),
    (18, 0.48),
    (24, 0.66),
    (30, 0.85),
    (36, 1.05),
    (40, 1.3),
)


class _StrokeField(NamedTuple):
    """Color [S, S, 3] and stroke direction [S, S], in radians, of each pixel."""

    color: Floats
    direction: Floats


class _Brush(NamedTuple):
    """One layer of strokes.

    Attributes:
        strokes: number of strokes.
        width: of a stroke, as a fraction of the image's side.
        length: likewise.
        contrast: standard deviation of the strokes' lightness, 0 to 255.
    """

    strokes: int
    width: float
    length: float
    contrast: float


_BRUSHES = (
    _Brush(strokes=900, width=0.040, length=0.16, contrast=14),
    _Brush(strokes=2600, width=0.022, length=0.11, contrast=20),
    _Brush(strokes=2400, width=0.012, length=0.07, contrast=26),
)


def demo_style_image(name: str, size: int, seed: int) -> Image:
    """Draw a built-in style image.

    Args:
        name: one of :data:`atelier.core.setting_types.STYLES`, or ``drawn``, an older name of
            ``night_sky``.
        size: pixels, height and width.
        seed: changes details, not the style.

    Returns:
        uint8 ``[size, size, 3]``, RGB.

    Raises:
        ValueError: the name is unknown.
    """
    match name:
        case "night_sky" | "drawn":
            return night_sky_image(size, seed)
        case "wave":
            large = _draw_wave(size * _OVERSAMPLING, np.random.default_rng(seed))
            return cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA).astype(np.uint8)
        case "stained_glass":
            return _draw_stained_glass(size, np.random.default_rng(seed))
    raise ValueError(f"{name} is not a built-in style; choose one of {', '.join(STYLES)}")


def demo_style_sources(size: int, seed: int) -> dict[str, Callable[[], dict[str, Image]]]:
    """Return a function for each built-in style that draws it and returns it by name.

    Args:
        size: pixels, height and width.
        seed: as for :func:`demo_style_image`.
    """

    def source(name: str) -> Callable[[], dict[str, Image]]:
        return lambda: {name: demo_style_image(name, size, seed)}

    return {name: source(name) for name in (*STYLES, "drawn")}


def night_sky_image(size: int, seed: int) -> Image:
    """Draw the night sky with brush strokes.

    Args:
        size: pixels, height and width.
        seed: changes the sky and the strokes; the hills stay the same.

    Returns:
        uint8 ``[size, size, 3]``, RGB.
    """
    rng = np.random.default_rng(seed)
    field = _night_sky_field(size, rng)
    image = field.color.astype(np.uint8)
    for brush in _BRUSHES:
        _draw_strokes(image, field, brush, rng)
    return image


def _night_sky_field(size: int, rng: np.random.Generator) -> _StrokeField:
    """Compute the colors and stroke directions of sky, lights and three rows of hills."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    clouds = _noise(5, size, rng)
    glow, flow = _light_field(y, x, rng)
    color = _ramp(_SKY, 0.12 + 0.55 * y + 0.16 * clouds)
    color = _blend(color, _ramp(_LIGHT, 1.25 * glow - 0.15), np.clip(1.9 * glow - 0.2, 0, 1))
    wind = np.stack([1 + _noise(3, size, rng), 0.3 * np.sin(6 * x) + _noise(3, size, rng)])
    flow = flow + wind
    direction = np.arctan2(flow[1], flow[0])
    for depth in range(3):
        ridge = 0.70 + 0.10 * depth + 0.05 * np.sin(x * (5 - depth) + 2.1 * depth + 0.6)
        below = np.clip((y - ridge) * size / 4 + 0.5, 0, 1)
        light = 0.9 - 0.16 * depth - 4.0 * (y - ridge) + 0.1 * clouds
        color = _blend(color, _ramp(_LAND, light), below)
        slope = np.gradient(ridge[0]) * size
        direction = np.where(below > 0.5, np.arctan(slope) + 0.25 * clouds, direction)
    return _StrokeField(color, direction)


def _light_field(y: Floats, x: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the brightness of the lights [S, S] and the flow around them [2, S, S] (x, y)."""
    glow = np.zeros_like(y)
    flow = np.zeros((2, *y.shape), np.float32)
    for center_x, center_y, radius in _LIGHTS:
        dx, dy = x - center_x, y - center_y
        distance = np.hypot(dx, dy) + 1e-6
        rings = 0.85 + 0.15 * np.cos(distance / radius * 8)
        glow = np.maximum(glow, rings * np.exp(-((distance / (1.3 * radius)) ** 2)))
        strength = rng.choice([-7, 7]) * np.exp(-((distance / (2.4 * radius)) ** 2))
        flow += np.stack([-dy, dx]) / distance * strength
    return glow, flow


def _draw_strokes(
    image: Image, field: _StrokeField, brush: _Brush, rng: np.random.Generator
) -> None:
    """Draw one layer of strokes along the field."""
    size = len(image)
    starts = rng.uniform(-0.05, 1.02, (brush.strokes, 2)).astype(np.float32) * size
    lengths = brush.length * size * rng.uniform(0.5, 1.2, brush.strokes)
    paths = _stroke_paths(field.direction, starts, lengths)
    widths = brush.width * size * rng.uniform(0.6, 1.2, brush.strokes)
    colors = _bristle_colors(_sample(field.color, paths[:, _POINTS // 2]), brush.contrast, rng)
    bristles = _bristles(paths, widths)
    points = np.round(bristles * 2**_SHIFT).astype(np.int32)
    thickness = np.maximum(1, np.round(widths / _BRISTLES * 1.3)).astype(int)
    for stroke in range(brush.strokes):
        for bristle in range(_BRISTLES):
            cv2.polylines(
                image,
                [points[stroke, bristle]],
                isClosed=False,
                color=colors[stroke, bristle].tolist(),
                thickness=int(thickness[stroke]),
                lineType=cv2.LINE_AA,
                shift=_SHIFT,
            )


def _stroke_paths(direction: Floats, starts: Floats, lengths: Floats) -> Floats:
    """Return paths [N, points, 2] (x, y in pixels) along ``direction``."""
    paths = np.repeat(starts[:, None], _POINTS, axis=1)
    for point in range(1, _POINTS):
        angle = _sample(direction, paths[:, point - 1])
        step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * lengths[:, None] / (_POINTS - 1)
        paths[:, point] = paths[:, point - 1] + step
    return paths


def _bristles(paths: Floats, widths: Floats) -> Floats:
    """Return each path as parallel lines [N, bristles, points, 2] across its width."""
    tangent = np.gradient(paths, axis=1)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-6
    offsets = widths[:, None] * np.linspace(-0.5, 0.5, _BRISTLES)
    return paths[:, None] + normal[:, None] * offsets[:, :, None, None]


def _bristle_colors(colors: Floats, contrast: float, rng: np.random.Generator) -> Floats:
    """Return colors of bristles [N, bristles, 3]: brighter on one side, with random variation."""
    count = len(colors)
    lightness = rng.normal(0, contrast, (count, 1))
    hue = rng.normal(0, contrast * 0.4, (count, 3))
    colors = colors * (1 + rng.normal(0, 0.08, (count, 1))) + lightness + hue
    relief = np.linspace(10, -10, _BRISTLES) + rng.normal(0, 12, (count, _BRISTLES))
    return np.clip(colors[:, None] + relief[:, :, None], 0, 255)


def _sample(field: Floats, points: Floats) -> Floats:
    """Return the values of ``field`` at the pixels nearest to ``points`` (x, y)."""
    x, y = np.clip(points, 0, len(field) - 1).astype(int).T
    values: Floats = field[y, x]
    return values


def _ramp(stops: tuple[tuple[int, int, int], ...], position: Floats) -> Floats:
    """Return the colors [..., 3] at ``position`` (0 to 1) between evenly spaced ``stops``."""
    stop_positions = np.linspace(0, 1, len(stops))
    channels = [
        np.interp(position, stop_positions, channel) for channel in zip(*stops, strict=True)
    ]
    return np.stack(channels, axis=-1)


def _blend(bottom: Floats, top: Floats, alpha: Floats) -> Floats:
    return bottom + (top - bottom) * alpha[..., None]


def _noise(cells: int, size: int, rng: np.random.Generator) -> Floats:
    """Return smooth noise [S, S] with mean 0, interpolated from ``cells`` x ``cells`` values."""
    # The border is cropped, because interpolation is constant there.
    grid = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    noise = cv2.resize(grid, None, fx=size / cells, fy=size / cells, interpolation=cv2.INTER_CUBIC)
    border = (len(noise) - size) // 2
    return noise[border : border + size, border : border + size].astype(np.float32)


def _draw_wave(side: int, rng: np.random.Generator) -> Image:
    """Draw rows of breaking waves in front of a pale sky, from back to front."""
    y = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    sky = np.array(_PAPER_COLOR) + (np.array(_HAZE) - np.array(_PAPER_COLOR)) * (1.2 * y).clip(0, 1)
    image = np.broadcast_to(sky, (side, side, 3)).astype(np.uint8).copy()
    for row in range(7):
        height = 0.16 + 0.12 * row
        _draw_row(image, height, 0.055 + 0.012 * row, rng)
    for rows in np.array_split(image, max(1, side // 256)):  # in float64 all would need gigabytes
        grain = rng.normal(0, 4, (len(rows), side, 1))
        rows[:] = (rows + grain).clip(0, 255).astype(np.uint8)
    return image


def _draw_row(image: Image, top: float, swell: float, rng: np.random.Generator) -> None:
    """Draw one row of waves: water with contour lines below a crest of foam."""
    side = len(image)
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(2.6, 3.4)
    along = np.linspace(-0.1, 1.1, 400)
    angle = 2 * np.pi * along * period + phase
    # A trochoid has wide crests and sharp troughs; with a larger factor the troughs have loops.
    x = along + min(0.6 * swell, 0.045) * np.sin(angle)
    crest = np.stack([x, top - swell * np.cos(angle)], axis=1) * side
    bottom = np.array([[1.1, 1.2], [-0.1, 1.2]]) * side
    _fill(image, np.vstack([crest, bottom]), _WATER[3])
    thin = max(1, side // 300)
    for line in range(1, 9):
        depth = 0.014 * line * side
        fade = 1 - 0.08 * line
        contour = np.stack([crest[:, 0], (crest[:, 1] - top * side) * fade + top * side + depth], 1)
        color = _WATER[line % 3] if line % 2 else _WATER[0]
        _stroke(image, contour, color, thin * (3 if line % 3 else 6))
    _stroke(image, crest, _OUTLINE, 4 * thin)
    _draw_foam(image, crest, angle, swell, rng)


def _draw_foam(
    image: Image, crest: Floats, angle: Floats, swell: float, rng: np.random.Generator
) -> None:
    """Draw foam as outlined drops, dense at the crests, with spray above."""
    side = len(image)
    near = np.flatnonzero(np.cos(angle) > 0.15)
    for point in rng.choice(near, 90):
        high = float(np.cos(angle[point]))
        radius = side * rng.uniform(0.005, 0.014) * (0.5 + high)
        offset = rng.normal(0, 0.22, 2) * swell * side + (0, -0.1 * swell * side * high)
        _drop(image, crest[point] + offset, radius)
    for point in rng.choice(near, 30):
        offset = rng.normal(0, 0.5, 2) * swell * side - (0, 0.9 * swell * side)
        _drop(image, crest[point] + offset, side * rng.uniform(0.002, 0.005))


def _drop(image: Image, center: Floats, radius: float) -> None:
    x, y = (round(float(value)) for value in center)
    border = max(1, len(image) // 320)
    cv2.circle(image, (x, y), round(radius) + border, _OUTLINE, -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), max(1, round(radius)), _FOAM, -1, cv2.LINE_AA)


def _fill(image: Image, points: Floats, color: Color) -> None:
    cv2.fillPoly(image, [np.round(points).astype(np.int32)], color, cv2.LINE_AA)


def _stroke(image: Image, points: Floats, color: Color, width: int) -> None:
    cv2.polylines(image, [np.round(points).astype(np.int32)], False, color, width, cv2.LINE_AA)


def _draw_stained_glass(side: int, rng: np.random.Generator) -> Image:
    """Draw a round window: a Voronoi diagram of glass pieces in rings."""
    centers, rings = _pieces(rng)
    y, x = (np.mgrid[:side, :side].astype(np.float32) + 0.5) / side * 2 - 1
    points = np.stack([x, y], axis=-1)
    nearest = np.full((side, side), np.inf, np.float32)
    second = nearest.copy()
    piece = np.zeros((side, side), np.int64)
    for number, center in enumerate(centers):
        distance = np.linalg.norm(points - center, axis=-1)
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        piece[closer] = number
        nearest = np.where(closer, distance, nearest)
    colors = _glass_colors(rings, rng)[piece]
    streaks = cv2.GaussianBlur(rng.normal(0, 1, (side, side)), (0, 0), side / 90, sigmaY=side / 30)
    light = 1.18 - 1.1 * nearest + 0.16 * streaks / streaks.std()
    glass = colors * light[..., None]
    lead = ((second - nearest - 0.022) * side / 6).clip(0, 1)[..., None]
    image: Image = (np.array(_LEAD) + (glass - np.array(_LEAD)) * lead).clip(0, 255)
    return image.astype(np.uint8)


def _pieces(rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Return the centers of the pieces [N, 2], -1 to 1, and the ring of each [N]."""
    centers, rings = [], []
    for ring, (count, radius) in enumerate(_RINGS):
        turn = 2 * np.pi * (np.arange(count) + 0.5 * (ring % 2)) / count
        ring_centers = radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        centers.append(ring_centers + rng.normal(0, 0.014, (count, 2)))
        rings.append(np.full(count, ring))
    return np.concatenate(centers).astype(np.float32), np.concatenate(rings)


def _glass_colors(rings: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Return a color for each piece [N, 3]; neighbors in a ring differ."""
    count = len(_GLASS)
    start = rng.permutation(count)
    order = np.arange(len(rings)) * 3 + start[rings % count]
    colors = np.array(_GLASS, np.float32)[order % count]
    return np.asarray(colors * rng.uniform(0.85, 1.1, (len(rings), 1)))
