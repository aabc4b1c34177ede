"""Report of a study: its content."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import optuna

from atelier.core.errors import shorten
from atelier.pages.charts import Chart, ParallelPlot
from atelier.pages.images import PageImage
from atelier.search.report_charts import (
    Charted,
    curves_chart,
    front_chart,
    history_chart,
    parallel_chart,
    slice_charts,
)
from atelier.search.report_importance import Importances, importances
from atelier.search.report_samples import sample_sheets
from atelier.search.report_sentences import headline, level, reasons
from atelier.search.report_study import StudyRecord
from atelier.search.report_trials import Objective, TrialRecord, short_duration
from atelier.search.settings import value_text

MAX_CHARACTERS = 3_000_000
"""Limit of the sum of all data URIs, so that the page can be mailed."""

_BEST = 5  # trials with samples
_SAMPLES = 36  # of a sheet
_DIGITS = 8  # of a commit
_MAX_NAME = 120  # characters
_FAILURES = 20  # reasons


@dataclass(frozen=True)
class BestTrial:
    """One of the best trials.

    Attributes:
        trial: its record.
        title: its number, and what is special about it.
        objectives: (name, value) of each objective.
        sheet: its samples; ``None`` if they are missing.
        settings: the searched ones as text, by key.
    """

    trial: TrialRecord
    title: str
    objectives: Sequence[tuple[str, str]]
    sheet: PageImage | None
    settings: Mapping[str, str]


@dataclass(frozen=True)
class FixedSetting:
    """Setting that is the same in all trials and differs from ``params.yaml``.

    Attributes:
        key: dotted key.
        value: in the trials.
        earlier: in ``params.yaml`` of the study's commit; empty if it is not known.
    """

    key: str
    value: str
    earlier: str


@dataclass(frozen=True)
class Failure:
    """Reason why trials failed, and their numbers as text."""

    trials: str
    reason: str


@dataclass(frozen=True)
class TrialRow:
    """Row of the table of all trials; ``values`` and ``settings`` are texts by column."""

    trial: TrialRecord
    values: Sequence[str]
    settings: Sequence[str]
    epochs: str
    time: str
    experiment: str


@dataclass(frozen=True)
class StudyReport:
    """Content of the report page.

    Attributes:
        title: the heading.
        facts: name and text of the lines of the header.
        level: color of the headline.
        headline: the result in one sentence.
        reasons: name and sentence of the lines below it.
        best: the best trials; of two objectives, trials of the Pareto front.
        best_note: sentence on their selection.
        present: the finished trial with the present settings; ``None`` if it is in ``best``.
        present_settings: in ``params.yaml``, as text by key; empty if they are not known.
        commit: first digits of the commit that all trials started from; or empty.
        fixed: settings to set back after a trial was applied.
        settings: keys of the searched settings.
        objectives: of the study.
        charts: history or Pareto front, and curves.
        importances: of the settings.
        parallel: parallel coordinates; ``None`` with fewer than two finished trials.
        slices: for each objective its name and a chart for each setting.
        failures: reasons of failed trials.
        rows: of the table of all trials.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    level: Literal["good", "unknown"]
    headline: str
    reasons: Sequence[tuple[str, str]]
    best: Sequence[BestTrial]
    best_note: str
    present: BestTrial | None
    present_settings: Mapping[str, str]
    commit: str
    fixed: Sequence[FixedSetting]
    settings: Sequence[str]
    objectives: Sequence[Objective]
    charts: Sequence[Chart]
    importances: Importances
    parallel: ParallelPlot | None
    slices: Sequence[tuple[str, Sequence[Chart]]]
    failures: Sequence[Failure]
    rows: Sequence[TrialRow]

    @property
    def has_sheets(self) -> bool:
        """True if the samples of one of the best trials are there."""
        return any(best.sheet for best in (*self.best, self.present) if best)


def build_report(study: optuna.Study, root: Path, characters: int = MAX_CHARACTERS) -> StudyReport:
    """Build the content of a study's report.

    Samples and present settings are read from git and DVC's cache, so that the working tree does
    not matter. If they are missing, e.g. in another clone, the report lacks them.

    Args:
        study: with any number of trials, also while others run.
        root: the project.
        characters: limit of the sum of all data URIs.
    """
    read = StudyRecord.read(study, root)
    chosen = _evenly(read.best, _BEST) if read.is_front else list(read.best[:_BEST])
    present = read.present if read.present not in chosen else None
    pictured = [*chosen, *([present] if present else [])]
    sheets = sample_sheets(root, read.commit, pictured, characters, _SAMPLES)
    charted = Charted(read.trials, read.best if read.is_front else chosen, read.objectives)
    result = front_chart(charted) if read.is_front else history_chart(charted)
    return StudyReport(
        title=f"Search {shorten(read.name, _MAX_NAME)}",
        facts=_facts(read),
        level=level(read),
        headline=headline(read),
        reasons=reasons(read),
        best=[_best_trial(read, trial, sheets) for trial in chosen],
        best_note=_best_note(read, len(chosen)),
        present=_best_trial(read, present, sheets) if present else None,
        present_settings=_present_settings(read),
        commit=read.commit[:_DIGITS],
        fixed=_fixed(read),
        settings=[setting.key for setting in read.settings],
        objectives=read.objectives,
        charts=[chart for chart in (result, curves_chart(charted)) if chart is not None],
        importances=importances(study, read.trials, read.settings),
        parallel=parallel_chart(charted, read.settings),
        slices=[
            (objective.name, charts)
            for place, objective in enumerate(read.objectives)
            if (charts := slice_charts(charted, read.settings, place))
        ],
        failures=_failures(read.trials),
        rows=[_row(read, trial) for trial in _ranked(read)],
    )


def _evenly(trials: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return evenly spread trials, with the first and the last one."""
    if len(trials) <= count:
        return list(trials)
    return [trials[round(k * (len(trials) - 1) / (count - 1))] for k in range(count)]


def _facts(study: StudyRecord) -> list[tuple[str, str]]:
    objective = " and ".join(f"{one.superlative} {one.name}" for one in study.objectives)
    facts = [("Objective", objective)]
    methods = [str(study.search[key]) for key in ("sampler", "pruner") if key in study.search]
    if methods:
        facts.append(("Method", f"sampler {methods[0]}, pruner {methods[-1]}"))
    if study.period:
        facts.append(("Ran", study.period))
    if study.commit:
        facts.append(("Commit", study.commit[:_DIGITS]))
    facts.append(("Contains", "Settings, metrics and generated images; no original photographs."))
    facts.append(("Made", f"{datetime.now():%Y-%m-%d %H:%M}"))
    return facts


def _best_trial(
    study: StudyRecord, trial: TrialRecord, sheets: Mapping[int, PageImage]
) -> BestTrial:
    errors = [trial.error] + [math.nan] * (len(study.objectives) - 1)
    return BestTrial(
        trial=trial,
        title=f"Trial {trial.number}" + (", the present settings" if trial.is_present else ""),
        objectives=[
            (objective.name, objective.text(value, error))
            for objective, value, error in zip(study.objectives, trial.values, errors, strict=True)
        ],
        sheet=sheets.get(trial.number),
        settings={key: value_text(value) for key, value in study.searched(trial).items()},
    )


def _best_note(study: StudyRecord, count: int) -> str:
    if not study.is_front:
        return ""
    if count < len(study.best):
        return f"{count} of the {len(study.best)} trials of the Pareto front, evenly spread."
    return "All trials of the Pareto front."


def _present_settings(study: StudyRecord) -> dict[str, str]:
    return {
        setting.key: value_text(study.earlier[setting.key])
        for setting in study.settings
        if setting.key in study.earlier
    }


def _fixed(study: StudyRecord) -> list[FixedSetting]:
    """Return the fixed settings that differ from ``params.yaml``."""
    fixed = study.search.get("fixed")
    values = fixed if isinstance(fixed, dict) else {}
    return [
        FixedSetting(
            str(key),
            value_text(value),
            value_text(study.earlier[key]) if key in study.earlier else "",
        )
        for key, value in values.items()
        if key not in study.earlier or study.earlier[key] != value
    ]


def _failures(trials: Sequence[TrialRecord]) -> list[Failure]:
    """Return the reasons of failed trials, the most frequent first."""
    numbers: dict[str, list[int]] = {}
    for trial in trials:
        if trial.state == "failed":
            reason = trial.reason or "no reason was recorded"
            numbers.setdefault(reason, []).append(trial.number)
    common = sorted(numbers.items(), key=lambda each: -len(each[1]))
    found = [Failure(_listed(each), reason) for reason, each in common[:_FAILURES]]
    rest = sum(len(each) for _, each in common[_FAILURES:])
    if rest:
        found.append(Failure(f"{rest} more", "see the table of all trials"))
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ("Trial " if len(numbers) == 1 else "Trials ") + ", ".join(map(str, numbers))


def _ranked(study: StudyRecord) -> list[TrialRecord]:
    """Return all trials: the best first, then those without a value by number."""
    order = {trial.number: place for place, trial in enumerate(study.best)}
    states = ("finished", "running", "waiting", "pruned", "failed")
    return sorted(
        study.trials,
        key=lambda t: (order.get(t.number, len(order)), states.index(t.state), t.number),
    )


def _row(study: StudyRecord, trial: TrialRecord) -> TrialRow:
    errors = [trial.error] + [math.nan] * (len(study.objectives) - 1)
    values = [
        objective.text(value, error)
        for objective, value, error in zip(study.objectives, trial.values, errors, strict=False)
    ]
    present = study.searched(trial)
    return TrialRow(
        trial=trial,
        values=values or [""] * len(study.objectives),
        settings=[value_text(present[s.key]) if s.key in present else "" for s in study.settings],
        epochs=str(trial.curve[-1][0]) if trial.curve else "",
        time=short_duration(trial.seconds),
        experiment=", ".join(trial.experiments),
    )
