"""Selection of compared runs by the names that a user enters."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError, did_you_mean, printable
from atelier.tracking import mlflow_names
from atelier.tracking.compared_pipelines import StoredRun, run_address
from atelier.tracking.compared_run import ComparedRun
from atelier.tracking.compared_trees import WORKSPACE, revision_run, workspace_run
from atelier.tracking.environment import git
from atelier.tracking.pipeline_run import PARENT_KEY
from atelier.tracking.store import existing_store, short_message

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_FULL = 32  # digits of an id
_DIGITS = 12  # of an id in a message
_ID = re.compile("[0-9a-f]{7,32}")
_EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
_MAX_RUNS = 5000  # among which a name is searched
_INTERRUPTED = "KILLED"  # status in MLflow
_SHOWN = 3  # of ambiguous runs in a message


class Selection:
    """Runs of a project by name: MLflow runs, DVC experiments, git revisions, the workspace.

    Args:
        root: the project.
        experiment: name of the experiment in MLflow.
        sharing: present value of ``convert.share_images``.
    """

    def __init__(self, root: Path, experiment: str, sharing: str = "none") -> None:
        self._root, self._experiment, self._sharing = root, experiment, sharing

    def latest(self, count: int) -> list[ComparedRun]:
        """Return the last pipelines in MLflow, oldest first.

        Interrupted ones are left out, unless there are no others: another pipeline continues them.
        Without a store, return the last DVC experiments and the workspace.

        Raises:
            AtelierError: there is no run.
        """
        if self._client is not None:
            pipelines = [run for run in self._runs if PARENT_KEY in run.data.tags]
            ended = [run for run in pipelines if run.info.status != _INTERRUPTED] or pipelines
            if ended:
                return self._with_sharing(self._stored(run) for run in reversed(ended[:count]))
        names = list(self._experiments)[: count - 1]
        found = [self._revision(name) for name in reversed(names)]
        if (self._root / "dvc.lock").is_file():
            found.append(workspace_run(self._root))
        if not found:
            raise AtelierError("there are no runs to compare yet; type: dvc repro")
        return self._with_sharing(found)

    def named(self, names: Sequence[str]) -> list[ComparedRun]:
        """Return the runs with these names, in their order; each run once.

        Raises:
            AtelierError: a name is unknown, or several runs have it.
        """
        found = self._with_sharing(self._named(name) for name in names)
        return list({run.source: run for run in found}.values())

    def _with_sharing(self, runs: Iterable[ComparedRun]) -> list[ComparedRun]:
        return [replace(run, sharing=self._sharing) for run in runs]

    def _named(self, name: str) -> ComparedRun:
        if name == WORKSPACE:
            return workspace_run(self._root)
        if name in self._experiments:
            return self._with_link(self._revision(name))
        runs = self._matching(name) if self._client is not None else []
        if len(runs) > 1:
            listed = ", ".join(run.info.run_id[:8] for run in runs[:_SHOWN])
            more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
            raise AtelierError(
                f"{len(runs)} runs are named {printable(name)} ({listed}{more}); give the id of"
                " one."
            )
        commit = git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        if runs and commit and _ID.fullmatch(name):
            raise AtelierError(
                f"{name} is MLflow run {runs[0].info.run_id[:_DIGITS]} and commit"
                f" {commit[:_DIGITS]}; give more digits."
            )
        if runs:
            return self._stored(runs[0])
        if commit:
            return revision_run(self._root, name, commit.strip(), is_experiment=False)
        raise AtelierError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        branches = git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags") or ""
        known = [run.info.run_name for run in self._runs if PARENT_KEY in run.data.tags]
        known += [*self._experiments, *branches.split("\n"), WORKSPACE]
        hint = did_you_mean(name, filter(None, known)) or (
            "; give an id or a name of a run in MLflow, a DVC experiment, a git revision or"
            f" {WORKSPACE}"
        )
        return f"there is no run {printable(name)}{hint}" + ("?" if "did you" in hint else ".")

    def _matching(self, name: str) -> "list[Run]":
        """Return the runs whose id begins with a text, or that have it as their name."""
        if _ID.fullmatch(name):
            found = [run for run in self._runs if run.info.run_id.startswith(name)]
            if not found and len(name) == _FULL:
                found = self._of_other_experiment(name)
            if found:
                heads = {head.info.run_id: head for head in map(self._head, found)}
                return list(heads.values())
        legal = mlflow_names.run_name(name)
        named = [run for run in self._runs if run.info.run_name in (name, legal)]
        pipelines = [run for run in named if PARENT_KEY in run.data.tags]
        return pipelines or list({h.info.run_id: h for h in map(self._head, named)}.values())

    def _of_other_experiment(self, run_id: str) -> "list[Run]":
        """Return the run with an id, or its pipeline's run; empty if there is none."""
        assert self._client is not None  # noqa: S101 - the caller has checked it
        try:
            run = self._client.get_run(run_id)
            parent = run.data.tags.get("mlflow.parentRunId")
            return [self._client.get_run(parent) if parent else run]
        except Exception:  # there is no such run
            return []

    def _head(self, run: "Run") -> "Run":
        """Return the pipeline's run of a stage's run; other runs are their own."""
        if PARENT_KEY in run.data.tags:  # its parent, if any, is the run of a study
            return run
        parent = run.data.tags.get("mlflow.parentRunId")
        return next((r for r in self._runs if r.info.run_id == parent), run)

    def _with_link(self, run: ComparedRun) -> ComparedRun:
        """Add the address of the MLflow run of a DVC experiment, if there is one."""
        if self._client is None:
            return run
        for stored in self._runs:
            tags = stored.data.tags
            if PARENT_KEY in tags and tags.get("dvc.experiment") == run.experiment:
                return replace(run, address=run_address(self._root, stored))
        return run

    def _stored(self, run: "Run") -> ComparedRun:
        assert self._client is not None  # noqa: S101 - runs come from it
        with _mlflow_errors():
            return StoredRun(self._client, run).read(self._root)

    def _revision(self, name: str) -> ComparedRun:
        return revision_run(self._root, name, self._experiments[name], is_experiment=True)

    @cached_property
    def _experiments(self) -> dict[str, str]:
        """Commits of the DVC experiments by name, newest first; the newest one of each name."""
        listed = git(
            *("for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)"),
            "refs/exps",
        )
        found: dict[str, str] = {}
        for line in (listed or "").splitlines():
            commit, _, reference = line.partition(" ")
            if match := _EXPERIMENT.fullmatch(reference):
                found.setdefault(match[1], commit)
        return found

    @cached_property
    def _client(self) -> "MlflowClient | None":
        # MLflow would print a bar for each downloaded file.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        with _mlflow_errors():
            return existing_store(self._root)

    @cached_property
    def _runs(self) -> "list[Run]":
        """The runs of the experiment, newest first."""
        if self._client is None:
            return []
        with _mlflow_errors():
            found = self._client.get_experiment_by_name(
                mlflow_names.experiment_name(self._experiment)
            )
            if found is None:
                return []
            return list(
                self._client.search_runs(
                    [found.experiment_id],
                    order_by=["attributes.start_time DESC"],
                    max_results=_MAX_RUNS,
                )
            )


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    """Raise any error of MLflow as an ``AtelierError``."""
    try:
        yield
    except AtelierError:
        raise
    except Exception as error:  # any error of MLflow
        raise AtelierError(f"MLflow does not respond: {short_message(error)}") from None
