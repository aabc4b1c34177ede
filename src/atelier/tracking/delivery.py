"""One journal on its way into MLflow: every entry once, in order, however often it is begun."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from atelier.errors import AtelierError
from atelier.files import write_json
from atelier.tracking.journal import entries, executions, is_open, journals, now, remove
from atelier.tracking.models import judge_model, log_model
from atelier.tracking.pipeline import stages_of, tell_pipeline
from atelier.tracking.store import open_store
from atelier.tracking.workspace import private_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_STATE = "delivered.json"
_GONE = "RESOURCE_DOES_NOT_EXIST"
# Answers that asking again would not change.
_FINAL = {
    *("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"),
    *("INVALID_STATE", _GONE),
}
_BAD = ("FAILED", "KILLED")
_T = TypeVar("_T")


def refused(root: Path) -> Path:
    """The file of what MLflow would not take, an entry a line, with the reason."""
    return private_folder(root) / "refused.jsonl"


@cache
def client_of(root: Path, experiment: str) -> "tuple[MlflowClient, str]":
    """The store's client and the experiment's id, opened once."""
    return open_store(root, experiment)


@dataclass(frozen=True)
class _State:
    """How far a journal is delivered, and to which runs.

    ``logged`` holds the last step of each curve of a run that is continued.
    """

    offset: int = 0
    run: str = ""
    parent: str = ""
    stage: str = ""
    experiment: str = ""
    ended: bool = False
    logged: dict[str, int] | None = None


class _RunGoneError(Exception):
    """The run that a journal was told to is not there any more."""


class _TooEarlyError(AtelierError):
    """An earlier attempt at the same work is not delivered yet."""


class Delivery:
    """Delivers a journal into one run and its parent, or a pipeline's outcome into its run."""

    def __init__(self, root: Path, pipeline: str, journal: Path) -> None:
        """Go on where the last delivery of the same journal stopped.

        Args:
            root: the main project.
            pipeline: the name of the execution's folder, which finds its run by a tag.
            journal: the journal's folder.
        """
        self._root = root
        self._pipeline = pipeline
        self._journal = journal
        self._begun_anew = False
        self._file = journal / _STATE
        saved = json.loads(self._file.read_text("utf-8")) if self._file.exists() else {}
        self._state = _State(**saved)

    @property
    def _mlflow(self) -> "MlflowClient":
        return client_of(self._root, self._state.experiment)[0]

    def advance(self) -> None:
        """Deliver every entry that is there; when the last one is, remove the journal."""
        # Asked before reading, so that nothing written before a stage's end is missed.
        more_may_come = is_open(self._journal)
        try:
            self._advance(more_may_come)
        except _RunGoneError:
            self._begun_anew = True
            self._state = _State()
            self._save()
            self._advance(more_may_come)
        if self._state.ended:
            remove(self._journal)

    def _advance(self, more_may_come: bool) -> None:
        last = 0
        for entry, offset in entries(self._journal, self._state.offset):
            self._tell(entry)
            last = entry["time"]
            self._save(offset=offset)
        if not more_may_come and not self._state.ended:
            self._tell({"kind": "end", "status": "KILLED", "time": last or now()})

    def _tell(self, entry: dict[str, Any]) -> None:
        """Deliver one entry; what MLflow will never take is set aside, and the rest goes on.

        Raises:
            OSError, SQLAlchemyError, sqlite3.Error, MlflowException: MLflow cannot take it now.
            _TooEarlyError: something else is to be told first.
            _RunGoneError: the run was removed with its store meanwhile.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            getattr(self, f"_{entry['kind']}")(entry)
        except (OSError, SQLAlchemyError, sqlite3.Error, _TooEarlyError):
            raise
        except Exception as error:  # of MLflow, or of code that an older journal speaks of
            code = error.error_code if isinstance(error, MlflowException) else ""
            if code == _GONE and self._state.run and not self._begun_anew:
                raise _RunGoneError from error
            if code and code not in _FINAL:
                raise
            if entry["kind"] == "end":
                self._save(ended=True)
            with refused(self._root).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"reason": str(error), **entry}) + "\n")

    def _save(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write_json(self._file, asdict(self._state))

    def _start(self, entry: dict[str, Any]) -> None:
        client, experiment = client_of(self._root, entry["experiment"])
        stage, at, tags, parent = entry["stage"], entry["time"], entry["tags"], ""
        if entry["pipeline"]:
            key = {"atelier.pipeline": self._pipeline}
            of_all = tags | {"mlflow.source.name": "dvc.yaml"}
            parent = _find_or_create(client, experiment, entry["pipeline"], at, key, of_all)
            _log_parameters(client, parent, entry["parameters"])
            client.update_run(parent, status="RUNNING")
            tags = tags | {"mlflow.parentRunId": parent}
        continues = entry.get("continues", "")
        if continues:
            self._refuse_to_overtake(stage)
        key = {"atelier.journal": continues or self._journal.name}
        run = _find_or_create(client, experiment, stage, at, key, tags | {"atelier.stage": stage})
        own = {k: v for k, v in entry["parameters"].items() if k.startswith(f"{stage}.")}
        _log_parameters(client, run, own)
        self._save(run=run, parent=parent, stage=stage, experiment=entry["experiment"])
        if continues:
            self._take_up(tags)

    def _refuse_to_overtake(self, stage: str) -> None:
        """Leave a continued run to its earlier attempts until all that those said is told."""
        for execution in executions(private_folder(self._root)):
            for other in journals(execution):
                earlier = other.name < self._journal.name and other.name.split("-")[1] == stage
                if earlier and not is_open(other):
                    raise _TooEarlyError(f"an earlier attempt at {stage} is not delivered yet")

    def _take_up(self, tags: dict[str, str]) -> None:
        """Go on with a run that an earlier execution began: its steps are not logged again."""
        client, run = self._mlflow, self._state.run
        for tag, value in tags.items():
            client.set_tag(run, tag, value)
        client.update_run(run, status="RUNNING")
        names = client.get_run(run).data.metrics
        histories = {name: client.get_metric_history(run, name) for name in names}
        self._save(logged={n: max(point.step for point in h) for n, h in histories.items()})

    def _metrics(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        logged = self._state.logged or {}
        points = [
            Metric(name, value, at, step)
            for step, at, values in entry["rows"]
            for name, value in zip(entry["names"], values, strict=True)
            if name.startswith("system/") or step > logged.get(name, -1)
        ]
        for part in _parts(points, 1000):
            self._mlflow.log_batch(self._state.run, metrics=part)

    def _summary(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        # Named after the stage on both runs, so that a final number is no point of a curve.
        points = [
            Metric(f"{self._state.stage}.{name}", value, entry["time"], 0)
            for name, value in entry["values"].items()
        ]
        for run in filter(None, (self._state.run, self._state.parent)):
            for part in _parts(points, 1000):
                self._mlflow.log_batch(run, metrics=part)

    def _tags(self, entry: dict[str, Any]) -> None:
        for tag, value in entry["tags"].items():
            self._mlflow.set_tag(self._state.run, tag, value)

    def _text(self, entry: dict[str, Any]) -> None:
        for run in filter(None, (self._state.run, self._state.parent)):
            self._mlflow.log_text(run, entry["text"], entry["name"])

    def _artifact(self, entry: dict[str, Any]) -> None:
        folder = entry["folder"] if entry["folder"] not in ("", ".") else None
        self._mlflow.log_artifact(self._state.run, str(self._journal / entry["file"]), folder)

    def _picture(self, entry: dict[str, Any]) -> None:
        from PIL import Image

        # MLflow names a picture's file anew each time; one that a killed deliverer logged
        # without noting so must not be logged twice.
        start = f"images/{entry['key']}+step+{entry['step']}+"
        logged = self._mlflow.list_artifacts(self._state.run, "images")
        if any(file.path.startswith(start) for file in logged):
            return
        with Image.open(self._journal / entry["file"]) as image:
            self._mlflow.log_image(
                self._state.run,
                image.copy(),
                key=entry["key"],
                step=entry["step"],
                timestamp=entry["time"],
                synchronous=True,
            )

    def _model(self, entry: dict[str, Any]) -> None:
        log_model(
            self._mlflow, self._state.run, self._journal / entry["file"], str(entry["loader"])
        )

    def _outcome(self, entry: dict[str, Any]) -> None:
        """Complete the pipeline's run; the entries after this one are its pictures."""
        client, experiment = client_of(self._root, entry["experiment"])
        key = {"atelier.pipeline": self._pipeline}
        parent = _find_or_create(client, experiment, "pipeline", entry["time"], key, {})
        self._save(run=parent, experiment=entry["experiment"])
        tell_pipeline(client, parent, entry["stages"])
        evaluation = stages_of(client, parent).get("evaluate")
        if evaluation and "evaluate" in entry["stages"]:
            register = entry["parameters"].get("tracking.register", "")
            judge_model(client, entry["stages"], evaluation.info.run_id, register)

    def _end(self, entry: dict[str, Any]) -> None:
        # A pipeline's own journal has no stage; its run was ended by the last stage's.
        if self._state.stage:
            client, status = self._mlflow, entry["status"]
            client.set_terminated(self._state.run, status, entry["time"])
            if self._state.parent:
                # With `dvc repro -k` stages go on after one that failed.
                others = stages_of(client, self._state.parent).values()
                bad = [run.info.status for run in others if run.info.status in _BAD]
                client.set_terminated(self._state.parent, (bad or [status])[0], entry["time"])
        self._save(ended=True)


def _find_or_create(
    client: "MlflowClient",
    experiment: str,
    name: str,
    at: int,
    key: dict[str, str],
    tags: dict[str, str],
) -> str:
    """The run that bears the tag ``key``; a deliverer that was killed may have made it."""
    ((tag, value),) = key.items()
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    run = found[0] if found else client.create_run(experiment, at, tags | key, name)
    return str(run.info.run_id)


def _log_parameters(client: "MlflowClient", run: str, values: dict[str, str]) -> None:
    """Log parameters that the run does not have yet; what is logged cannot be changed."""
    from mlflow.entities import Param

    known = client.get_run(run).data.params
    new = [Param(name, value) for name, value in values.items() if name not in known]
    for part in _parts(new, 100):
        client.log_batch(run, params=part)


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Split into as many as MLflow takes in one request."""
    return (items[start : start + size] for start in range(0, len(items), size))
