"""Studies of Optuna with results that a test chooses."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

SPACE: Mapping[str, BaseDistribution] = {
    "train.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "train.ema_decay": FloatDistribution(0.9, 1.0),
    "train.batch_size": CategoricalDistribution([16, 32, 64]),
    "train.latent_size": IntDistribution(10, 110),
}
PRESENT = {
    "train.lr": 1e-3,
    "train.ema_decay": 0.99,
    "train.batch_size": 32,
    "train.latent_size": 100,
}
KID = "quality/validation_kid"


def a_trial(
    *values: float,
    state: TrialState = TrialState.COMPLETE,
    curve: Mapping[int, float] | None = None,
    changes: Mapping[str, Any] | None = None,
    space: Mapping[str, BaseDistribution] = SPACE,
    **attributes: Any,
) -> FrozenTrial:
    """Return a trial with the present settings and some changes, e.g. ``{"train.lr": 0.002}``."""
    values_of = PRESENT | dict(changes or {})
    trial = create_trial(
        state=state,
        values=values or None,
        params={key: values_of[key] for key in space},
        distributions=dict(space),
        intermediate_values=dict(curve or {}),
        user_attrs=attributes,
    )
    start = datetime(2026, 11, 28, 12)
    trial.datetime_start = start
    if state.is_finished():
        trial.datetime_complete = start + timedelta(minutes=10)
    return trial


def a_study(
    trials: Sequence[FrozenTrial],
    objectives: Sequence[str] = (KID,),
    directions: Sequence[str] = (),
    commit: str = "",
    name: str = "sizes",
    **search: Any,
) -> optuna.Study:
    """Return a study in memory; ``search`` is content of ``search.yaml``."""
    study = optuna.create_study(
        study_name=name, directions=list(directions) or ["minimize"] * len(objectives)
    )
    study.set_user_attr("objectives", list(objectives))
    study.set_user_attr("search", json.dumps(search))
    study.set_user_attr("commit", commit)
    study.add_trials(list(trials))
    return study


def random_study(trials: int, seed: int = 0, commit: str = "") -> optuna.Study:
    """Return a study of random settings whose KID is lowest at the present learning rate.

    Every third trial is pruned after epoch 2 of 4. The other settings have little influence.
    """
    sampler = optuna.samplers.RandomSampler(seed=seed)
    source = optuna.create_study(sampler=sampler)
    found = [a_trial(2.0, curve={1: 8.0, 2: 5.0, 3: 3.0, 4: 2.0}, experiments=["sizes-trial-000"])]
    for number in range(1, trials):
        drawn = source.ask(dict(SPACE)).params
        kid = 1.0 + 4 * math.log10(drawn["train.lr"] / 1e-3) ** 2 + drawn["train.ema_decay"] / 10
        curve = {epoch: kid * (1 + 4 / epoch) for epoch in range(1, 4)} | {4: kid}
        names = {"experiments": [f"sizes-trial-{number:03d}"], "seconds": 60.0}
        if number % 3 == 0:
            early = {epoch: curve[epoch] for epoch in (1, 2)}
            pruned = TrialState.PRUNED
            found.append(a_trial(state=pruned, curve=early, changes=drawn, steps=50, **names))
        else:
            found.append(a_trial(kid, curve=curve, changes=drawn, steps=100, **names))
    return a_study(found, commit=commit, settings={key: {} for key in SPACE}, pruner="median")
