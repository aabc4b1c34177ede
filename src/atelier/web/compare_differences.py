"""Differences between groups of runs, and whether they are larger than their error.

With at least two seeds in both groups, a difference of means is judged by Welch's t interval
(B. L. Welch, Biometrika 34, 1947). Its level is 1 - 0.05 / m for m comparisons of one metric
(Bonferroni), so that all intervals of the metric hold together with a probability of 95%. One seed
is compared with several by the prediction interval of a further seed. Between two single runs only
KID has a known error, which is that of its estimate for these two generators.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from atelier.report.verdict import METRICS, SHARES
from atelier.tracking.compared_run import DATA, ComparedRun
from atelier.web.compare_groups import Group, result_settings, same_images, same_reference

Outcome = Literal["larger", "within", "unknown"]

ERROR_RATE = 0.05  # of all comparisons of one metric together
_STYLE = "style_loss"
_MILLIONS = -4  # digits of a spread of at least 100,000
_KID = "kid"
# The best epoch has a lower KID than the last one of the same training.
_VALIDATION_SETTINGS = ("train.kid_features", "train.kid_samples", "train.select_model")
# Names of the conditions of a measurement: settings, or what settings and data result in.
_CONDITIONS = {
    "features": "evaluate.features",
    "samples": "generated images",
    "seed": "evaluate.seed",
    "reference": "evaluate.reference",
    "reference_images": "real images",
    "other_images": "other real images",
    "searched": "searched training images",
    "neighbours": "neighbors",
}


@dataclass(frozen=True)
class Metric:
    """Metric of the comparison.

    Attributes:
        key: in :attr:`ComparedRun.metrics`.
        name: for readers.
        better: ``lower``, ``higher``, or another word if neither is better.
        is_share: printed as a percentage.
    """

    key: str
    name: str
    better: str
    is_share: bool = False

    def text(self, value: float, digits: int) -> str:
        """Return a value as text, e.g. as a percentage or in millions.

        Args:
            value: to print.
            digits: after the point; negative for large numbers.
        """
        unit = "%" if self.is_share else ""
        if digits <= _MILLIONS:
            value, digits, unit = value / 1e6, max(0, digits + 6), "M"
        # A zero is added because a rounded negative value would be written as -0.0.
        rounded = round(self.scale * value, digits) + 0.0
        return f"{rounded:,.{max(0, digits)}f}{unit}"

    @property
    def scale(self) -> float:
        """Factor of printed values."""
        return 100.0 if self.is_share else 1.0


KID = Metric(_KID, "Distance (KID)", "lower")
VALIDATION_KID = Metric("validation_kid", "Distance from validation images (KID)", "lower")
"""KID that a training measures itself; runs without an evaluate stage have no other one."""

ALL_METRICS = (
    KID,
    VALIDATION_KID,
    *(Metric(key, name, better, key in SHARES) for key, name, _, better in METRICS),
    Metric(_STYLE, "Style loss", "lower"),
)


@dataclass(frozen=True)
class Summary:
    """Values of a metric in a group, one per seed.

    Attributes:
        values: at least one.
        error: standard error of a single KID; ``None`` if there are more values or none is known.
    """

    values: tuple[float, ...]
    error: float | None = None

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation, with n - 1; ``None`` for a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def text(self, metric: Metric) -> str:
        """Return the mean and its deviation, or a single value and its error."""
        spread = self.error if self.deviation is None else self.deviation
        digits = _digits(metric.scale * (spread or abs(self.mean) / 10))
        text = metric.text(self.mean, digits)
        return f"{text} ± {metric.text(spread, digits)}" if spread is not None else text


@dataclass(frozen=True)
class Difference:
    """Statement on a metric of a group and the baseline.

    Attributes:
        metric: the metric.
        group: that is compared with the baseline.
        outcome: whether the difference is larger than its error.
        sentence: for readers.
        value: mean of the group minus that of the baseline; NaN if they are not comparable.
        margin: half of the interval; NaN if it is not known.
    """

    metric: Metric
    group: Group
    outcome: Outcome
    sentence: str
    value: float = math.nan
    margin: float = math.nan


def main_metric(groups: Sequence[Group]) -> Metric:
    """Return the metric of the headline: KID, or else the validation KID.

    Without an evaluation, the first group or all others have no KID.
    """
    if _is_common(groups, KID) or not _is_common(groups, VALIDATION_KID):
        return KID
    return VALIDATION_KID


def _is_common(groups: Sequence[Group], metric: Metric) -> bool:
    """Return True if the first group has a metric and, of several, another one too."""
    first, *others = (bool(group.measured(metric.key)) for group in groups)
    return first and (any(others) or not others)


def compared_metrics(groups: Sequence[Group]) -> list[Metric]:
    """Return the metrics of groups; the validation KID only if a group has no KID."""
    found = [m for m in ALL_METRICS if any(group.measured(m.key) for group in groups)]
    if all(group.measured(KID.key) or not group.measured(VALIDATION_KID.key) for group in groups):
        return [metric for metric in found if metric is not VALIDATION_KID]
    return found


def summarize(group: Group, metric: Metric) -> Summary | None:
    """Return the values of a metric in a group; ``None`` if it was not measured."""
    runs = group.measured(metric.key)
    if not runs:
        return None
    error = runs[0].metrics.get("kid_error") if metric.key == _KID and len(runs) == 1 else None
    return Summary(tuple(run.metrics[metric.key] for run in runs), error)


def compare_groups(groups: Sequence[Group]) -> list[Difference]:
    """Return the differences of all groups from the first one, by metric; KID first."""
    metrics = compared_metrics(groups)
    return [difference for metric in metrics for difference in _of_metric(groups, metric)]


def _of_metric(groups: Sequence[Group], metric: Metric) -> Iterator[Difference]:
    """Yield the differences of one metric; groups without it are left out."""
    baseline, *others = groups
    base = summarize(baseline, metric)
    if base is None:
        return
    found = [(group, summary) for group in others if (summary := summarize(group, metric))]
    if metric is VALIDATION_KID and baseline.measured(KID.key):
        found = [(group, summary) for group, summary in found if not group.measured(KID.key)]
    obstacles = {group.number: obstacle(baseline, group, metric) for group, _ in found}
    # Two single runs have no interval.
    comparisons = sum(
        not obstacles[group.number] and max(len(base.values), len(summary.values)) > 1
        for group, summary in found
    )
    # With many groups, the baseline is named by its letter alone.
    named = baseline if len(groups) == 2 else replace(baseline, label="")
    for group, summary in found:
        if text := obstacles[group.number]:
            pair = f"{_name(group, metric)} and {_name(named, metric)}"
            sentence = f"{metric.name} of {pair} is not compared: {text}."
            yield Difference(metric, group, "unknown", sentence)
        else:
            level = 1 - ERROR_RATE / max(1, comparisons)
            yield _difference(metric, (named, base), (group, summary), level)


def obstacle(one: Group, other: Group, metric: Metric) -> str:
    """Return why the values of two groups are not comparable; empty if they are."""
    runs = [run for group in (one, other) for run in group.measured(metric.key)]
    if metric.key == _STYLE:
        conditions = [_stylize_settings(run) for run in runs]
    elif metric.key == VALIDATION_KID.key:
        for path, name in ((DATA[1], "validation images"), (DATA[0], "training images")):
            # Training images give the scale of features.
            if not all(same_images(path, runs[0], run) for run in runs):
                return f"their {name} differ"
        conditions = [_validation_settings(run) for run in runs]
    else:
        if not all(same_reference(runs[0], run) for run in runs):
            return "their real images differ"
        conditions = [dict(run.measured_with) for run in runs]
        if not all(conditions):
            return "the conditions of a measurement are not recorded"
    keys = dict.fromkeys(key for each in conditions for key in each)
    differing = [key for key in keys if len({each.get(key) for each in conditions}) > 1]
    if not differing:
        return ""
    first, last = (
        each.get(differing[0], "not recorded") for each in (conditions[0], conditions[-1])
    )
    example = f"{_CONDITIONS.get(differing[0], differing[0])} {first} and {last}"
    return f"it was measured differently ({example})" if first != last else "conditions differ"


def _stylize_settings(run: ComparedRun) -> Mapping[str, str]:
    settings = result_settings(run)
    return {key: value for key, value in settings.items() if key.startswith("stylize.")}


def _validation_settings(run: ComparedRun) -> Mapping[str, str]:
    settings = result_settings(run)
    return {key: settings[key] for key in _VALIDATION_SETTINGS if key in settings}


def _difference(
    metric: Metric, baseline: tuple[Group, Summary], other: tuple[Group, Summary], level: float
) -> Difference:
    """Compare two summaries.

    Args:
        metric: of both.
        baseline: the first group.
        other: the group that is compared with it.
        level: of the interval.
    """
    (first, base), (group, summary) = baseline, other
    value, names = summary.mean - base.mean, (_name(group, metric), _name(first, metric))
    if sorted(base.values) == sorted(summary.values):
        sentence = f"{metric.name} is the same in {names[0]} and {names[1]}."
        return Difference(metric, group, "within", sentence, 0.0, 0.0)
    counts = len(base.values), len(summary.values)
    if min(counts) > 1:
        margin = welch_margin(base.values, summary.values, level)
        reason = "its error"
    elif max(counts) > 1:
        single, several = (group, base) if counts[0] > 1 else (first, summary)
        margin = prediction_margin(several.values, level)
        reason = f"the seeds alone explain ({single.letter} has one seed)"
    else:
        return _of_single_runs(metric, baseline, other)
    if not margin > 0:
        sentence = (
            f"{metric.name}: {names[0]} differs from {names[1]} by"
            f" {metric.text(value, _digits(metric.scale * abs(value)))}, but the seeds of a group"
            " have no deviation, so that the error is not known."
        )
        return Difference(metric, group, "unknown", sentence, value)
    digits = _digits(metric.scale * margin)
    # A difference far below a large margin keeps its own digits.
    shown = metric.text(abs(value), max(digits, _digits(metric.scale * abs(value)) - 1))
    amount = f"{shown} ± {metric.text(margin, digits)}"
    is_larger = abs(value) > margin
    start = f"{metric.name}: {names[0]} is {_words(metric, value, amount)} {names[1]}."
    verdict = "larger than" if is_larger else "not larger than"
    sentence = f"{start} The difference is {verdict} {reason}."
    return Difference(metric, group, "larger" if is_larger else "within", sentence, value, margin)


def _name(group: Group, metric: Metric) -> str:
    """Return the name of a group, which is long; for metrics that are no KID its letter."""
    return group.name if metric in (KID, VALIDATION_KID) else group.letter


def _words(metric: Metric, value: float, amount: str) -> str:
    direction = "lower" if value < 0 else "higher"
    if metric.better in ("lower", "higher"):
        direction += " (better)" if direction == metric.better else " (worse)"
    return f"{amount} {direction} than"


def _of_single_runs(
    metric: Metric, baseline: tuple[Group, Summary], other: tuple[Group, Summary]
) -> Difference:
    """Compare two generators by the standard errors of their KID, if these are known."""
    (first, base), (group, summary) = baseline, other
    value = summary.mean - base.mean
    if base.error is None or summary.error is None or not base.error + summary.error > 0:
        sentence = ""
        if metric is VALIDATION_KID:
            words = _words(metric, value, metric.text(abs(value), _digits(abs(value))))
            sentence = (
                f"{metric.name}: the generator of {group.name} is {words} that of {first.name}. The"
                " error of one seed each is not known."
            )
        return Difference(metric, group, "unknown", sentence, value)
    error = math.hypot(base.error, summary.error)
    digits = _digits(metric.scale * error)
    start = _words(metric, value, metric.text(abs(value), digits))
    is_larger = abs(value) > 2 * error
    verdict = "more than" if is_larger else "not more than"
    sentence = (
        f"{metric.name}: the generator of {group.name} is {start} that of {first.name}, {verdict}"
        f" twice the standard error of {metric.text(error, digits)}. One seed each cannot show that"
        " the settings are the reason."
    )
    return Difference(metric, group, "unknown", sentence, value, 2 * error)


def welch_margin(one: Sequence[float], other: Sequence[float], level: float) -> float:
    """Return half of Welch's confidence interval of a difference of means; 0 without deviation.

    Args:
        one: at least two values.
        other: at least two values.
        level: of the interval, e.g. 0.95.
    """
    parts = [float(np.var(values, ddof=1)) / len(values) for values in (one, other)]
    if not sum(parts):
        return 0.0
    # Degrees of freedom by Welch and Satterthwaite.
    counts = (len(one), len(other))
    freedom = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, counts, strict=True))
    return float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(sum(parts))


def prediction_margin(values: Sequence[float], level: float) -> float:
    """Return half of the interval for one more value of a normal distribution.

    Args:
        values: at least two values of it.
        level: of the interval, e.g. 0.95.
    """
    count = len(values)
    quantile = stats.t.ppf((1 + level) / 2, count - 1)
    return float(quantile * np.std(values, ddof=1) * math.sqrt(1 + 1 / count))


def _digits(spread: float) -> int:
    """Return the digits after the point with which a spread has two significant digits."""
    if not spread or not math.isfinite(spread):
        return 1
    return min(8, 1 - math.floor(math.log10(spread)))
