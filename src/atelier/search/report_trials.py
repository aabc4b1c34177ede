"""Trials of a study, as its report needs them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, median, stdev
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from atelier.report.verdict import with_error
from atelier.search.settings import SECONDS
from atelier.search.study import OBJECTIVES, PRESENT, SEARCH
from atelier.search.trials import EXPERIMENTS, REASON, SEED_VALUES, STEPS
from atelier.tracking.redact import cut_without_secrets

State = Literal["finished", "pruned", "failed", "running", "waiting"]

_STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_NAMES = {
    "quality/validation_kid": "validation KID",
    SECONDS: "training time",
    "style/loss": "style loss",
}
_MAX_REASON = 300  # characters


@dataclass(frozen=True)
class Objective:
    """Objective of a study.

    Attributes:
        key: its name in ``search.yaml``, e.g. ``quality/validation_kid``.
        is_minimized: True if smaller values are better.
    """

    key: str
    is_minimized: bool = True

    @property
    def name(self) -> str:
        """Name in sentences."""
        return _NAMES.get(self.key, self.key)

    @property
    def superlative(self) -> str:
        """Adjective of the best value."""
        if self.key == SECONDS:
            return "shortest"
        return "lowest" if self.is_minimized else "highest"

    def text(self, value: float, error: float = math.nan) -> str:
        """Return a value and its standard error as text."""
        unit = " s" if self.key == SECONDS else ""
        return f"{with_error(value, error)}{unit}"


@dataclass(frozen=True)
class TrialRecord:
    """Trial of a study.

    Attributes:
        number: of the trial in the study, from 0.
        state: of the trial.
        values: of the objectives, all finite; empty unless the trial finished.
        settings: the searched ones, by dotted key.
        curve: (epoch, validation KID) of measured epochs, ascending; NaN if it is not finite.
        experiments: names of its DVC experiments, one for each seed.
        seconds: duration of the training; NaN if it is not known.
        steps: of the training; 0 if they are not known.
        seed_values: values of the first objective by seed; empty for one seed.
        reason: why the trial failed.
        is_present: True if the settings are those of ``params.yaml``.
    """

    number: int
    state: State
    values: tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    experiments: tuple[str, ...] = ()
    seconds: float = math.nan
    steps: int = 0
    seed_values: tuple[float, ...] = ()
    reason: str = ""
    is_present: bool = False

    @property
    def is_finished(self) -> bool:
        """True if the trial has values."""
        return self.state == "finished"

    @property
    def error(self) -> float:
        """Standard error of the first objective; NaN unless it is the mean of several seeds."""
        count = len(self.seed_values)
        if count < 2 or not self.values or not math.isclose(mean(self.seed_values), self.values[0]):
            return math.nan
        return stdev(self.seed_values) / math.sqrt(count)

    @property
    def name(self) -> str:
        """Name in sentences."""
        return f"trial {self.number}"


@dataclass(frozen=True)
class Setting:
    """Searched setting and its range.

    Attributes:
        key: dotted key of ``params.yaml``.
        low: smallest value of the range; NaN if there are choices.
        high: largest value.
        is_logarithmic: True if values are drawn from a logarithmic range.
        choices: values to choose from; empty for a range.
    """

    key: str
    low: float = math.nan
    high: float = math.nan
    is_logarithmic: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def varies(self) -> bool:
        """True if trials can have different values."""
        return len(self.choices) > 1 or self.low < self.high


def objectives_of(study: optuna.Study) -> tuple[Objective, ...]:
    """Return the objectives of a study; those without a name have a number."""
    stored = study.user_attrs.get(OBJECTIVES)
    keys = [str(key) for key in stored] if isinstance(stored, list) else []
    return tuple(
        Objective(
            keys[place] if place < len(keys) else f"objective {place + 1}",
            direction != StudyDirection.MAXIMIZE,
        )
        for place, direction in enumerate(study.directions)
    )


def search_of(study: optuna.Study) -> dict[str, Any]:
    """Return the content of ``search.yaml`` that the study was made with; empty if missing."""
    try:
        values = json.loads(study.user_attrs.get(SEARCH, "{}"))
    except (ValueError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def settings_of(trials: Sequence[FrozenTrial], order: Sequence[str]) -> tuple[Setting, ...]:
    """Return the searched settings with ranges that include those of all trials.

    Args:
        trials: of the study.
        order: keys that come first.
    """
    found: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for key, distribution in trial.distributions.items():
            same = found.setdefault(key, [])
            if distribution not in same:
                same.append(distribution)
    keys = [key for key in order if key in found] + [key for key in found if key not in order]
    return tuple(_setting(key, found[key]) for key in keys)


def _setting(key: str, distributions: Sequence[BaseDistribution]) -> Setting:
    categorical = [one for one in distributions if isinstance(one, CategoricalDistribution)]
    if categorical:
        choices = dict.fromkeys((type(c), c) for one in categorical for c in one.choices)
        return Setting(key, choices=tuple(choice for _, choice in choices))
    ranges: Any = distributions  # those of integers and floats have the same attributes
    low, high = min(one.low for one in ranges), max(one.high for one in ranges)
    return Setting(key, float(low), float(high), low > 0 and all(one.log for one in ranges))


def record_of(
    trial: FrozenTrial, objectives: Sequence[Objective], present: Mapping[str, Any]
) -> TrialRecord:
    """Return the record of a trial.

    Args:
        trial: of the study.
        objectives: of the study.
        present: settings in ``params.yaml`` by dotted key; empty if they are not known.
    """
    values = tuple(trial.values or ())
    attributes, state = trial.user_attrs, _STATES[trial.state]
    reason = str(attributes.get(REASON, ""))
    if state == "finished" and not all(map(math.isfinite, values)):
        state, reason = "failed", reason or "an objective is not a finite number"
    return TrialRecord(
        number=trial.number,
        state=state,
        values=values if state == "finished" else (),
        settings=dict(trial.params),
        curve=tuple(
            (epoch, value if math.isfinite(value) else math.nan)
            for epoch, value in sorted(trial.intermediate_values.items())
        ),
        experiments=tuple(map(str, _items(attributes.get(EXPERIMENTS)))),
        seconds=_seconds(trial),
        steps=int(_number(attributes.get(STEPS), 0.0)),
        seed_values=_finite(attributes.get(SEED_VALUES)),
        reason=cut_without_secrets(reason, _MAX_REASON).strip(),
        is_present=bool(attributes.get(PRESENT))
        or (
            bool(trial.params)
            and all(key in present and _equal(v, present[key]) for key, v in trial.params.items())
        ),
    )


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _finite(value: Any) -> tuple[float, ...]:
    numbers = [_number(item, math.nan) for item in _items(value)]
    return tuple(item for item in numbers if math.isfinite(item))


def _number(value: Any, otherwise: float) -> float:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else otherwise


def _seconds(trial: FrozenTrial) -> float:
    """Return the recorded seconds of the training, or those between start and end."""
    measured = trial.duration.total_seconds() if trial.duration else math.nan
    return _number(trial.user_attrs.get(SECONDS), measured)


def _equal(parameter: Any, present: Any) -> bool:
    """Return True if a parameter has the value of a setting; lists are stored as JSON."""
    if isinstance(present, list):
        return bool(parameter == json.dumps(present))
    if isinstance(parameter, bool) != isinstance(present, bool):
        return False  # Python considers true and 1 equal
    return bool(parameter == present)


def best_first(trials: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """Return the finished trials; those of one objective are sorted, those of two the front.

    Args:
        trials: of the study.
        objectives: one, or several for a Pareto front, which is sorted by the first one.
    """
    finished = [trial for trial in trials if trial.is_finished]

    def costs(trial: TrialRecord) -> tuple[float, ...]:
        return tuple(
            value if objective.is_minimized else -value
            for value, objective in zip(trial.values, objectives, strict=True)
        )

    finished.sort(key=lambda trial: (costs(trial), trial.number))
    if len(objectives) < 2:
        return finished
    return [
        trial
        for trial in finished
        if not any(_dominates(costs(other), costs(trial)) for other in finished)
    ]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class SavedSteps:
    """Training steps that pruning saved.

    Attributes:
        done: steps of finished and pruned trials.
        full: estimated steps of these trials without pruning.
    """

    done: int
    full: float

    @property
    def share(self) -> float:
        """Saved share of the steps."""
        return 1.0 - self.done / self.full if self.full > 0 else 0.0


def saved_steps(trials: Sequence[TrialRecord], seeds: int) -> SavedSteps | None:
    """Return the steps that pruning saved; ``None`` if nothing was pruned or steps are missing.

    A pruned trial's full length is its own number of steps per epoch times the epochs of a finished
    trial, for all seeds, of which only the first one is pruned. If epochs were not reported, it is
    the median length of finished trials.

    Args:
        trials: of the study.
        seeds: trainings of a finished trial.
    """
    finished = [trial for trial in trials if trial.is_finished and trial.steps]
    pruned = [trial for trial in trials if trial.state == "pruned" and trial.steps]
    if not pruned or not finished:
        return None
    typical = median(trial.steps for trial in finished)
    epochs = max((trial.curve[-1][0] for trial in finished if trial.curve), default=0)
    done = sum(trial.steps for trial in (*finished, *pruned))
    full = float(sum(trial.steps for trial in finished))
    for trial in pruned:
        last = trial.curve[-1][0] if trial.curve else 0
        if 0 < last <= epochs:
            full += trial.steps * seeds * epochs / last
        else:
            full += max(typical, trial.steps)
    return SavedSteps(done, full)


def short_duration(seconds: float) -> str:
    """Return a duration, e.g. ``45 s``, ``12 min`` or ``2.4 h``; empty if it is not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
