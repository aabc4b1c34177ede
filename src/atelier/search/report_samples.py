"""Samples of trials, from their DVC experiments."""

import re
from collections.abc import Sequence
from pathlib import Path

from atelier.pages.images import Format, PageImage, Pixels, encode_within, sample_montage
from atelier.search.report_trials import TrialRecord
from atelier.tracking.compared_files import DAMAGE
from atelier.tracking.compared_trees import revision_run
from atelier.tracking.environment import git

_FORMATS = (Format(), Format(quality=60), Format(512, 60), Format(512, 40), Format(256, 40))
_COMMIT = re.compile("[0-9a-f]{40}")


def experiment_commit(root: Path, baseline: str, name: str) -> str | None:
    """Return the commit of a DVC experiment.

    Args:
        root: the project.
        baseline: full id of the commit that the experiment started from.
        name: of the experiment.
    """
    if not _COMMIT.fullmatch(baseline):
        return None
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", reference, cwd=root)
    return found.strip() if found else None


def sample_sheets(
    root: Path, baseline: str, trials: Sequence[TrialRecord], characters: int, count: int
) -> dict[int, PageImage]:
    """Return a sheet of samples of the last epoch by number of the trial.

    Trials are left out whose samples are missing, e.g. in a clone that has not pulled them, or
    damaged. Of several seeds, the samples are those of the first one.

    Args:
        root: the project.
        baseline: the commit that all trials started from.
        trials: with their experiments.
        characters: limit of the sum of all data URIs.
        count: largest number of samples of a sheet.
    """
    sheets: dict[int, Pixels] = {}
    texts: list[str] = []
    for trial in trials:
        for name in trial.experiments[:1]:
            found = _last_sheet(root, experiment_commit(root, baseline, name), name, count)
            if found is not None:
                epoch, sheets[trial.number] = found
                texts.append(f"Generated images of {trial.name} after epoch {epoch}, in rows")
    encoded = encode_within(list(sheets.values()), texts, characters, _FORMATS)
    return dict(zip(sheets, encoded, strict=True))


def _last_sheet(root: Path, commit: str | None, name: str, count: int) -> tuple[int, Pixels] | None:
    """Return the last epoch of an experiment and the sheet of its samples."""
    if commit is None:
        return None
    try:
        samples = revision_run(root, name, commit, is_experiment=True).samples
        last = max(samples, default=None)
        return None if last is None else (last, sample_montage(samples[last](), count))
    except DAMAGE:
        return None
