"""Charts of a study's report: history, curves, settings, parallel coordinates, Pareto front."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from atelier.core.errors import shorten
from atelier.pages.charts import (
    Axis,
    Chart,
    Floats,
    Key,
    Line,
    ParallelAxis,
    ParallelLine,
    ParallelPlot,
    Point,
    Tick,
    line_path,
)
from atelier.search.report_trials import (
    Objective,
    Setting,
    TrialRecord,
)
from atelier.search.settings import SECONDS, value_text

_KINDS = ("pruned", "finished", "present", "top", "best")  # later ones are drawn over earlier ones
_MARGIN = 0.03  # of an axis at each end, so that points are not on the frame
_PRUNED_ROW = 0.05  # distance of pruned trials from the top, as a share of a chart
_BELOW_PRUNED = 0.84  # share of a chart for the other trials
_CHARACTER = 3.0  # width of a character in percent of a small chart
_PARALLEL_CHARACTER = 2.0  # the same of parallel axes, on a phone
_SHORTEST = 5  # characters of a shortened label
_LOG_FACTOR = 6.0  # of the largest to the smallest value for a logarithmic axis


@dataclass(frozen=True)
class Charted:
    """Trials of a study with the best ones, for all charts.

    Attributes:
        trials: all of them, by number.
        best: the emphasized ones, best first.
        objectives: of the study.
    """

    trials: Sequence[TrialRecord]
    best: Sequence[TrialRecord]
    objectives: Sequence[Objective]

    @property
    def drawn(self) -> list[tuple[str, TrialRecord]]:
        """Kind and trial of finished and pruned trials, in the order of drawing."""
        states = ("finished", "pruned")
        found = [(self._kind(t), t) for t in self.trials if t.state in states]
        return sorted(found, key=lambda each: (_KINDS.index(each[0]), each[1].number))

    def _kind(self, trial: TrialRecord) -> str:
        numbers = [each.number for each in self.best]
        if trial.number in numbers:
            is_first = len(self.objectives) == 1 and numbers[0] == trial.number
            return "best" if is_first else "top"
        if trial.state == "pruned":
            return "pruned"
        return "present" if trial.is_present else "finished"

    def name(self, trial: TrialRecord) -> str:
        """Return the text on a trial that appears while the pointer is on it."""
        texts = [
            f"{objective.name} {objective.text(value)}"
            for objective, value in zip(self.objectives, trial.values, strict=False)
        ]
        if trial.state == "pruned":
            texts = ["pruned"]
            if trial.curve:
                epoch, kid = trial.curve[-1]
                texts = [f"pruned after epoch {epoch} with {kid:.3g}"]
        if trial.is_present:
            texts.append("present settings")
        return f"{trial.name}: {', '.join(texts)}"

    def legend(self, kinds: Iterable[str], is_line: bool = False) -> tuple[Key, ...]:
        """Return the entries of these kinds, the best one first."""
        is_front = len(self.objectives) > 1
        names = {
            "best": "best trial",
            "top": "Pareto front" if is_front else "next best trials",
            "present": "present settings",
            "finished": "other finished trials",
            "pruned": "pruned trials",
        }
        found = set(kinds)
        return tuple(Key(names[k], k, is_line) for k in reversed(_KINDS) if k in found)


def history_chart(charted: Charted) -> Chart | None:
    """Return the chart of the objective by trial, with the best value so far."""
    objective = charted.objectives[0]
    finished = [trial for trial in charted.trials if trial.is_finished]
    if not finished:
        return None
    last = float(max(1, charted.trials[-1].number))
    x, y = _padded(0.0, last), _Vertical.of(charted)
    best = (np.minimum if objective.is_minimized else np.maximum).accumulate(
        [trial.values[0] for trial in finished]
    )
    numbers = np.array([*(float(trial.number) for trial in finished), last])
    across, along = x.share(np.repeat(numbers, 2)[1:-1]), y.share(np.repeat(best, 2))
    return Chart(
        title=f"{_capitalized(objective.name)} by trial",
        note="",
        x_label="trial",
        x_ticks=x.ticks(from_top=False, integer=True),
        y_ticks=y.ticks,
        lines=(Line("best so far", line_path(across, along), kind="record"),),
        points=tuple(
            _point(
                kind, x.share(np.array(float(trial.number))), y.of_trial(trial), charted.name(trial)
            )
            for kind, trial in charted.drawn
        ),
        legend=(
            *charted.legend(kind for kind, _ in charted.drawn),
            Key("best so far", "record", is_line=True),
        ),
    )


def front_chart(charted: Charted) -> Chart | None:
    """Return the scatter plot of two objectives, with the edge of the Pareto front."""
    drawn = [(kind, trial) for kind, trial in charted.drawn if trial.is_finished]
    if not drawn:
        return None
    first, second = charted.objectives[:2]
    y, x = (_value_axis(trial.values[place] for _, trial in drawn) for place in (0, 1))
    front = np.array(sorted((trial.values[1], trial.values[0]) for trial in charted.best))
    across, along = (np.repeat(axis.share(front[:, k]), 2) for k, axis in enumerate((x, y)))
    # Between two trials of the front, the edge has the worse values of both.
    if second.is_minimized:
        across, along = across[1:], along[:-1]
    else:
        across, along = across[:-1], along[1:]
    return Chart(
        title=f"{_capitalized(first.name)} by {second.name}",
        note="No trial is better than one of the Pareto front in both objectives.",
        x_label=second.name + (" in seconds" if second.key == SECONDS else ""),
        x_ticks=x.ticks(from_top=False),
        y_ticks=y.ticks(from_top=True),
        lines=(Line("Pareto front", line_path(across, along), kind="record"),),
        points=tuple(
            _point(
                kind,
                x.share(np.array(trial.values[1])),
                y.share(np.array(trial.values[0])),
                charted.name(trial),
            )
            for kind, trial in drawn
        ),
        legend=charted.legend(kind for kind, _ in drawn),
    )


def curves_chart(charted: Charted) -> Chart | None:
    """Return the chart of the validation KID by epoch, a line for each trial."""
    drawn = [
        (kind, trial)
        for kind, trial in charted.drawn
        if any(math.isfinite(value) for _, value in trial.curve)
    ]
    if not drawn:
        return None
    points = [point for _, trial in drawn for point in trial.curve]
    x = _padded(min(epoch for epoch, _ in points), max(epoch for epoch, _ in points))
    y = _value_axis(value for _, value in points)
    lines, ends = [], []
    for kind, trial in drawn:
        epochs, kids = (np.array(column, np.float64) for column in zip(*trial.curve, strict=True))
        across, along = x.share(epochs), y.share(kids)
        lines.append(Line(charted.name(trial), line_path(across, along), kind=kind))
        if kind == "pruned" and math.isfinite(kids[-1]):
            ends.append(_point(kind, across[-1], along[-1], charted.name(trial)))
    note = "Lower is better."
    if any(kind == "pruned" for kind, _ in drawn):
        note += " A circle is the end of a pruned training, which is saved and can be resumed."
    return Chart(
        title="Validation KID by epoch",
        note=note,
        x_label="epoch",
        x_ticks=x.ticks(from_top=False, integer=True),
        y_ticks=y.ticks(from_top=True),
        lines=tuple(lines),
        points=tuple(ends),
        legend=charted.legend((kind for kind, _ in drawn), is_line=True),
    )


def slice_charts(charted: Charted, settings: Iterable[Setting], place: int) -> list[Chart]:
    """Return an objective against each setting, with equal vertical axes.

    Args:
        charted: the trials.
        settings: the searched ones.
        place: of the objective.
    """
    if sum(trial.is_finished for trial in charted.trials) < 2:
        return []
    y = _Vertical.of(charted, place)
    charts = []
    for setting in settings:
        scale = _Scale.of(setting, is_padded=True)
        points = [
            _point(
                kind,
                scale.share(trial.settings[setting.key]),
                y.of_trial(trial, place),
                f"{charted.name(trial)}, {setting.key} {value_text(trial.settings[setting.key])}",
            )
            for kind, trial in charted.drawn
            if setting.key in trial.settings
        ]
        charts.append(
            Chart(
                title=setting.key,
                note="",
                x_label="",
                x_ticks=_with_room(scale.labels(_CHARACTER), _CHARACTER),
                y_ticks=y.ticks,
                lines=(),
                points=tuple(points),
                legend=(),
            )
        )
    return charts


def parallel_chart(charted: Charted, settings: Sequence[Setting]) -> ParallelPlot | None:
    """Return parallel coordinates: an axis for each setting and for each objective."""
    finished = [trial for _, trial in charted.drawn if trial.is_finished]
    if len(finished) < 2 or not settings:
        return None
    scales = [_Scale.of(setting) for setting in settings]
    values = [
        _value_axis(trial.values[place] for trial in finished)
        for place in range(len(charted.objectives))
    ]
    labels = {
        setting.key: scale.labels(_PARALLEL_CHARACTER)
        for setting, scale in zip(settings, scales, strict=True)
    }
    for objective, axis in zip(charted.objectives, values, strict=True):
        labels[objective.name] = axis.ticks(from_top=False)
    axes = [
        ParallelAxis(name, _with_room(ticks, _PARALLEL_CHARACTER)) for name, ticks in labels.items()
    ]
    lines = []
    for kind, trial in charted.drawn:
        across = [
            float(scale.share(trial.settings[setting.key]))
            if setting.key in trial.settings
            else math.nan
            for setting, scale in zip(settings, scales, strict=True)
        ]
        if trial.values:  # those of a pruned trial end before the objectives
            across += [
                float(axis.share(np.array(value)))
                for axis, value in zip(values, trial.values, strict=True)
            ]
        lines.append(ParallelLine(charted.name(trial), kind, _downward(across, len(axes))))
    note = "A line is a trial."
    if any(kind == "pruned" for kind, _ in charted.drawn):
        note += " Those of pruned trials end before the objective."
    return ParallelPlot(
        title="Settings and objective of all trials as parallel coordinates",
        note=note,
        axes=tuple(axes),
        lines=tuple(lines),
        legend=charted.legend((kind for kind, _ in charted.drawn), is_line=True),
    )


def _downward(across: Sequence[float], axes: int) -> str:
    """Return the path through the middles of rows; values that are not finite are left out."""
    places = [
        (round(1000 * share), round(1000 * (row + 0.5) / axes))
        for row, share in enumerate(across)
        if math.isfinite(share)
    ]
    return "M" + "L".join(f"{x} {y}" for x, y in places) if places else ""


@dataclass(frozen=True)
class _Scale:
    """Horizontal axis of a setting: a range, or evenly spaced choices."""

    choices: tuple[object, ...]
    axis: Axis | None
    ticks: tuple[Tick, ...]

    @classmethod
    def of(cls, setting: Setting, is_padded: bool = False) -> "_Scale":
        if setting.choices:
            count = len(setting.choices)
            ticks = tuple(
                Tick(round(100 * (place + 0.5) / count, 2), value_text(choice))
                for place, choice in enumerate(setting.choices)
            )
            return cls(setting.choices, None, ticks)
        low, high, logarithmic = setting.low, setting.high, setting.is_logarithmic
        is_plain = low < high and not is_padded
        axis = Axis(low, high, logarithmic) if is_plain else _padded(low, high, logarithmic)
        return cls((), axis, axis.ticks(from_top=False))

    def labels(self, character: float) -> tuple[Tick, ...]:
        """Return the labels for an axis; a character has this width in percent of it."""
        return _shortened(self.ticks, character) if self.choices else self.ticks

    def share(self, value: object) -> Floats:
        """Return the position of a value, from 0 to 1; NaN for an unknown choice."""
        if self.axis is not None:
            return self.axis.share(np.array(value, np.float64))
        found = [k for k, c in enumerate(self.choices) if c == value and type(c) is type(value)]
        return np.array((found[0] + 0.5) / len(self.choices) if found else math.nan)


@dataclass(frozen=True)
class _Vertical:
    """Vertical axis of an objective, with pruned trials in a row above it.

    A pruned trial has no value that can be compared with those of finished ones.
    """

    axis: Axis
    height: float  # share of the chart

    @classmethod
    def of(cls, charted: Charted, place: int = 0) -> "_Vertical":
        values = [trial.values[place] for trial in charted.trials if trial.is_finished]
        has_pruned = any(kind == "pruned" for kind, _ in charted.drawn)
        return cls(_value_axis(values), _BELOW_PRUNED if has_pruned else 1.0)

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """Labels from the top."""
        own = [
            Tick(round(100 - self.height * (100 - tick.at), 2), tick.label)
            for tick in self.axis.ticks(from_top=True)
        ]
        return (*own, Tick(100 * _PRUNED_ROW, "pruned")) if self.height < 1 else tuple(own)

    def share(self, values: Floats) -> Floats:
        """Return positions of values, 0 at the bottom of the chart and 1 at the top."""
        return self.height * self.axis.share(values)

    def of_trial(self, trial: TrialRecord, place: int = 0) -> Floats:
        """Return the position of a finished or pruned trial."""
        if not trial.values:
            return np.array(1.0 - _PRUNED_ROW)
        return self.share(np.array(trial.values[place]))


def _shortened(ticks: Sequence[Tick], character: float) -> tuple[Tick, ...]:
    """Return the labels of choices with their first or last characters, if these differ.

    Args:
        ticks: evenly spaced.
        character: width of a character in percent of the axis.
    """
    room = int(100 / max(1, len(ticks)) / character) - 1
    texts = [tick.label for tick in ticks]
    words = [_abbreviated(text, room) for text in texts]
    ends = [text if len(text) <= room else f"...{text[3 - room :]}" for text in texts]
    for labels in (words, [shorten(text, room) for text in texts], ends):
        if room > _SHORTEST and len(set(labels)) == len(ticks):
            return tuple(Tick(tick.at, label) for tick, label in zip(ticks, labels, strict=True))
    return tuple(ticks)


def _abbreviated(text: str, room: int) -> str:
    """Return a long list with all words shortened alike, e.g. ``tran., cut.``."""
    if len(text) > room and text.startswith("["):
        for letters in range(room, 1, -1):
            short = re.sub(rf"([a-z]{{{letters}}})[a-z]{{2,}}", r"\1.", text.strip("[]"))
            if len(short) <= room:
                return short
    return shorten(text, room)


def _with_room(ticks: Sequence[Tick], character: float) -> tuple[Tick, ...]:
    """Return the labels that have room, from the left.

    Args:
        ticks: of a horizontal axis.
        character: width of a character in percent of the axis.
    """
    found: list[Tick] = []
    end = -math.inf
    for tick in ticks:
        width = character * len(tick.label)
        # Labels at the ends of an axis are within it; see charts.html.j2.
        left = tick.at if tick.at < 3 else tick.at - width if tick.at > 97 else tick.at - width / 2
        if left > end:
            found.append(tick)
            end = left + width + character
    return tuple(found)


def _point(kind: str, across: Floats, along: Floats, name: str) -> Point:
    return Point(round(100 * float(across), 2), round(100 * (1 - float(along)), 2), name, kind)


def _value_axis(values: Iterable[float]) -> Axis:
    """Return an axis for values; it is logarithmic for positive ones of different magnitude."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    return _padded(low, high, low > 0 and high > _LOG_FACTOR * low)


def _padded(low: float, high: float, logarithmic: bool = False) -> Axis:
    """Return an axis that is a little longer than a range at both ends."""
    if logarithmic:
        factor = (high / low) ** _MARGIN if high > low else 2.0
        return Axis(low / factor, high * factor, logarithmic=True)
    margin = _MARGIN * (high - low) or max(abs(low), 1.0) / 2
    return Axis(low - margin, high + margin)


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]
