"""Line charts of the report page, as positions for its template's SVG.

Texts and lines are positioned in percent, so that text keeps its size at every width of the page.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from numpy.typing import NDArray

from atelier.figures.curves import downsample, limits, smooth

Floats = NDArray[np.float64]

_POINTS = 300  # of a line
_SIZE = 1000  # of the view box; its units have no digits after the point


@dataclass(frozen=True)
class Tick:
    """Label of an axis; ``at`` is its position in percent from the left or the top."""

    at: float
    label: str


@dataclass(frozen=True)
class Line:
    """Line of a chart.

    Attributes:
        name: in the legend.
        path: commands of an SVG path in a square of 1,000 units.
        pale: the path of the values before smoothing; or empty.
        dots: the path of a dot for each value; or empty.
        bars: the path of a bar of errors for each value; or empty.
    """

    name: str
    path: str
    pale: str = ""
    dots: str = ""
    bars: str = ""


@dataclass(frozen=True)
class Chart:
    """Line chart.

    Attributes:
        title: above the chart.
        note: explains the chart.
        x_label: below the horizontal axis.
        x_ticks: of the horizontal axis.
        y_ticks: of the vertical axis.
        lines: in the order of the legend.
        level: upper edge of the band of real images in percent from the top; ``None`` for none.
        level_name: of that band.
    """

    title: str
    note: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    level: float | None = None
    level_name: str = ""


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    logarithmic: bool = False

    def share(self, values: Floats) -> Floats:
        """Return positions, 0 at ``low`` and 1 at ``high``."""
        if self.logarithmic:
            values = np.log(np.maximum(values, self.low))
            return (values - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (values - self.low) / (self.high - self.low)

    def ticks(self, from_top: bool, integer: bool = False) -> tuple[Tick, ...]:
        if self.logarithmic:
            decades = math.log10(self.high / self.low)
            locator: Locator = LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0))
        else:
            locator = MaxNLocator(5, integer=integer)
        values = np.asarray(locator.tick_values(self.low, self.high), np.float64)
        values = values[(values >= self.low) & (values <= self.high)]
        shares = self.share(values)
        return tuple(
            Tick(round(100 * (1 - share if from_top else share), 2), _label(value))
            for value, share in zip(values.tolist(), shares.tolist(), strict=True)
        )


def training_chart(
    title: str,
    note: str,
    steps: Floats,
    lines: Mapping[str, Floats],
    bounds: tuple[float, float] | None = None,
) -> Chart:
    """Return a chart of values of every step, smoothed over the pale values themselves.

    Args:
        title: above the chart.
        note: explains the chart.
        steps: float64 [N], ascending.
        lines: for each name float64 [N]; values that are not finite leave a gap.
        bounds: of the vertical axis; by default all values but a few outliers.
    """
    x = _Axis(0.0, float(steps[-1]))
    steps = downsample(steps, _POINTS)
    values = {name: downsample(line, _POINTS) for name, line in lines.items()}
    y = _Axis(*(bounds or limits(np.concatenate(list(values.values())))))
    return Chart(
        title=title,
        note=note,
        x_label="step",
        x_ticks=x.ticks(from_top=False, integer=True),
        y_ticks=y.ticks(from_top=True),
        lines=tuple(
            Line(
                name,
                _path(x.share(steps), y.share(smooth(line))),
                _path(x.share(steps), y.share(line)),
            )
            for name, line in values.items()
        ),
    )


def kid_chart(
    rows: Sequence[tuple[int, float, float]],
    real: tuple[float, float] | None,
    reference: str = "test",
) -> Chart | None:
    """Return the chart of the KID of epochs, with a logarithmic axis; ``None`` without rows.

    Args:
        rows: (epoch, KID, standard error), by epoch.
        real: KID of other real images and its standard error.
        reference: the set that samples are compared with.
    """
    if not rows:
        return None
    epochs, kids, errors = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    level = real[0] + 2 * real[1] if real else 0.0
    y = _kid_axis(kids, errors, level)
    x = _Axis(0.0, 1.01 * float(epochs[-1]))  # the last dot must not be cut off
    across, along = x.share(epochs), y.share(kids)
    line = Line(
        "KID of the samples",
        _path(across, along),
        dots="".join(f"M{a} {b}h.1" for a, b in _points(across, along)),
        bars="".join(
            f"M{a} {low}V{high}"
            for (a, low), (_, high) in zip(
                _points(across, y.share(kids - errors)),
                _points(across, y.share(kids + errors)),
                strict=True,
            )
        ),
    )
    top = float(y.share(np.array(level))) if level > 0 else 0.0
    return Chart(
        title="Distance from real images (KID)",
        note=(
            f"Lower is better. The samples of {len(rows)} epochs are compared with {reference}"
            " images; bars are standard errors."
        ),
        x_label="epoch",
        x_ticks=x.ticks(from_top=False, integer=True),
        y_ticks=y.ticks(from_top=True),
        lines=(line,),
        level=round(100 * (1 - top), 2) if top > 0 else None,
        level_name=f"other real images (up to {level:.2g})",
    )


def _kid_axis(kids: Floats, errors: Floats, level: float) -> _Axis:
    high = max(float((kids + errors).max()), level)
    positive = [*kids[kids > 0].tolist(), *([level] if level > 0 else [])]
    if not positive or high <= 0:
        low = min(float((kids - errors).min()), 0.0)
        return _Axis(low, high if high > low else low + 1.0)
    return _Axis(min(positive) / 2, high * 1.2, logarithmic=True)


def _path(across: Floats, along: Floats) -> str:
    """Return the commands of a line; it has a gap at each position that is not finite."""
    commands, gap = [], True
    for (x, y), finite in zip(_points(across, along), np.isfinite(along).tolist(), strict=True):
        if finite:
            commands.append(f"{'M' if gap else 'L'}{x} {y}")
        gap = not finite
    return "".join(commands)


def _points(across: Floats, along: Floats) -> list[tuple[int, int]]:
    """Return the positions in the view box, whose vertical axis points down."""
    x = np.round(_SIZE * across).astype(np.int64)
    # Lines beyond the axis leave the view box; it cuts them off.
    share = np.clip(np.nan_to_num(along), -1.0, 2.0)
    y = np.round(_SIZE * (1 - share)).astype(np.int64)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):g}"
