"""Groups of compared runs that differ only in the seed of the training."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from atelier.core.presets import STAGES
from atelier.tracking.compared_run import DATA, REFERENCES, SEED, ComparedRun

_MISSING = "not recorded"
_MAX_LABEL = 3  # settings in the label of a group
_MAX_VALUE = 24  # characters of a value in a label
_IMAGES = ("training images", "validation images", "test images")  # in the order of DATA
_MAX_TEXT = 400  # characters of a value in the table
_START = "data/start/"  # networks that a training starts from
# Settings that change no metric and no image; the permission is no difference between results.
_WITHOUT_RESULT = ("convert.share_images",)


@dataclass(frozen=True)
class Group:
    """Runs of the same settings, code and data.

    Attributes:
        letter: short name, from A.
        number: from 1; the color.
        label: the settings in which it differs from other groups, or the name of its run.
        runs: members, at least one.
    """

    letter: str
    number: int
    label: str
    runs: tuple[ComparedRun, ...]

    @property
    def name(self) -> str:
        """Letter and label."""
        return f"{self.letter} ({self.label})" if self.label else self.letter

    def measured(self, metric: str = "") -> list[ComparedRun]:
        """Return one run per seed: repetitions of a seed are not independent.

        Of several runs of one seed the last one with the metric is returned. A run without a known
        seed counts only if it is the only run.

        Args:
            metric: key of a metric; empty for any.
        """
        found = [run for run in self.runs if (metric in run.metrics if metric else run.metrics)]
        by_seed = {run.seed: run for run in found}
        if len(by_seed) > 1:
            by_seed.pop("", None)
        return list(by_seed.values())


@dataclass(frozen=True)
class Setting:
    """Setting that differs: its dotted key, and its value in each group as text."""

    key: str
    values: tuple[str, ...]


def group_runs(runs: Sequence[ComparedRun]) -> list[Group]:
    """Return the groups of runs, in the order of their first runs.

    Runs of one group may differ in ``train.seed``, and in settings that change no result. Runs of
    different code or data are never in one group. Code or data that are not known count as equal.
    """
    members: list[list[ComparedRun]] = []
    for run in runs:
        for group in members:
            if all(_may_be_grouped(run, other) for other in group):
                group.append(run)
                break
        else:
            members.append([run])
    keys = differing_keys([group[0] for group in members])
    return [
        Group(_letter(number), number, _label(group[0], keys, len(members)), tuple(group))
        for number, group in enumerate(members, start=1)
    ]


def _letter(number: int) -> str:
    """Return A to Z, then A2 and so on."""
    rounds, place = divmod(number - 1, 26)
    return f"{chr(ord('A') + place)}{rounds + 1 if rounds else ''}"


def _may_be_grouped(one: ComparedRun, other: ComparedRun) -> bool:
    return (
        result_settings(one) == result_settings(other)
        and _are_compatible(one.code, other.code)
        and not _differing_inputs(one, other)
    )


def _differing_inputs(one: ComparedRun, other: ComparedRun) -> list[str]:
    """Return names of the images and networks of two runs that are known to differ."""
    inputs = dict(zip(DATA, _IMAGES, strict=True))
    starts = sorted(path for path in {*one.hashes, *other.hashes} if path.startswith(_START))
    inputs |= dict.fromkeys(starts, "the networks of train.start_from")
    return list(
        dict.fromkeys(name for path, name in inputs.items() if not same_images(path, one, other))
    )


def same_reference(one: ComparedRun, other: ComparedRun) -> bool:
    """Return True unless the real images of two measurements are known to differ."""
    references = {run.measured_with.get("reference", "test") for run in (one, other)}
    return all(
        same_images(REFERENCES[reference], one, other)
        for reference in references
        if reference in REFERENCES
    )


def same_images(path: str, one: ComparedRun, other: ComparedRun) -> bool:
    """Return True unless a file of images is known to differ between two runs."""
    return _are_compatible(one.hashes.get(path, ""), other.hashes.get(path, ""))


def _are_compatible(one: str, other: str) -> bool:
    """Return True if two digests are equal, or one of them is not known."""
    return not one or not other or one == other


def result_settings(run: ComparedRun) -> dict[str, str]:
    """Return the settings that shape results, without the seed; equal numbers are equal text."""
    return {
        key: canonical(value)
        for key, value in run.settings.items()
        if key.split(".")[0] in STAGES and key != SEED and key not in _WITHOUT_RESULT
    }


def canonical(value: str) -> str:
    """Return a number in one notation, e.g. 30 for 30.0; other text unchanged."""
    try:
        number = float(value)
    except ValueError:
        return value
    if not math.isfinite(number) or "_" in value:
        return value
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def differing_keys(runs: Iterable[ComparedRun]) -> list[str]:
    """Return the keys of settings that are not equal in all runs, in the order of the settings."""
    all_settings = [result_settings(run) for run in runs]
    keys = list(dict.fromkeys(key for settings in all_settings for key in settings))
    return [key for key in keys if len({settings.get(key) for settings in all_settings}) > 1]


def differing_settings(groups: Sequence[Group]) -> list[Setting]:
    """Return the settings that differ between groups, and the seeds if there are several."""
    settings = [result_settings(group.runs[0]) for group in groups]
    rows = [
        Setting(key, tuple(_text(values, key) for values in settings))
        for key in differing_keys(group.runs[0] for group in groups)
    ]
    seeds = tuple(seeds_text(group) for group in groups)
    several = len({run.seed for group in groups for run in group.runs}) > 1
    return [*rows, Setting(SEED, seeds)] if several else rows


def seeds_text(group: Group) -> str:
    """Return the seeds of a group's runs, each once."""
    return ", ".join(dict.fromkeys(run.seed or _MISSING for run in group.runs))


def _text(settings: Mapping[str, str], key: str) -> str:
    """Return a setting for readers, without the quotes of a list's texts."""
    return shortened(settings.get(key, _MISSING).replace("'", ""), _MAX_TEXT)


def _label(run: ComparedRun, keys: Sequence[str], groups: int) -> str:
    """Return the differing settings of one of several groups; without any, what else differs."""
    settings = result_settings(run)
    keys = sorted(keys, key=lambda key: not key.startswith("train."))
    parts = [
        f"{key.removeprefix('train.')} {shortened(_text(settings, key), _MAX_VALUE)}"
        for key in keys
    ]
    if len(parts) > _MAX_LABEL:
        parts = [*parts[:_MAX_LABEL], f"{len(parts) - _MAX_LABEL} more"]
    if not parts and groups > 1:
        return f"commit {run.commit[:8]}, images {run.hashes.get(DATA[0], _MISSING)[:8]}"
    return ", ".join(parts) or run.name


def shortened(text: str, longest: int) -> str:
    """Return a text, or its beginning with an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def group_notes(groups: Sequence[Group]) -> list[str]:
    """Return sentences on code, data and seeds that readers must know to compare the groups."""
    runs = [(group, run) for group in groups for run in group.runs]
    notes = []
    for first, second in _pairs(groups):
        one, other = first.runs[0], second.runs[0]
        pair = f"{first.letter} and {second.letter}"
        if not _are_compatible(one.code, other.code):
            notes.append(f"{pair} were made by different code (commits {_commits(one, other)}).")
        members = [(own, its) for own in first.runs for its in second.runs]
        differing = dict.fromkeys(name for each in members for name in _differing_inputs(*each))
        if differing:
            notes.append(f"{pair} differ in {' and '.join(differing)}.")
    if len(runs) > 1:
        if unknown := _listed((group, run) for group, run in runs if not run.code):
            notes.append(f"The code of {unknown} is not known; it counts as equal.")
        if unknown := _listed((group, run) for group, run in runs if DATA[0] not in run.hashes):
            notes.append(f"The images of {unknown} are not recorded; they count as equal.")
    for group in groups:
        repeated = len([run for run in group.runs if run.metrics]) - len(group.measured())
        if repeated:
            notes.append(
                f"{group.letter} has {repeated} more measured"
                f" {'run' if repeated == 1 else 'runs'} of seeds that are counted already, or"
                " without a known seed; only different seeds are independent."
            )
    return notes


def _pairs(groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Return the first group with each other one."""
    return [(groups[0], group) for group in groups[1:]]


def _commits(one: ComparedRun, other: ComparedRun) -> str:
    return " and ".join(
        f"{run.commit[:8]}{' with changes' if run.is_dirty else ''}" for run in (one, other)
    )


def _listed(runs: Iterable[tuple[Group, ComparedRun]]) -> str:
    """Return the groups and seeds of runs; their names may be long."""
    texts = [f"{group.letter}{f' (seed {run.seed})' if run.seed else ''}" for group, run in runs]
    return ", ".join(dict.fromkeys(texts))
