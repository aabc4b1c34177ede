"""Leaving room: which runs stay, and which go with all their files.

A pipeline execution (a parent run and its children) stays or goes as a whole.
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

from atelier.core.errors import AtelierError
from atelier.tracking import destination, mlflow_names
from atelier.tracking.environment import PRIVATE, owner_tags, repository_root
from atelier.tracking.outbox import outboxes, recorded_start
from atelier.tracking.references import collect_cache, collect_runs, named_by_git
from atelier.tracking.renamed import current_parameters
from atelier.tracking.run_state import remove_stale, stale
from atelier.tracking.store import locked, open_store, short_message

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient

_DAYS_ELSEWHERE = 7.0


@dataclass(frozen=True, eq=False)
class PipelineExecution:
    """The runs of a pipeline's stages, then their parent; or a stage run by hand."""

    runs: "list[Run]"
    models: "list[LoggedModel]"

    @property
    def head(self) -> "Run":
        """The run that stands for all."""
        return self.runs[-1]

    @property
    def names(self) -> list[str]:
        """The ids of its runs and models."""
        return [run.info.run_id for run in self.runs] + [model.model_id for model in self.models]

    @property
    def kid(self) -> float | None:
        """The final ``evaluate.kid``."""
        kid: float | None = self.head.data.metrics.get("evaluate.kid")
        return kid

    @property
    def folders(self) -> list[Path]:
        """Where the artifacts lie."""
        from mlflow.utils.file_utils import local_file_uri_to_path

        places = [run.info.artifact_uri for run in self.runs]
        places += [model.artifact_location for model in self.models]
        return [Path(local_file_uri_to_path(place)) for place in places]

    @property
    def last_time(self) -> float:
        """Seconds since 1970, when the last of its runs started or ended."""
        infos = [run.info for run in self.runs]
        return float(max(max(info.start_time, info.end_time or 0) for info in infos)) / 1000

    def belongs_to(self, owner: Mapping[str, str]) -> bool:
        """Whether each of its runs bears the tags of this owner."""
        return all(owner.items() <= run.data.tags.items() for run in self.runs)

    def tags(self, start: str) -> set[str]:
        """The values of all tags whose names start so."""
        tags = [tag for run in self.runs for tag in run.data.tags.items()]
        return {value for name, value in tags if name.startswith(start)}

    def is_named(self, contents: set[str]) -> bool:
        """Whether all that one of its runs made is among these contents.

        One output alone says little: a table without a line is the same file in every training.
        """
        made = (
            {v for n, v in run.data.tags.items() if n.startswith("output.")} for run in self.runs
        )
        return any(outputs and outputs <= contents for outputs in made)

    def __str__(self) -> str:
        date = datetime.fromtimestamp(self.head.info.start_time / 1000)
        number = "no KID" if self.kid is None else f"KID {self.kid:.5g}"
        room = "files on the server" if is_elsewhere() else size(self.folders)
        return f"{self.head.info.run_name}, {date:%Y-%m-%d %H:%M}, {number}, {room}"


@dataclass(frozen=True)
class Plan:
    """Which executions stay, and why; which go; which files of DVC's cache and what work go."""

    keep: dict[PipelineExecution, list[str]]
    remove: list[PipelineExecution]
    cached: list[Path]
    stale: list[Path]

    def __bool__(self) -> bool:
        """Whether anything goes."""
        return bool(self.remove or self.cached or self.stale)


def size(places: Iterable[Path]) -> str:
    """The size of files and folders, as text."""
    files = {file for place in places for file in (place, *place.rglob("*")) if file.is_file()}
    return f"{sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"


def is_elsewhere(root: Path | None = None) -> bool:
    """Whether another store than the project's own holds the runs; its keeper empties it.

    Args:
        root: the project; ``None`` for the one of the working directory.
    """
    return destination.present(root or repository_root()) != destination.PROJECT


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise AtelierError(f"MLflow says: {short_message(error)}") from None


@_in_a_sentence()
def plan(
    root: Path,
    experiment: str,
    best: int = 1,
    days: float = 30,
    min_age: float | None = None,
    everyone: bool = False,
) -> Plan:
    """Say what stays and what goes, and change nothing.

    Args:
        root: the project.
        experiment: the experiment in MLflow.
        best: how many stay for their low KID.
        days: how long unfinished work is kept since it was last touched.
        min_age: days for which every execution stays; ``None`` for 7 in a store elsewhere, which
            others may look at, and 0 in the project's own.
        everyone: in a store elsewhere, also runs of other users, machines and clones.
    """
    if not is_elsewhere(root) and not (root / "mlflow.db").exists():
        raise AtelierError(f"there is no {root / 'mlflow.db'}, so there is no run to remove.")
    client, number = open_store(root, experiment)
    if min_age is None:
        min_age = _DAYS_ELSEWHERE if is_elsewhere(root) else 0
    owner = {} if everyone or not is_elsewhere(root) else owner_tags(root)
    owner = {name: mlflow_names.tag(value) for name, value in owner.items()}  # as it was logged
    reasons = _reasons(root, client, number, best, owner)
    _keep_young(reasons, min_age)
    _keep_producers(reasons)
    kept = {execution: told for execution, told in reasons.items() if told}
    cached = [] if _unfinished(root) else collect_cache(root, _outputs(kept), "--dry")
    removed = [execution for execution in reasons if execution not in kept]
    return Plan(kept, removed, cached, stale(root / PRIVATE, days))


@_in_a_sentence()
def apply(root: Path, experiment: str, plan: Plan) -> None:
    """Remove what a plan removes; in a store elsewhere, to its trash only."""
    from mlflow.entities import ViewType

    if _unfinished(root):
        raise AtelierError("a pipeline is running, or `atelier sync` has work to do; wait for it.")
    client, _ = open_store(root, experiment)
    if not is_elsewhere(root) and (trash := client.search_experiments(ViewType.DELETED_ONLY)):
        raise AtelierError(
            f"`mlflow gc` would remove the deleted experiment {trash[0].name} as well; restore it,"
            f" or remove it with `mlflow gc --experiment-ids {trash[0].experiment_id}`."
        )
    for folder in plan.stale:  # at once: the rest takes long enough for a stage to take it up
        remove_stale(folder)
    for execution in plan.remove:
        for model in execution.models:
            client.delete_logged_model(model.model_id)
        for run in execution.runs:  # deleting a parent leaves its children, so they go first
            if run.info.lifecycle_stage == "active":
                client.delete_run(run.info.run_id)
    if not is_elsewhere(root):
        for first in range(0, len(plan.remove), 100):  # a command line has an end
            some = plan.remove[first : first + 100]
            runs = [run.info.run_id for e in some for run in e.runs]
            models = [model.model_id for e in some for model in e.models]
            folders = [folder for e in some for folder in e.folders]
            collect_runs(root, client.tracking_uri, runs, models, folders)
    collect_cache(root, _outputs(plan.keep))


def _outputs(executions: Iterable[PipelineExecution]) -> set[str]:
    """The hashes of all that they made."""
    return set[str]().union(*(execution.tags("output.") for execution in executions))


def _reasons(
    root: Path, client: "MlflowClient", number: str, best: int, owner: Mapping[str, str]
) -> dict[PipelineExecution, list[str]]:
    """Return every execution, newest first, and why it stays; one without a reason goes."""
    executions = _executions(client, root)
    candidates = [
        e for e in executions if e.head.info.experiment_id == number and e.belongs_to(owner)
    ]
    lowest = _lowest(candidates, best)
    # A version names its run, or a place under the run or the model only.
    versions = [f"{v.run_id} {v.source}" for v in _pages(client.search_model_versions)]
    named, unfinished, ours = named_by_git(root), _unfinished(root), (root / "mlruns").resolve()
    reasons = {}
    for e in executions:
        running = any(run.info.status == "RUNNING" and _is_active(run) for run in e.runs)
        outside = any(ours not in folder.resolve().parents for folder in e.folders)
        tests = {
            "among the lowest KIDs": e in lowest,
            "made a registered model": any(name in text for name in e.names for text in versions),
            "named by git or by dvc.lock": e.is_named(named),
            "still running": running or unfinished & e.tags("atelier.pipeline"),
            "of another experiment": e.head.info.experiment_id != number,
            "its table of stages is missing": _lacks_table(e),
            "has files outside mlruns/": outside and not is_elsewhere(root),
            "of another user, machine or clone": not e.belongs_to(owner),
        }
        reasons[e] = [reason for reason, holds in tests.items() if holds]
    return reasons


def _lacks_table(execution: PipelineExecution) -> bool:
    """Whether a pipeline's outcome is unknown: it runs on, or its outcome was lost or rejected.

    Without it no run has the hashes of what it made, by which git would name it. A run that the
    user put into the trash may go all the same.
    """
    is_pipeline = bool(execution.tags("atelier.pipeline"))
    return is_pipeline and _is_active(execution.head) and not execution.tags("stages.")


def _executions(client: "MlflowClient", root: Path) -> list[PipelineExecution]:
    """All that Atelier logged, newest first; here, what lies in MLflow's trash too."""
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
        runs[parent if parent in found else run.info.run_id].insert(0, run)  # parents come first
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
    """The parents of the lowest KID, of those measured as the newest one is."""

    def measured(execution: PipelineExecution) -> dict[str, str]:
        parameters = current_parameters(execution.head.data.params).items()
        return {name: value for name, value in parameters if name.startswith("evaluate.")}

    parents = [e for e in executions if e.tags("atelier.pipeline") and _is_active(e.head)]
    alike = [e for e in parents if measured(e) == measured(parents[0])]
    # Of equal ones, the first that was made: the later may have restored its model.
    ranked = sorted((e.kid, -place) for place, e in enumerate(alike) if e.kid is not None)
    return [alike[-place] for _, place in ranked[:best]]


def _keep_young(reasons: dict[PipelineExecution, list[str]], days: float) -> None:
    """Add a reason for whatever is younger than so many days."""
    oldest = time.time() - days * 86_400
    for execution, told in reasons.items():
        if execution.last_time > oldest:
            told.append(f"younger than {days:g} days")


def _keep_producers(reasons: dict[PipelineExecution, list[str]]) -> None:
    """Add a reason for whatever made something that one which stays restored."""
    makers = {run.info.run_id: execution for execution in reasons for run in execution.runs}
    staying = [execution for execution, told in reasons.items() if told]
    for execution in staying:  # it grows on the way
        for maker in map(makers.get, execution.tags("restored.")):
            if maker and not reasons[maker]:
                reasons[maker].append(f"made what {execution.head.info.run_name} restored")
                staying.append(maker)


def _unfinished(root: Path) -> set[str]:
    """The pipelines that run here, or whose runs are not wholly delivered."""
    found = (root / PRIVATE / "journal").glob("*")
    return {e.name for e in found if outboxes(e) or recorded_start(e) is not None or _is_served(e)}


def _is_served(execution: Path) -> bool:
    with locked(execution / ".served", wait=False) as free:
        return not free
