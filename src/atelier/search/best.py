"""Best trials of a study."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atelier.search.study import PRESENT

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial


def best_trials(study: "Study") -> "Sequence[FrozenTrial]":
    """Return the best finished trial, or the Pareto front of two objectives; empty if none is."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if not finished:
        return []
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: trial.values)
    return [min(finished, key=lambda trial: (trial.value, trial.number))]


def present_trial(study: "Study") -> "FrozenTrial | None":
    """Return the finished trial with the settings of ``params.yaml``, if there is one."""
    found = (t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(PRESENT))
    trial = next(found, None)
    return trial if trial and trial.state.name == "COMPLETE" else None
