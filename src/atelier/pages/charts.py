"""Line charts, scatter plots and parallel coordinates of pages, for ``charts.html.j2``.

Texts and lines are positioned in percent, so that text keeps its size at every width of the page.
"""

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import Locator, LogLocator, MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = (1, 2, 2.5, 5, 10)  # of labels; matplotlib's own ones include multiples of 3 and 8
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
        band: the path of the area around the line; or empty.
        series: number of the color, from 1; 0 for the position in the chart.
        kind: class of the page's style sheet in place of a color; or empty.
    """

    name: str
    path: str
    pale: str = ""
    dots: str = ""
    bars: str = ""
    band: str = ""
    series: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Point:
    """Point of a scatter plot.

    Attributes:
        x: position in percent from the left.
        y: position in percent from the top.
        name: appears while the pointer is on the point.
        kind: class of the page's style sheet.
    """

    x: float
    y: float
    name: str
    kind: str


@dataclass(frozen=True)
class Key:
    """Entry of a legend.

    Attributes:
        name: of a kind of lines or points.
        kind: its class in the page's style sheet.
        is_line: True for a line, False for a point.
    """

    name: str
    kind: str
    is_line: bool = False


@dataclass(frozen=True)
class EndLabel:
    """Short name at the right end of a line; ``at`` is its position in percent from the top."""

    at: float
    label: str
    series: int


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
        end_labels: at the right ends of lines.
        points: over the lines.
        legend: in place of the names of lines; none for a chart whose neighbor has the legend.
    """

    title: str
    note: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    level: float | None = None
    level_name: str = ""
    end_labels: tuple[EndLabel, ...] = ()
    points: tuple[Point, ...] = ()
    legend: tuple[Key, ...] | None = None


@dataclass(frozen=True)
class ParallelAxis:
    """Axis of parallel coordinates: its name and labels."""

    name: str
    ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class ParallelLine:
    """Line through parallel axes, from the top.

    Attributes:
        name: appears while the pointer is on the line.
        kind: class of the page's style sheet.
        path: commands of an SVG path in a square of 1,000 units.
    """

    name: str
    kind: str
    path: str


@dataclass(frozen=True)
class ParallelPlot:
    """Parallel coordinates with horizontal axes, which leave room for long names.

    Attributes:
        title: for screen readers.
        note: explains the plot.
        axes: from the top.
        lines: the last ones are drawn over the others.
        legend: of the kinds of lines.
    """

    title: str
    note: str
    axes: tuple[ParallelAxis, ...]
    lines: tuple[ParallelLine, ...]
    legend: tuple[Key, ...]


@dataclass(frozen=True)
class Axis:
    """Axis of a chart, which begins at ``low`` and ends at ``high``."""

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
        """Return a few labels at round values.

        Args:
            from_top: their positions are from the top, as those of a vertical axis.
            integer: no label has digits after the point.
        """
        locator: Locator = MaxNLocator(5, steps=_STEPS, integer=integer)
        values = self._within(locator)
        if self.logarithmic:
            decades = math.log10(self.high / self.low)
            subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
            logarithmic = self._within(LogLocator(subs=subs))
            # A short range may have none or one of these values.
            values = logarithmic if len(logarithmic) > 1 else values
        shares = self.share(values)
        return tuple(
            Tick(round(100 * (1 - share if from_top else share), 2), _label(value))
            for value, share in zip(values.tolist(), shares.tolist(), strict=True)
        )

    def _within(self, locator: Locator) -> Floats:
        values = np.asarray(locator.tick_values(self.low, self.high), np.float64)
        return values[(values >= self.low) & (values <= self.high)]


def area_path(across: Floats, low: Floats, high: Floats) -> str:
    """Return the commands of the area between two lines, without positions that are not finite.

    Args:
        across: float64 [N], shares of the horizontal axis.
        low: float64 [N], shares of the vertical axis.
        high: the same of the upper line.
    """
    finite = np.isfinite(low) & np.isfinite(high)
    if finite.sum() < 2:
        return ""
    x, low, high = across[finite], low[finite], high[finite]
    outline = [*positions(x, high), *reversed(positions(x, low))]
    return "M" + "L".join(f"{a} {b}" for a, b in outline) + "Z"


def line_path(across: Floats, along: Floats) -> str:
    """Return the commands of a line; it has a gap at each position that is not finite."""
    commands, gap = [], True
    for (x, y), finite in zip(positions(across, along), np.isfinite(along).tolist(), strict=True):
        if finite:
            commands.append(f"{'M' if gap else 'L'}{x} {y}")
        gap = not finite
    return "".join(commands)


def positions(across: Floats, along: Floats) -> list[tuple[int, int]]:
    """Return the positions in the view box, whose vertical axis points down."""
    x = np.round(_SIZE * across).astype(np.int64)
    # Lines beyond the axis leave the view box; it cuts them off.
    share = np.clip(np.nan_to_num(along), -1.0, 2.0)
    y = np.round(_SIZE * (1 - share)).astype(np.int64)
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _label(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 10):g}"
