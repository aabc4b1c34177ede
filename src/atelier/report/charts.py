"""Line charts of the report page: training curves and the KID of epochs."""

from collections.abc import Mapping, Sequence

import numpy as np

from atelier.figures.curves import downsample, limits, smooth
from atelier.pages.charts import Axis, Chart, Floats, Line, line_path, positions

_POINTS = 300  # of a line


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
    x = Axis(0.0, float(steps[-1]))
    steps = downsample(steps, _POINTS)
    values = {name: downsample(line, _POINTS) for name, line in lines.items()}
    y = Axis(*(bounds or limits(np.concatenate(list(values.values())))))
    return Chart(
        title=title,
        note=note,
        x_label="step",
        x_ticks=x.ticks(from_top=False, integer=True),
        y_ticks=y.ticks(from_top=True),
        lines=tuple(
            Line(
                name,
                line_path(x.share(steps), y.share(smooth(line))),
                line_path(x.share(steps), y.share(line)),
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
    x = Axis(0.0, 1.01 * float(epochs[-1]))  # the last dot must not be cut off
    across, along = x.share(epochs), y.share(kids)
    line = Line(
        "KID of the samples",
        line_path(across, along),
        dots="".join(f"M{a} {b}h.1" for a, b in positions(across, along)),
        bars="".join(
            f"M{a} {low}V{high}"
            for (a, low), (_, high) in zip(
                positions(across, y.share(kids - errors)),
                positions(across, y.share(kids + errors)),
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


def _kid_axis(kids: Floats, errors: Floats, level: float) -> Axis:
    high = max(float((kids + errors).max()), level)
    positive = [*kids[kids > 0].tolist(), *([level] if level > 0 else [])]
    if not positive or high <= 0:
        low = min(float((kids - errors).min()), 0.0)
        return Axis(low, high if high > low else low + 1.0)
    return Axis(min(positive) / 2, high * 1.2, logarithmic=True)
