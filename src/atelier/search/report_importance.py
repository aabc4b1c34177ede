"""Importance of settings, computed by Optuna."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from atelier.search.report_trials import Setting, TrialRecord

MIN_TRIALS = 10
"""Finished trials that are needed; with fewer, the importances are noise."""

_MIN_TOP = 5  # trials in the better group, as Optuna's documentation recommends
_TOP_SHARE = 0.1  # Optuna's default
_FEW_TRIALS = 100


@dataclass(frozen=True)
class Importances:
    """Importance of settings.

    Attributes:
        shares: (key, share of the sum), largest first; empty if they cannot be computed.
        note: on the method; or why there are none.
    """

    shares: Sequence[tuple[str, float]]
    note: str


def importances(
    study: optuna.Study, trials: Sequence[TrialRecord], settings: Sequence[Setting]
) -> Importances:
    """Return the importances by PED-ANOVA, Optuna's default evaluator.

    It draws no random numbers, so that a study has the same importances at every call. For
    several objectives, they are those of reaching the Pareto front.

    Args:
        study: with its trials.
        trials: their records.
        settings: the searched ones.
    """
    finished = [trial for trial in trials if trial.is_finished]
    keys = [
        setting.key
        for setting in settings
        if setting.varies and all(setting.key in trial.settings for trial in finished)
    ]
    if len(keys) < 2:
        return Importances((), "Importances compare settings; this study varies fewer than two.")
    if len(finished) < MIN_TRIALS:
        return Importances(
            (),
            f"Importances need {MIN_TRIALS} finished trials; this study has {len(finished)}.",
        )
    top = max(_TOP_SHARE, _MIN_TOP / len(finished))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e.g. all trials have the same value; see below
        evaluator = PedAnovaImportanceEvaluator(target_quantile=top)
        found = get_param_importances(study, evaluator=evaluator, params=keys)
    if len(set(found.values())) == 1:
        return Importances((), "The finished trials show no difference in importance.")
    note = (
        f"By PED-ANOVA, Optuna's default: how much the settings of the best {top:.0%} of the"
        f" {len(finished)} finished trials differ from those of all. Pruned trials do not count."
    )
    if len(finished) < _FEW_TRIALS:
        note += " Importances of so few trials are uncertain."
    shares = sorted(found.items(), key=lambda each: (-each[1], each[0]))
    return Importances(tuple(shares), note)
