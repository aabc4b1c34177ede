"""Study as its report needs it, read from Optuna and git."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from ruamel.yaml import YAML

from atelier.search.report_trials import (
    Objective,
    Setting,
    TrialRecord,
    best_first,
    objectives_of,
    record_of,
    search_of,
    settings_of,
)
from atelier.search.study import COMMIT
from atelier.tracking.compared_files import DAMAGE
from atelier.tracking.environment import git
from atelier.tracking.redact import flat


@dataclass(frozen=True)
class StudyRecord:
    """Study as read from Optuna.

    Attributes:
        name: of the study.
        search: content of ``search.yaml``.
        objectives: of the study.
        settings: the searched ones.
        trials: all trials, by number.
        best: the finished trials, best first; of two objectives, the Pareto front.
        earlier: settings of ``params.yaml`` in the study's commit; empty if they are not known.
        commit: full id of that commit; or empty.
        period: start of the first trial and end of the last one, as text.
    """

    name: str
    search: Mapping[str, Any]
    objectives: Sequence[Objective]
    settings: Sequence[Setting]
    trials: Sequence[TrialRecord]
    best: Sequence[TrialRecord]
    earlier: Mapping[str, Any]
    commit: str
    period: str

    @classmethod
    def read(cls, study: optuna.Study, root: Path) -> "StudyRecord":
        """Return the record of a study of a project."""
        trials = sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)
        search, objectives = search_of(study), objectives_of(study)
        ranges = search.get("settings")
        settings = settings_of(trials, list(ranges) if isinstance(ranges, dict) else [])
        commit = str(study.user_attrs.get(COMMIT, ""))
        earlier = _settings_at(root, commit)
        searched = {s.key: earlier[s.key] for s in settings if s.key in earlier}
        records = [record_of(trial, objectives, searched) for trial in trials]
        return cls(
            name=study.study_name,
            search=search,
            objectives=objectives,
            settings=settings,
            trials=records,
            best=best_first(records, objectives),
            earlier=earlier,
            commit=commit,
            period=_period(trials),
        )

    @property
    def is_front(self) -> bool:
        """True for several objectives."""
        return len(self.objectives) > 1

    @property
    def present(self) -> TrialRecord | None:
        """The first finished trial with the present settings."""
        return next((t for t in self.trials if t.is_present and t.is_finished), None)

    def number_of(self, *states: str) -> int:
        """Return the number of trials in some states."""
        return sum(trial.state in states for trial in self.trials)

    @property
    def seeds(self) -> int:
        """Number of trainings of a finished trial."""
        seeds = self.search.get("seeds", 1)
        return seeds if isinstance(seeds, int) and seeds > 0 else 1

    def searched(self, trial: TrialRecord) -> dict[str, Any]:
        """Return the settings of a trial in the order of the study."""
        return {s.key: trial.settings[s.key] for s in self.settings if s.key in trial.settings}


def _settings_at(root: Path, commit: str) -> dict[str, Any]:
    """Return the settings of ``params.yaml`` in a commit by dotted key; empty if missing."""
    if not commit or commit.startswith("-"):
        return {}
    content = git("show", "--end-of-options", f"{commit}:./params.yaml", cwd=root)
    try:
        values = YAML(typ="safe", pure=True).load(content or "")
        return flat(values) if isinstance(values, Mapping) else {}
    except DAMAGE:
        return {}


def _period(trials: Sequence[optuna.trial.FrozenTrial]) -> str:
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    dates = [f"{date:%Y-%m-%d %H:%M}" for date in (*sorted(starts)[:1], *sorted(ends)[-1:])]
    return " to ".join(dict.fromkeys(dates))
