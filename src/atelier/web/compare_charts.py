"""Charts of the compare page: one line for each group, with a band for its seeds."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from atelier.figures.curves import downsample, limits, smooth
from atelier.pages.charts import (
    Axis,
    Chart,
    EndLabel,
    Floats,
    Line,
    area_path,
    line_path,
    positions,
)
from atelier.tracking.compared_run import ComparedRun
from atelier.web.compare_differences import VALIDATION_KID, compared_metrics
from atelier.web.compare_groups import Group

Table = Callable[[ComparedRun], Sequence[tuple[int, float, float]]]

_POINTS = 200  # of a line
_MIN_DISTANCE = 7.0  # of two labels, in percent of the height
_TOP, _BOTTOM = 3.0, 97.0


@dataclass(frozen=True)
class Curve:
    """Curve of a group.

    Attributes:
        group: the group.
        x: float64 [N], ascending.
        mean: float64 [N], of the group's runs.
        low: float64 [N], lower edge of the band; NaN without a band.
        high: float64 [N], its upper edge.
    """

    group: Group
    x: Floats
    mean: Floats
    low: Floats
    high: Floats


def charts(groups: Sequence[Group]) -> list[Chart]:
    """Return the charts for which there are values."""
    found = []
    tables: dict[str, Table] = {
        "Distance from real images (KID)": lambda run: run.kid_by_epoch,
        VALIDATION_KID.name: lambda run: run.validation_by_epoch,
    }
    if VALIDATION_KID not in compared_metrics(groups):
        del tables[VALIDATION_KID.name]
    for title, table in tables.items():
        kid = [curve for group in groups if (curve := kid_curve(group, table)) is not None]
        if kid:
            found.append(_kid_chart(title, kid))
    for title, column in (
        ("Loss of the discriminator", "loss_d"),
        ("Loss of the generator", "loss_g"),
    ):
        losses = [curve for g in groups if (curve := loss_curve(g, column)) is not None]
        if losses:
            found.append(_loss_chart(title, losses))
    return found


def kid_curve(group: Group, table: Table) -> Curve | None:
    """Return mean, minimum and maximum of the KID of epochs; of one run its standard error.

    Args:
        group: the group.
        table: returns (epoch, KID, standard error or NaN) of a run, by epoch.
    """
    runs = [run for run in group.runs if table(run)]
    if not runs:
        return None
    epochs = sorted({epoch for run in runs for epoch, _, _ in table(run)})
    values = np.full((len(runs), len(epochs)), np.nan)
    for row, run in enumerate(runs):
        for epoch, kid, _ in table(run):
            values[row, epochs.index(epoch)] = kid
    x = np.array(epochs, np.float64)
    if len(runs) == 1:
        errors = np.array([error for _, _, error in table(runs[0])])
        return Curve(group, x, values[0], values[0] - errors, values[0] + errors)
    return _curve_of(group, x, values)


def loss_curve(group: Group, column: str) -> Curve | None:
    """Return mean, minimum and maximum of a smoothed loss."""
    runs = [run for run in group.runs if run.losses]
    if not runs:
        return None
    last = max(float(run.losses["step"][-1]) for run in runs)
    x = np.linspace(min(1.0, last), last, _POINTS)
    values = np.stack([_resampled(run, column, x) for run in runs])
    if len(runs) == 1:
        nothing = np.full_like(x, np.nan)
        return Curve(group, x, values[0], nothing, nothing)
    return _curve_of(group, x, values)


def _curve_of(group: Group, x: Floats, values: Floats) -> Curve:
    """Return the curve of values [runs, N]; those of runs that lack a position are NaN."""
    has_values = np.isfinite(values).any(axis=0)
    masked = np.ma.masked_invalid(values)
    mean, low, high = (
        np.where(has_values, part.filled(np.nan), np.nan)
        for part in (masked.mean(axis=0), masked.min(axis=0), masked.max(axis=0))
    )
    return Curve(group, x, mean, low, high)


def _resampled(run: ComparedRun, column: str, x: Floats) -> Floats:
    """Return a smoothed loss at these steps; NaN after the last step."""
    steps = downsample(run.losses["step"], _POINTS)
    values = smooth(downsample(run.losses[column], _POINTS))
    finite = np.isfinite(values)
    if not finite.any():
        return np.full_like(x, np.nan)
    return np.interp(x, steps[finite], values[finite], right=np.nan)


def _kid_chart(title: str, curves: Sequence[Curve]) -> Chart:
    values = np.concatenate([part for c in curves for part in (c.mean, c.high)])
    positive = np.concatenate([c.mean[c.mean > 0] for c in curves])
    high = float(np.nanmax(values))
    if len(positive) and high > 0:
        y = Axis(float(positive.min()) / 2, high * 1.2, logarithmic=True)
    else:
        low = min(float(np.nanmin(values)), 0.0)
        y = Axis(low, max(high, low + 1.0 if low == 0 else 0.0))
    return _chart(
        title,
        "Lower is better. Dots are measured epochs. The band of several seeds is from the smallest"
        " to the largest value, that of one seed is its standard error, if it is recorded.",
        "epoch",
        curves,
        y,
    )


def _loss_chart(title: str, curves: Sequence[Curve]) -> Chart:
    values = np.concatenate([part for c in curves for part in (c.mean, c.low, c.high)])
    note = (
        "Smoothed. Losses do not measure quality. The band is from the smallest to the largest"
        " value of the seeds."
    )
    return _chart(title, note, "step", curves, Axis(*limits(values)))


def _chart(title: str, note: str, x_label: str, curves: Sequence[Curve], y: Axis) -> Chart:
    last = max(float(curve.x[-1]) for curve in curves)
    x = Axis(0.0, 1.01 * last)  # the last dot must not be cut off
    return Chart(
        title=title,
        note=note,
        x_label=x_label,
        x_ticks=x.ticks(from_top=False, integer=True),
        y_ticks=y.ticks(from_top=True),
        lines=tuple(_line(curve, x, y, dots=x_label == "epoch") for curve in curves),
        end_labels=_end_labels(curves, y),
    )


def _line(curve: Curve, x: Axis, y: Axis, dots: bool) -> Line:
    across, along = x.share(curve.x), y.share(curve.mean)
    finite = np.isfinite(along)
    places = positions(across[finite], along[finite]) if dots else []
    return Line(
        name=curve.group.name,
        path=line_path(across, along),
        dots="".join(f"M{a} {b}h.1" for a, b in places),
        band=area_path(across, y.share(curve.low), y.share(curve.high)),
        series=curve.group.number,
    )


def _end_labels(curves: Iterable[Curve], y: Axis) -> tuple[EndLabel, ...]:
    """Return the letters of groups at the ends of their lines, moved so that none overlap."""
    places = []
    for curve in curves:
        finite = curve.mean[np.isfinite(curve.mean)]
        if len(finite):
            share = float(y.share(finite[-1:])[0])
            places.append((min(_BOTTOM, max(_TOP, 100 * (1 - share))), curve.group))
    places.sort(key=lambda place: (place[0], place[1].number))
    count = len(places)
    distance = min(_MIN_DISTANCE, (_BOTTOM - _TOP) / max(1, count - 1))
    ends: list[EndLabel] = []
    lowest = -math.inf
    for at, group in places:
        lowest = max(at, lowest + distance)
        ends.append(EndLabel(lowest, group.letter, group.number))
    highest = _BOTTOM
    for number in range(count - 1, -1, -1):  # move up those that were pushed below the chart
        at = min(ends[number].at, highest)
        ends[number] = EndLabel(round(at, 2), ends[number].label, ends[number].series)
        highest = at - distance
    return tuple(ends)
