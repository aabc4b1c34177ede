"""DVC experiments: their commits and results by name."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atelier.core.errors import AtelierError
from atelier.core.yaml_files import parse_yaml
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.execution import Commit
from atelier.tracking.metric_names import pipeline_metrics
from atelier.tracking.programs import git_output
from atelier.tracking.redact import flat, numbers

_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2}/[0-9a-f]{38})/(.+)")
_METRICS = "metrics"


def find_experiment(name: str, cwd: Path | None = None, baseline: str = "") -> str | None:
    """Return the commit of an experiment; ``None`` if there is none.

    Args:
        name: of the experiment.
        cwd: a folder of the repository.
        baseline: commit that it started from; by default the one that is checked out.
    """
    return experiments(cwd, baseline).get(name)


def finished_experiment(
    root: Path, name: str, changes: Mapping[str, Any], stage: str, baseline: str
) -> str | None:
    """Return the commit of an experiment that has finished; ``None`` if it has to run.

    One that only records the settings of a stopped training is removed, since DVC replaces no
    experiment.

    Args:
        root: the project.
        name: of the experiment.
        changes: settings that it must have, by dotted key.
        stage: that it must have run.
        baseline: commit that it started from.

    Raises:
        AtelierError: it has other settings.
    """
    commit = find_experiment(name, root, baseline)
    if commit is None:
        return None
    tree = Commit.open(root, commit)
    values = flat(parse_yaml((tree.read("params.yaml") or b"{}").decode("utf-8", "replace")))
    for key, value in flat(changes).items():
        if values.get(key) != value:
            raise AtelierError(
                f"there is an experiment {name} in which {key} is {values.get(key)} instead of"
                f" {value}; remove it: dvc exp remove {name}"
            )
    if stage in read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace")):
        return commit
    git_output(root, "update-ref", "-d", experiment_reference(name, baseline))
    return None


def experiment_reference(name: str, baseline: str) -> str:
    """Return the reference of an experiment, as DVC names it."""
    return f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"


def all_experiments(cwd: Path | None = None) -> list[str]:
    """Return the names of the experiments of all commits."""
    listed = git_output(cwd, "for-each-ref", "--format=%(refname)", "refs/exps")
    found = map(_EXPERIMENT.fullmatch, listed.splitlines())
    return [match[2] for match in found if match]


def experiments(cwd: Path | None = None, baseline: str = "") -> dict[str, str]:
    """Return the commits of the experiments of a commit, by name.

    Args:
        cwd: a folder of the repository.
        baseline: the commit; by default the one that is checked out.

    Raises:
        AtelierError: git fails.
    """
    baseline = baseline or git_output(cwd, "rev-parse", "HEAD").strip()
    listed = git_output(cwd, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    found = {}
    for line in listed.splitlines():
        commit, _, reference = line.partition(" ")
        match = _EXPERIMENT.fullmatch(reference)
        if match and match[1].replace("/", "") == baseline:
            found[match[2]] = commit
    return found


def experiment_metrics(root: Path, commit: str) -> dict[str, float]:
    """Return the metrics of an experiment by their names in a pipeline's run of MLflow.

    Metrics of stages that did not run in the experiment, and are out of date, are left out only
    if they have no record in its ``dvc.lock``.

    Raises:
        AtelierError: a file of metrics is not in DVC's cache.
    """
    tree = Commit.open(root, commit)
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))
    stages = {}
    for stage in records:
        path = f"{_METRICS}/{stage}.json"
        if path not in records[stage].outputs:
            continue
        content = tree.read(path)
        if content is None:
            raise AtelierError(f"{path} of the experiment is not in DVC's cache; run it again.")
        stages[stage] = {"metrics": numbers(json.loads(content))}
    return pipeline_metrics(stages)


def experiment_file(root: Path, commit: str, path: str) -> bytes | None:
    """Return a file of an experiment, also an output of DVC; ``None`` if it is not there."""
    return Commit.open(root, commit).read(path)
