"""Telling MLflow what the journals hold: the one place that logs to MLflow.

One deliverer serves a pipeline execution: the first stage starts it, it reads the journals
as they grow, and it ends when the execution has. So MLflow is imported once a pipeline, and
beside the work. It also delivers what earlier executions could not.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from atelier.files import write_json
from atelier.tracking.journal import (
    entries,
    execution_folder,
    executions,
    is_open,
    journals,
    note_problem,
    now,
    remove,
)
from atelier.tracking.store import locked, open_store, quiet_environment
from atelier.tracking.workspace import Process, private_folder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_POLL_SECONDS = 0.25
_RETRY_SECONDS = 5.0
_STATE = "delivered.json"
# Answers that asking again would not change.
_FINAL = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS"}
_T = TypeVar("_T")


def serve(root: Path, process: Process) -> None:
    """Deliver the journals of the execution that ``process`` runs, until it ends.

    Returns at once where another deliverer serves it already. A stage may outlive the dvc
    that started it; its journal is then followed to its own end.
    """
    execution = execution_folder(private_folder(root), process)
    with locked(execution / ".lock", wait=False) as mine:
        if not mine:
            return
        deliver_left_over(root)
        more_may_come = True
        while more_may_come:
            # Asked before reading, so that nothing written before the end is missed.
            more_may_come = process.is_alive() or any(map(is_open, journals(execution)))
            trouble = _deliver_all(root, execution)
            if more_may_come:
                time.sleep(_RETRY_SECONDS if trouble else _POLL_SECONDS)
        _remove_if_empty(execution)


def deliver_left_over(root: Path) -> int:
    """Deliver what earlier executions left behind; return how many journals remain.

    Those that another deliverer serves are left to it, and those still written to are
    delivered as far as they go.
    """
    remaining = 0
    for execution in executions(private_folder(root)):
        with locked(execution / ".lock", wait=False) as mine:
            if mine:
                _deliver_all(root, execution)
                _remove_if_empty(execution)
        remaining += len(journals(execution))
    return remaining


def _deliver_all(root: Path, execution: Path) -> bool:
    """Deliver in order as far as it goes; return whether there was trouble, and note it."""
    for journal in journals(execution):
        try:
            _Delivery(root, execution.name, journal).advance()
        except Exception as error:  # whatever MLflow raises, the journal stays
            note_problem(execution, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            _client.cache_clear()
            return True
    note_problem(execution, None)
    return False


@cache
def _client(root: Path, experiment: str) -> "tuple[MlflowClient, str]":
    return open_store(root, experiment)


@dataclass(frozen=True)
class _State:
    """How far a journal is delivered, and to which runs."""

    offset: int = 0
    run: str = ""
    parent: str = ""
    stage: str = ""
    experiment: str = ""
    ended: bool = False


class _Delivery:
    """One journal on its way into one run and its parent."""

    def __init__(self, root: Path, pipeline: str, journal: Path) -> None:
        self._root = root
        self._pipeline = pipeline
        self._journal = journal
        self._file = journal / _STATE
        saved = json.loads(self._file.read_text("utf-8")) if self._file.exists() else {}
        self._state = _State(**saved)

    @property
    def _mlflow(self) -> "MlflowClient":
        return _client(self._root, self._state.experiment)[0]

    def advance(self) -> None:
        """Deliver every entry that is there; when the last one is, remove the journal."""
        # Asked before reading, so that nothing written before a stage's end is missed.
        more_may_come = is_open(self._journal)
        last = 0
        for entry, offset in entries(self._journal, self._state.offset):
            self._tell(entry)
            last = entry["time"]
            self._save(offset=offset)
        if not more_may_come and not self._state.ended:
            self._end({"status": "KILLED", "time": last or now()})
        if self._state.ended:
            remove(self._journal)

    def _tell(self, entry: dict[str, Any]) -> None:
        """Deliver one entry; what MLflow will never take is set aside, and the rest goes on."""
        from mlflow.exceptions import MlflowException

        try:
            getattr(self, f"_{entry['kind']}")(entry)
        except MlflowException as error:
            if error.error_code not in _FINAL:
                raise
            with (private_folder(self._root) / "refused.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"reason": str(error), **entry}) + "\n")

    def _save(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write_json(self._file, asdict(self._state))

    def _start(self, entry: dict[str, Any]) -> None:
        client, experiment = _client(self._root, entry["experiment"])
        stage, at, tags, parent = entry["stage"], entry["time"], entry["tags"], ""
        if entry["pipeline"]:
            key = {"atelier.pipeline": self._pipeline}
            parent = _find_or_create(client, experiment, entry["pipeline"], at, key, tags)
            _log_parameters(client, parent, entry["parameters"])
            client.update_run(parent, status="RUNNING")
            tags = tags | {"mlflow.parentRunId": parent}
        key = {"atelier.journal": self._journal.name}
        run = _find_or_create(client, experiment, stage, at, key, tags | {"atelier.stage": stage})
        own = {k: v for k, v in entry["parameters"].items() if k.startswith(f"{stage}.")}
        _log_parameters(client, run, own)
        self._save(run=run, parent=parent, stage=stage, experiment=entry["experiment"])

    def _metrics(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, at, step)
            for step, at, values in entry["rows"]
            for name, value in zip(entry["names"], values, strict=True)
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

    def _end(self, entry: dict[str, Any]) -> None:
        for run in (self._state.run, self._state.parent):
            if run:
                self._mlflow.set_terminated(run, entry["status"], entry["time"])
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


def _remove_if_empty(execution: Path) -> None:
    if not journals(execution):
        shutil.rmtree(execution, ignore_errors=True)


if __name__ == "__main__":
    quiet_environment()
    serve(Path(sys.argv[1]), Process(int(sys.argv[2]), sys.argv[3]))
