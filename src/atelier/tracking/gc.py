"""Garbage collection: which runs are kept, and which are removed with all their files.

A pipeline execution (a parent run and its children) is kept or removed as a whole.
"""

import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError, count_text
from atelier.tracking import destination, mlflow_names
from atelier.tracking.environment import PRIVATE, owner_tags, repository_root
from atelier.tracking.metric_names import KID, find_metric
from atelier.tracking.outbox import outboxes, recorded_start
from atelier.tracking.references import collect_cache, collect_runs, named_by_git
from atelier.tracking.renamed import current_parameters
from atelier.tracking.run_start import settings_of
from atelier.tracking.run_state import remove_stale, stale
from atelier.tracking.store import locked, open_store, short_message

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient

_REMOTE_MIN_AGE_DAYS = 7.0


@dataclass(frozen=True, eq=False)
class PipelineExecution:
    """Runs of a pipeline's stages and then their parent; or the run of a single stage."""

    runs: "list[Run]"
    models: "list[LoggedModel]"

    @property
    def head(self) -> "Run":
        """Parent run, or the only run."""
        return self.runs[-1]

    @property
    def ids(self) -> list[str]:
        """Ids of its runs and models."""
        return [run.info.run_id for run in self.runs] + [model.model_id for model in self.models]

    @property
    def kid(self) -> float | None:
        """KID of the final images; ``None`` if there is none."""
        return find_metric(self.head.data.metrics, KID)

    @property
    def folders(self) -> list[Path]:
        """Folders of its artifacts."""
        from mlflow.utils.file_utils import local_file_uri_to_path

        uris = [run.info.artifact_uri for run in self.runs]
        uris += [model.artifact_location for model in self.models]
        return [Path(local_file_uri_to_path(uri)) for uri in uris]

    @property
    def last_time(self) -> float:
        """Latest start or end of a run, in seconds since 1970."""
        infos = [run.info for run in self.runs]
        return float(max(max(info.start_time, info.end_time or 0) for info in infos)) / 1000

    def belongs_to(self, owner: Mapping[str, str]) -> bool:
        """Return True if each of its runs has the tags of this owner."""
        return all(owner.items() <= run.data.tags.items() for run in self.runs)

    def tags(self, start: str) -> set[str]:
        """Return the values of all tags whose names start with ``start``."""
        tags = [tag for run in self.runs for tag in run.data.tags.items()]
        return {value for name, value in tags if name.startswith(start)}

    def is_named(self, contents: set[str]) -> bool:
        """Return True if all outputs of one of its runs are among these content hashes.

        A single output is not enough: an empty table is the same file in every training.
        """
        outputs_of_runs = (
            {v for n, v in run.data.tags.items() if n.startswith("output.")} for run in self.runs
        )
        return any(outputs and outputs <= contents for outputs in outputs_of_runs)

    def __str__(self) -> str:
        date = datetime.fromtimestamp(self.head.info.start_time / 1000)
        number = "no KID" if self.kid is None else f"KID {self.kid:.5g}"
        files = "files on the server" if is_elsewhere() else size(self.folders)
        return f"{self.head.info.run_name}, {date:%Y-%m-%d %H:%M}, {number}, {files}"


@dataclass(frozen=True)
class Plan:
    """Executions and files to keep and to remove.

    Attributes:
        keep: executions that are kept, and the reasons.
        remove: executions that are removed.
        cached: files of DVC's cache that are removed.
        stale: folders of checkpoints that are removed.
    """

    keep: dict[PipelineExecution, list[str]]
    remove: list[PipelineExecution]
    cached: list[Path]
    stale: list[Path]

    def __bool__(self) -> bool:
        """Return True if anything is removed."""
        return bool(self.remove or self.cached or self.stale)


def size(paths: Iterable[Path]) -> str:
    """Return the size of files and folders as text."""
    files = {file for path in paths for file in (path, *path.rglob("*")) if file.is_file()}
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"


def is_elsewhere(root: Path | None = None) -> bool:
    """Return True if the runs are in another store than the project's own.

    Args:
        root: the project; ``None`` for that of the working directory.
    """
    return destination.present(root or repository_root()) != destination.PROJECT


@contextmanager
def _mlflow_errors_as_sentences() -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise AtelierError(f"MLflow failed: {short_message(error)}") from None


@_mlflow_errors_as_sentences()
def plan(
    root: Path,
    experiment: str,
    best: int = 1,
    days: float = 30,
    min_age: float | None = None,
    everyone: bool = False,
    *,
    show: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Determine what is kept and what is removed; nothing is changed.

    Args:
        root: the project.
        experiment: name of the experiment in MLflow.
        best: number of executions with the lowest KID to keep.
        days: days since the last write for which checkpoints are kept.
        min_age: days for which every execution is kept; ``None`` for 7 in another store, which
            others may use, and 0 in the project's own.
        everyone: in another store, include runs of other users, machines and clones.
        show: called with a text at the start of each part of the work.

    Raises:
        AtelierError: there is no store, or MLflow, git or DVC fails.
    """
    if not is_elsewhere(root) and not (root / "mlflow.db").exists():
        raise AtelierError(f"there is no {root / 'mlflow.db'}, so there is no run to remove.")
    client, number = open_store(root, experiment)
    if min_age is None:
        min_age = _REMOTE_MIN_AGE_DAYS if is_elsewhere(root) else 0
    owner = {} if everyone or not is_elsewhere(root) else owner_tags(root)
    owner = {name: mlflow_names.tag(value) for name, value in owner.items()}  # as it was logged
    show("Reading the runs")
    executions = _executions(client, root)
    show(f"Reading the commits that name files of {count_text(len(executions), 'pipeline')}")
    reasons = _reasons(root, client, executions, number, best, owner)
    _keep_young(reasons, min_age)
    _keep_producers(reasons)
    keep = {execution: why for execution, why in reasons.items() if why}
    show("Reading DVC's cache")
    cached = [] if _active(root) else collect_cache(root, _outputs(keep), dry=True)
    remove = [execution for execution in reasons if execution not in keep]
    return Plan(keep, remove, cached, stale(root / PRIVATE, days))


@_mlflow_errors_as_sentences()
def apply(
    root: Path, experiment: str, plan: Plan, *, show: Callable[[str], None] = lambda text: None
) -> None:
    """Carry out a plan; in another store, runs are only moved to its trash.

    Args:
        root: the project.
        experiment: name of the experiment in MLflow.
        plan: from :func:`plan`.
        show: called with a text at the start of each part of the work.
    """
    from mlflow.entities import ViewType

    if _active(root):
        raise AtelierError("a pipeline is running, or `atelier sync` has work to do; wait for it.")
    client, _ = open_store(root, experiment)
    if not is_elsewhere(root) and (trash := client.search_experiments(ViewType.DELETED_ONLY)):
        raise AtelierError(
            f"`mlflow gc` would remove the deleted experiment {trash[0].name} as well; restore it,"
            f" or remove it with `mlflow gc --experiment-ids {trash[0].experiment_id}`."
        )
    for folder in plan.stale:  # first: a stage may resume such work while the rest runs
        remove_stale(folder)
    for number, execution in enumerate(plan.remove):
        show(f"Deleting pipeline {number + 1} of {len(plan.remove)}")
        for model in execution.models:
            client.delete_logged_model(model.model_id)
        for run in execution.runs:  # children first: deleting a parent does not delete them
            if run.info.lifecycle_stage == "active":
                client.delete_run(run.info.run_id)
    if not is_elsewhere(root):
        for first in range(0, len(plan.remove), 100):  # the length of a command line is limited
            part = plan.remove[first : first + 100]
            show(f"Removing the files of {count_text(len(part), 'pipeline')}")
            runs = [run.info.run_id for e in part for run in e.runs]
            models = [model.model_id for e in part for model in e.models]
            folders = [folder for e in part for folder in e.folders]
            collect_runs(root, client.tracking_uri, runs, models, folders)
    show("Removing files of DVC's cache")
    collect_cache(root, _outputs(plan.keep))


def _outputs(executions: Iterable[PipelineExecution]) -> set[str]:
    """Return the hashes of all outputs of these executions."""
    return set[str]().union(*(execution.tags("output.") for execution in executions))


def _reasons(
    root: Path,
    client: "MlflowClient",
    executions: list[PipelineExecution],
    number: str,
    best: int,
    owner: Mapping[str, str],
) -> dict[PipelineExecution, list[str]]:
    """Return the executions and the reasons to keep each, possibly none.

    Args:
        root: the project.
        client: client of the store.
        executions: newest first.
        number: id of the experiment.
        best: number of executions with the lowest KID to keep.
        owner: tags of the runs that may be removed.
    """
    candidates = [
        e for e in executions if e.head.info.experiment_id == number and e.belongs_to(owner)
    ]
    lowest = _lowest(candidates, best)
    # A version has the id of its run, or only an address that contains the run or the model.
    versions = [f"{v.run_id} {v.source}" for v in _pages(client.search_model_versions)]
    named, active, mlruns = named_by_git(root), _active(root), (root / "mlruns").resolve()
    reasons = {}
    for e in executions:
        running = any(run.info.status == "RUNNING" and _is_active(run) for run in e.runs)
        outside = any(mlruns not in folder.resolve().parents for folder in e.folders)
        tests = {
            "among the lowest KIDs": e in lowest,
            "made a registered model": any(id_ in text for id_ in e.ids for text in versions),
            "named by git or by dvc.lock": e.is_named(named),
            "still running": running or active & e.tags("atelier.pipeline"),
            "of another experiment": e.head.info.experiment_id != number,
            "its table of stages is missing": _lacks_table(e),
            "has files outside mlruns/": outside and not is_elsewhere(root),
            "of another user, machine or clone": not e.belongs_to(owner),
        }
        reasons[e] = [reason for reason, holds in tests.items() if holds]
    return reasons


def _lacks_table(execution: PipelineExecution) -> bool:
    """Return True if a pipeline has no outcome: it is running, or the outcome was lost or rejected.

    Without it, its runs have no hashes of their outputs to compare with git. A run that the user
    moved to the trash can be removed nevertheless.
    """
    is_pipeline = bool(execution.tags("atelier.pipeline"))
    return is_pipeline and _is_active(execution.head) and not execution.tags("stages.")


def _executions(client: "MlflowClient", root: Path) -> list[PipelineExecution]:
    """Return all executions, newest first; in the project's own store also those in the trash."""
    from mlflow.entities import ViewType

    experiments = [experiment.experiment_id for experiment in _pages(client.search_experiments)]
    view = ViewType.ACTIVE_ONLY if is_elsewhere(root) else ViewType.ALL
    search = partial(client.search_runs, experiments, run_view_type=view)
    marks = ("tags.`atelier.pipeline` != ''", "tags.`atelier.stage` != ''")
    found = {run.info.run_id: run for mark in marks for run in _pages(partial(search, mark))}
    runs: dict[str, list[Run]] = defaultdict(list)
    models: dict[str, list[LoggedModel]] = defaultdict(list)
    for run in found.values():
        parent = run.data.tags.get("mlflow.parentRunId")
        runs[parent if parent in found else run.info.run_id].insert(0, run)  # parents are last
    for model in _pages(partial(client.search_logged_models, experiments)):
        models[model.source_run_id].append(model)
    executions = [
        PipelineExecution(group, [model for run in group for model in models[run.info.run_id]])
        for group in runs.values()
    ]
    return sorted(executions, key=lambda e: e.head.info.start_time, reverse=True)


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    token = None
    while token != "":
        page = search(page_token=token)
        yield from page
        token = page.token or ""


def _is_active(run: "Run") -> bool:
    return bool(run.info.lifecycle_stage == "active")


def _lowest(executions: list[PipelineExecution], best: int) -> list[PipelineExecution]:
    """Return the executions with the lowest KID among those evaluated as the newest one."""

    def settings(execution: PipelineExecution) -> dict[str, str]:
        data = execution.head.data
        parameters = current_parameters(settings_of(data.params, data.tags)).items()
        return {name: value for name, value in parameters if name.startswith("evaluate.")}

    parents = [e for e in executions if e.tags("atelier.pipeline") and _is_active(e.head)]
    comparable = [e for e in parents if settings(e) == settings(parents[0])]
    # Of equal ones the oldest: the others may have restored its model.
    ranked = sorted((e.kid, -index) for index, e in enumerate(comparable) if e.kid is not None)
    return [comparable[-index] for _, index in ranked[:best]]


def _keep_young(reasons: dict[PipelineExecution, list[str]], days: float) -> None:
    """Add a reason to executions that are younger than so many days."""
    oldest = time.time() - days * 86_400
    for execution, why in reasons.items():
        if execution.last_time > oldest:
            why.append(f"younger than {days:g} days")


def _keep_producers(reasons: dict[PipelineExecution, list[str]]) -> None:
    """Add a reason to executions whose outputs were restored by an execution that is kept."""
    by_run = {run.info.run_id: execution for execution in reasons for run in execution.runs}
    kept = [execution for execution, why in reasons.items() if why]
    for execution in kept:  # grows during the iteration
        for producer in map(by_run.get, execution.tags("restored.")):
            if producer and not reasons[producer]:
                reasons[producer].append(f"made what {execution.head.info.run_name} restored")
                kept.append(producer)


def _active(root: Path) -> set[str]:
    """Return the executions that are running, or not completely delivered."""
    found = (root / PRIVATE / "journal").glob("*")
    return {e.name for e in found if outboxes(e) or recorded_start(e) is not None or _has_worker(e)}


def _has_worker(execution: Path) -> bool:
    with locked(execution / ".served", wait=False) as free:
        return not free
