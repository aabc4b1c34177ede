"""Description of a study: the file ``search.yaml``."""

import json
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from atelier.core import settings
from atelier.core.errors import AtelierError, did_you_mean, printable
from atelier.core.presets import dotted_settings
from atelier.core.setting_types import Count, Section, Seed
from atelier.core.settings_errors import validation_error
from atelier.core.yaml_files import read_yaml

SEARCH_FILE = "search.yaml"
SECONDS = "seconds"
"""Objective: duration of the train stage, summed over the seeds of a trial."""
# The last stage that an objective needs. KID and other metrics of the test split are missing: a
# search that has seen them has no unseen images left for the final comparison.
OBJECTIVES = {SECONDS: "train", "quality/validation_kid": "train", "style/loss": "stylize"}
_TEST_METRICS = (
    "quality/fid",
    "quality/kid",
    "quality/kid_error",
    "quality/precision",
    "quality/recall",
)
DIGITS = 4
"""Significant digits of searched numbers, so that they can be read and typed."""
EXACT_DIGITS = 12
"""Significant digits of printed numbers that must not be rounded."""
_WITHOUT_EFFECT = ("runtime.", "tracking.", "data_report.")
_LATER = ("evaluate.", "render.", "stylize.")
_MEASUREMENT = (
    "train.kid_every_epochs", "train.kid_samples", "train.kid_features",
    "convert.validation_fraction", "convert.test_fraction", "convert.share_images",
)  # fmt: skip
_ORDER = ("train", "evaluate", "stylize", "report")  # stages that contain the earlier ones' results

Scalar = bool | int | float | str
# Git does not accept other names of references.
StudyName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,59}$",
        description="up to 60 letters, digits, - and _",
    ),
]


class Space(Section):
    """Range of one setting: ``low`` and ``high``, or ``choices``.

    Attributes:
        low: lowest value.
        high: highest value; the range consists of integers if both are integers.
        log: True to search the logarithm, for values of different magnitudes.
        choices: values to choose from; also lists, e.g. of ``train.augment``.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: list[Scalar | list[Scalar]] | None = None

    @model_validator(mode="after")
    def _require_one_kind(self) -> "Space":
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("it needs either low and high, or choices")
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("choices have no low, high and log")
            if len(self.choices) < 2 or any(self.choices.count(c) > 1 for c in self.choices):
                raise ValueError("it needs at least two different choices")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"low is {low} and high is {high}; low must be less than high")
        if self.log and low <= 0:
            raise ValueError(f"low is {low}; with log, low must be greater than 0")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        assert self.low is not None  # noqa: S101 - as validated
        assert self.high is not None  # noqa: S101
        return self.low, self.high

    @property
    def is_integer(self) -> bool:
        """True if the range consists of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def examples(self) -> list[Any]:
        """Return values that all must be valid: both ends, or all choices."""
        return list(self.choices) if self.choices is not None else [self.low, self.high]

    def contains(self, value: Any) -> bool:
        """Return True if a value is in the range."""
        if self.choices is not None:
            return value in self.choices
        low, high = self.bounds
        kinds = int if self.is_integer else int | float
        return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


class SearchSettings(Section):
    """A study.

    Attributes:
        study: its name; trials are experiments ``STUDY-trial-000`` and so on.
        settings: range of each searched setting, by dotted key of ``params.yaml``.
        fixed: settings that are the same in every trial, e.g. a shorter training.
        objectives: metrics to minimize; two for a Pareto front.
        trials: number of trials in all, pruned and failed ones included.
        hours: limit on the duration of all trainings together; 0 for none.
        seeds: trainings per trial, with consecutive values of ``train.seed``; the objective is
            their mean.
        sampler: ``tpe`` learns from earlier trials.
        pruner: stops hopeless trainings by their validation KID.
        stages: the last stage of a trial; earlier ones run too.
        git_remote: where trials are pushed, for workers on several machines; empty for none.
        seed: of the sampler.
    """

    study: StudyName
    settings: Annotated[dict[str, Space], Field(min_length=1)]
    fixed: Annotated[dict[str, Scalar | list[Scalar]], Field(default_factory=dict)]
    objectives: Annotated[
        list[str],
        Field(min_length=1, max_length=2, default_factory=lambda: ["quality/validation_kid"]),
    ]
    trials: Count = 30
    hours: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seeds: Annotated[int, Field(ge=1, le=30)] = 1
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["none", "median", "halving"] = "median"
    stages: Literal["train", "stylize"] = "train"
    git_remote: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9_./-]*)?$")] = ""
    seed: Seed = 1


def load_search(file: Path, params: Path) -> tuple[SearchSettings, dict[str, Any]]:
    """Read and check a study.

    Args:
        file: ``search.yaml``.
        params: ``params.yaml``.

    Returns:
        The study, and all present settings by dotted key.

    Raises:
        AtelierError: a file is missing; a key, a value or an objective is unknown or invalid. The
            message names the nearest valid name.
    """
    if not file.is_file():
        raise AtelierError(
            f"there is no {file}, which describes a study; docs/find-good-settings.md has one to"
            " copy."
        )
    content = read_yaml(file) or {}  # None if it is empty
    if isinstance(content, Mapping):
        _check_form(content, file)
    try:
        search = SearchSettings.model_validate(content)
    except ValidationError as error:
        raise validation_error(error, file.name, SearchSettings) from None
    values = read_yaml(params)
    settings.check(values, params.name)
    known = dict(dotted_settings(values, settings.Settings))
    for key in (*search.settings, *search.fixed):
        if key not in known:
            raise AtelierError(_unknown_key(file, key, known))
    _reject_contradictions(search, file)
    _check_values(search, values, file)
    _check_objectives(search, with_changes(values, search.fixed), file)
    return search, known


def _check_form(content: Mapping[str, Any], file: Path) -> None:
    """Raise if a required part is missing, or a part has the form of another file."""
    for key, example in (("study", "study: first"), ("settings", "settings: {train.lr: ...}")):
        if content.get(key) is None:
            raise AtelierError(
                f"{file.name}: {key} is missing; add it, e.g. `{example}`;"
                " docs/find-good-settings.md has a whole file to copy."
            )
    sections = set(settings.Settings.model_fields)
    for part in ("settings", "fixed"):
        values = content.get(part)
        for key, value in values.items() if isinstance(values, Mapping) else ():
            if key in sections and isinstance(value, Mapping) and value:
                inner = f"{key}.{next(iter(value))}"
                raise AtelierError(
                    f"{file.name}: {part}.{key} is a section; write its keys with a period, e.g."
                    f" `{printable(inner)}: ...`."
                )
            if part == "settings" and not isinstance(value, Mapping):
                raise AtelierError(
                    f"{file.name}: settings.{printable(str(key))} is {printable(str(value))}, but a"
                    " setting to search needs {low: ..., high: ...} or {choices: [...]}."
                )


def with_changes(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values with others by dotted key, which must exist."""
    result = deepcopy(dict(values))
    for key, value in changes.items():
        section = result
        *path, last = key.split(".")
        for part in path:
            section = section[part]
        section[last] = value
    return result


def _reject_contradictions(search: SearchSettings, file: Path) -> None:
    twice = sorted(set(search.settings) & set(search.fixed))
    if twice:
        raise AtelierError(f"{file.name}: settings and fixed both name {twice[0]}; keep one.")
    if "train.seed" in (*search.settings, *search.fixed):
        raise AtelierError(
            f"{file.name}: train.seed is not searched; `seeds` repeats each training instead."
        )
    for key in (*search.settings, *search.fixed):
        if key.startswith(_WITHOUT_EFFECT):
            raise AtelierError(f"{file.name}: {key} changes no result; leave it out.")
    for key in search.settings:
        if key in _MEASUREMENT or (search.stages == "train" and key.startswith(_LATER)):
            raise AtelierError(
                f"{file.name}: {key} changes what is measured, or a stage that trials do not run,"
                " so that trials with other values cannot be compared; leave it out."
            )
    if len(set(search.objectives)) < len(search.objectives):
        raise AtelierError(f"{file.name}: objectives names one metric twice; name it once.")


def _unknown_key(file: Path, key: str, known: Mapping[str, Any]) -> str:
    full = key if "." in key else f"train.{key}"  # where most searched settings are
    hint = did_you_mean(full, known) or did_you_mean(key, known)
    if key.partition(".")[0] in {name.partition(".")[0] for name in known} and not hint:
        hint = "; its section has no such key"
    end = "?" if "did you" in hint else "."
    return f"{file.name}: params.yaml has no setting {printable(key)}{hint}{end}"


def _check_values(search: SearchSettings, values: Mapping[str, Any], file: Path) -> None:
    """Raise if a fixed value or an end of a range is invalid in ``params.yaml``.

    Ranges are checked one at a time: not every combination must be valid, since a trial that the
    stages refuse only fails.
    """
    base = with_changes(values, search.fixed)
    section_source = f"{file.name} (fixed)"
    settings.check(base, section_source)
    for key, space in search.settings.items():
        for value in space.examples():
            if isinstance(value, int) and space.choices is None and not space.is_integer:
                value = float(value)
            settings.check(with_changes(base, {key: value}), f"{file.name} (settings.{key})")


def _check_objectives(search: SearchSettings, values: Mapping[str, Any], file: Path) -> None:
    for name in search.objectives:
        if name in _TEST_METRICS:
            raise AtelierError(
                f"{file.name}: {name} is measured on the test split, which a search must not see;"
                " use quality/validation_kid."
            )
        if name not in OBJECTIVES:
            hint = did_you_mean(name, OBJECTIVES) or f"; known are {', '.join(OBJECTIVES)}"
            end = "?" if "did you" in hint else "."
            raise AtelierError(f"{file.name}: no stage logs {printable(name)}{hint}{end}")
        if _ORDER.index(OBJECTIVES[name]) > _ORDER.index(search.stages):
            raise AtelierError(
                f"{file.name}: {name} is never logged, because trials end with the stage"
                f" {search.stages}; set stages to {OBJECTIVES[name]}."
            )
    is_pruned = search.pruner != "none"
    if is_pruned and search.objectives != ["quality/validation_kid"]:
        raise AtelierError(
            f"{file.name}: the pruner compares validation KIDs, which are not the objective; set"
            " pruner to none."
        )
    if "quality/validation_kid" not in search.objectives and not is_pruned:
        return
    what = "the pruner needs" if is_pruned else "quality/validation_kid needs"
    if not values["train"]["kid_every_epochs"]:
        raise AtelierError(
            f"{file.name}: {what} the KID of epochs, but train.kid_every_epochs is 0; set"
            " it to 1 in `fixed`."
        )
    if not values["convert"]["validation_fraction"]:
        raise AtelierError(
            f"{file.name}: {what} validation images, but convert.validation_fraction is 0; set it"
            " to 0.1 in `fixed`."
        )


def value_text(value: Any, digits: int = DIGITS) -> str:
    """Return the value of a setting as in params.yaml.

    Lists, which Optuna stores as JSON, have no quotes.

    Args:
        value: of the setting.
        digits: significant ones of numbers; four are those of searched ones.
    """
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if isinstance(value, list):
        return f"[{', '.join(value_text(one, digits) for one in value)}]"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return repr(float(f"{value:.{digits}g}")).removesuffix(".0")
    return str(value)
