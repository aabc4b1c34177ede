"""One journal on its way into MLflow: every entry once, in order, however often it is begun."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from atelier.core.errors import AtelierError
from atelier.core.files import write_text
from atelier.tracking import mlflow_names, rejected
from atelier.tracking.destination import recorded
from atelier.tracking.environment import private_folder
from atelier.tracking.mlflow_errors import (
    ContentError,
    as_content_error,
    has_no_response,
    is_access_denied,
    is_gone,
    is_of_machine,
    is_too_large,
    rejects,
    send_in_parts,
)
from atelier.tracking.models import log_evaluation, log_model, register_model
from atelier.tracking.outbox import DELIVERED, entries, executions, is_open, now, outboxes, remove
from atelier.tracking.pipeline_run import complete_parent_run, stages_of
from atelier.tracking.rejected import rejected_file
from atelier.tracking.run_lookup import (
    PARENT_KEY,
    STAGE_KEY,
    find_or_create,
    remove_duplicates,
    remove_late_duplicates,
)
from atelier.tracking.store import StoreError, is_remote, open_store
from atelier.tracking.uploads import remove_note, upload, upload_text, write_note

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["Delivery", "client_of", "rejected_file"]

_REJECTED_FOLDER = ("FAILED", "KILLED")
_FILES = ("text", "artifact", "picture", "model")
# A request that a server or a proxy between answers wrongly once is sent again.
_PAUSES = (0.3, 1.0)
# After so many attempts a file is set aside, if the server takes others.
_ATTEMPTS = 5
_LARGEST_REQUEST = 300_000  # characters; MLflow takes a million bytes, six for some characters
_LARGEST_INTEGER = 2**63 - 1
_T = TypeVar("_T")


@cache
def client_of(root: Path, experiment: str) -> "tuple[MlflowClient, str]":
    """The store's client and the experiment's id, opened once."""
    return open_store(root, experiment)


@dataclass(frozen=True)
class _State:
    """How far a journal is delivered, and to which runs.

    ``logged`` holds the last step of each curve of a run that is continued, ``attempts`` counts
    failed deliveries of the entry at ``offset``.
    """

    offset: int = 0
    run: str = ""
    parent: str = ""
    stage: str = ""
    experiment: str = ""
    ended: bool = False
    logged: dict[str, int] | None = None
    attempts: int = 0


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
        self.delivered = 0
        self._root = root
        self._pipeline = pipeline
        self._journal = journal
        self._begun_anew = False
        self._file = journal / DELIVERED
        self._state = _State()
        # A file that a full disk or a crash cut is no loss: everything can be delivered again.
        with suppress(OSError, ValueError, TypeError):
            self._state = _State(**json.loads(self._file.read_text("utf-8")))

    @property
    def _mlflow(self) -> "MlflowClient":
        return client_of(self._root, self._state.experiment)[0]

    def deliver_pending(self) -> None:
        """Deliver every entry that is there; when the last one is, remove the journal."""
        # Asked before reading, so that nothing written before a stage's end is missed.
        more_may_come = is_open(self._journal)
        try:
            self._deliver_batch(more_may_come)
        except _RunGoneError:
            self._begun_anew = True
            self.delivered = 0
            self._state = _State()
            self._save()
            self._deliver_batch(more_may_come)
        if self._state.ended:
            remove(self._journal)

    def _deliver_batch(self, more_may_come: bool) -> None:
        last = 0
        for entry, offset in entries(self._journal, self._state.offset):
            is_delivered = self._apply(entry)
            with suppress(TypeError, ValueError, OverflowError):
                last = _timestamp(entry["time"])
            self._save(offset=offset, attempts=0)
            self.delivered += is_delivered
        if not more_may_come and not self._state.ended:
            self._apply({"kind": "end", "status": "KILLED", "time": last or now()})

    def _apply(self, entry: dict[str, Any]) -> bool:
        """Deliver one entry; what MLflow will never take is set aside, and the rest goes on.

        Returns:
            Whether it was delivered, and not rejected as a whole.

        Raises:
            _TooEarlyError: something else is to be told first.
            _RunGoneError: the run was removed with its store meanwhile.
            Exception: MLflow cannot take it now, or something else answers in its place.
        """
        try:
            self._repeated(entry)
        except (StoreError, _TooEarlyError):
            raise
        except ContentError as error:
            self._reject(entry, str(error))
            return False
        except Exception as error:
            if not self._begun_anew and is_gone(error, self._state.run, self._state.parent):
                raise _RunGoneError from error
            if entry["kind"] not in _FILES:
                raise
            name = _file_name(entry)
            if rejects(error, name, Path(name).name, str(entry.get("key", ""))):
                self._reject(entry, str(error))
                return False
            if self._is_due(error):
                return self._try_last(entry, error)
            raise
        return True

    def _repeated(self, entry: dict[str, Any]) -> None:
        """Deliver an entry; send it again if a remote server's answer may be a passing one."""
        for pause in (*_PAUSES, None):
            try:
                self._deliver(entry)
                return
            except (StoreError, ContentError, _TooEarlyError):
                raise
            except Exception as error:
                gone = is_gone(error, self._state.run, self._state.parent)
                passing = is_remote() and not (gone or is_too_large(error))
                if pause is None or not passing or "timeout exception" in str(error):
                    raise
                time.sleep(pause)

    def _deliver(self, entry: dict[str, Any]) -> None:
        deliver = {
            "start": self._start,
            "metrics": self._metrics,
            "summary": self._summary,
            "tags": self._tags,
            "text": self._text,
            "artifact": self._artifact,
            "picture": self._picture,
            "model": self._model,
            "outcome": self._outcome,
            "end": self._end,
        }.get(entry["kind"])
        if deliver is None:
            raise ContentError(f"this version knows no entries of the kind {entry['kind']}")
        if not self._state.run and entry["kind"] not in ("start", "outcome", "end"):
            raise ContentError("the journal has no first entry that names a run")
        deliver(entry)

    def _is_due(self, error: Exception) -> bool:
        """Count a failed attempt at a file; return whether it is time for the last one."""
        if not is_remote() or not self._is_about_file(error):
            return False
        self._save(attempts=self._state.attempts + 1)
        return is_too_large(error) or self._state.attempts >= _ATTEMPTS

    def _is_about_file(self, error: Exception) -> bool:
        """Return whether an attempt failed for a reason that may lie in the file itself."""
        if is_access_denied(error) or is_of_machine(error):
            return False
        if not has_no_response(error):
            return True
        # Some proxies end the connection where others answer 413. The file counts as the reason
        # only if the server answers something else at the same time.
        try:
            self._mlflow.get_run(self._state.run)
        except Exception:
            return False
        return True

    def _try_last(self, entry: dict[str, Any], error: Exception) -> bool:
        """Set a file aside, if the server accepts a note in its place but not the file.

        The server may have recovered between the failed attempt and the note, so the file is
        sent once more after the note.

        Returns:
            Whether the file was delivered after all.

        Raises:
            Exception: the server does not accept the note either, so that all of it waits.
        """
        name = Path(_file_name(entry)).name
        try:
            write_note(self._mlflow, self._state.run, name, str(error))
        except Exception:
            raise error from None
        try:
            self._deliver(entry)
        except ContentError as again:
            self._reject(entry, str(again))
            return False
        except Exception as again:
            if not self._is_about_file(again):
                raise
            self._reject(entry, str(again))
            return False
        remove_note(self._mlflow, self._state.run, name)
        return True

    def _reject(self, entry: dict[str, Any], reason: str, part: str = "") -> None:
        """Set an entry or one part of it aside, with its file."""
        name = f"{self._journal.name}/{self._state.offset}"
        file = self._journal / entry["file"] if entry.get("file") else None
        about = {"stage": self._state.stage or entry.get("stage", ""), **entry}
        rejected.reject(self._root, f"{name}/{part}" if part else name, reason, about, file)

    def _save(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write_text(self._file, json.dumps(asdict(self._state)))

    def _start(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            stage, at, tags, parent = entry["stage"], entry["time"], dict(entry["tags"]), ""
            pipeline, parameters = entry["pipeline"], dict(entry["parameters"])
            named, continues = entry["experiment"], entry.get("continues", "")
            own = {k: v for k, v in parameters.items() if k.startswith(f"{stage}.")}
        client, experiment = client_of(self._root, named)
        self._save(experiment=named)  # or its first tags would open an experiment without a name
        if pipeline:
            key = (PARENT_KEY, self._pipeline)
            parent = find_or_create(client, experiment, pipeline, at, key, {})
            self._log_tags(parent, tags | {"mlflow.source.name": "dvc.yaml"})
            self._log_parameters(client, parent, parameters)
            client.update_run(parent, status="RUNNING")
            tags |= {"mlflow.parentRunId": parent}
        if continues:
            self._require_earlier_attempts(stage)
        key = (STAGE_KEY, continues or self._journal.name)
        first = {"atelier.stage": stage} | ({"mlflow.parentRunId": parent} if parent else {})
        run = find_or_create(client, experiment, stage, at, key, first)
        self._log_tags(run, tags | first, client)
        self._log_parameters(client, run, own)
        self._save(run=run, parent=parent, stage=stage, experiment=named)
        if continues:
            self._resume_run()

    def _require_earlier_attempts(self, stage: str) -> None:
        """Leave a continued run to its earlier attempts until all that those said is told."""
        store = recorded(self._journal.parent)
        for execution in executions(private_folder(self._root)):
            if recorded(execution) not in (None, store):
                continue  # it is delivered elsewhere, if ever
            for other in outboxes(execution):
                earlier = other.name < self._journal.name and other.name.split("-")[1] == stage
                if earlier and not is_open(other):
                    raise _TooEarlyError(f"an earlier attempt at {stage} is not delivered yet")

    def _resume_run(self) -> None:
        """Go on with a run that an earlier execution began: its steps are not logged again."""
        client, run = self._mlflow, self._state.run
        client.update_run(run, status="RUNNING")
        names = client.get_run(run).data.metrics
        histories = {name: client.get_metric_history(run, name) for name in names}
        self._save(logged={n: max(point.step for point in h) for n, h in histories.items()})

    def _metrics(self, entry: dict[str, Any]) -> None:
        logged = self._state.logged or {}
        with as_content_error():
            keys = [mlflow_names.key(name) for name in entry["names"]]
            points = [
                (key, value, at, step)
                for step, at, values in entry["rows"]
                for key, value in zip(keys, values, strict=True)
                if key.startswith("system/") or step > logged.get(key, -1)
            ]
        self._log_points(self._state.run, points)

    def _summary(self, entry: dict[str, Any]) -> None:
        # Named after the stage on both runs, so that a final number is no point of a curve.
        with as_content_error():
            points = [
                (mlflow_names.key(f"{self._state.stage}.{name}"), value, entry["time"], 0)
                for name, value in entry["values"].items()
            ]
        for run in filter(None, (self._state.run, self._state.parent)):
            self._log_points(run, points)

    def _tags(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            tags = dict(entry["tags"])
        self._log_tags(self._state.run, tags)

    def _text(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            content = mlflow_names.text(entry["text"])
            name = mlflow_names.artifact_path(entry["name"])
        for run in filter(None, (self._state.run, self._state.parent)):
            upload_text(self._mlflow, run, content, name)

    def _artifact(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            file = self._kept(entry)
            folder = "" if entry["folder"] in ("", ".") else f"{entry['folder']}/"
            path = mlflow_names.artifact_path(f"{folder}{file.name}")
        upload(self._mlflow, self._state.run, {path: file})

    def _picture(self, entry: dict[str, Any]) -> None:
        """Log an image under the name that MLflow's log_image gives it, but always the same.

        MLflow names it by a random number, so that one that is logged again, since an answer was
        lost or a deliverer killed, would be there twice.
        """
        from mlflow.tracking.multimedia import compress_image_size
        from PIL import Image

        with as_content_error(), TemporaryDirectory() as folder:
            file, step, at = self._kept(entry), int(entry["step"]), int(entry["time"])
            key = mlflow_names.image_key(entry["key"]).replace("/", "~")
            number = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._journal.name}/{entry['file']}")
            name = f"{key}+step+{step}+timestamp+{at}+{number}"
            small = Path(folder, f"{name}+compressed.webp")
            with Image.open(file) as image:
                compress_image_size(image.copy()).save(small)
            preview = small.read_bytes()
        with TemporaryDirectory() as folder:
            small = Path(folder, f"{name}+compressed.webp")
            small.write_bytes(preview)
            files = {f"images/{name}.png": file, f"images/{small.name}": small}
            upload(self._mlflow, self._state.run, files)
        self._log_tags(self._state.run, {"mlflow.loggedImages": "True"})

    def _model(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            file, loader = self._kept(entry), str(entry["loader"])
        log_model(self._mlflow, self._state.run, file, loader)

    def _kept(self, entry: dict[str, Any]) -> Path:
        """Return the file that an entry speaks of."""
        file = self._journal / str(entry["file"])
        if not file.is_file():
            raise ContentError(f"the file {entry['file']} is not in the journal any more")
        return file

    def _outcome(self, entry: dict[str, Any]) -> None:
        """Complete the pipeline's run; the entries after this one are its pictures."""
        with as_content_error():
            stages, named, at = entry["stages"], entry["experiment"], entry["time"]
        client, experiment = client_of(self._root, named)
        key = (PARENT_KEY, self._pipeline)
        parent = find_or_create(client, experiment, "pipeline", at, key, {})
        self._save(run=parent, experiment=named)
        remove_duplicates(client, experiment, key, parent)
        with suppress(Exception):  # only tidies up; colleagues' runs may not be ours to delete
            remove_late_duplicates(client, experiment)
        ran = stages_of(client, parent)
        for run in ran.values():
            own = (STAGE_KEY, run.data.tags[STAGE_KEY])
            remove_duplicates(client, experiment, own, run.info.run_id)
        complete_parent_run(client, parent, stages, self)
        evaluation = ran.get("evaluate")
        if evaluation and "evaluate" in stages:
            log_evaluation(client, stages["evaluate"], evaluation.info.run_id, self)

    def _register(self) -> None:
        """Register the model that a pipeline's evaluation judged, as its settings say."""
        first, _ = next(entries(self._journal), ({}, 0))
        name, evaluate = "", None
        with suppress(ContentError), as_content_error():  # of an outcome, which was rejected then
            name = first["parameters"].get("tracking.registered_model", "")
            evaluate = first["stages"].get("evaluate")
        evaluation = stages_of(self._mlflow, self._state.run).get("evaluate")
        if not (name and evaluate and evaluation):
            return
        try:
            register_model(self._mlflow, evaluate, evaluation.info.run_id, name)
        except Exception as error:
            if not rejects(error, name, mlflow_names.model_name(name)):
                raise
            self._reject({"kind": "register", "register": name}, str(error), "register")

    def _end(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import RunStatus

        with as_content_error():
            status, at = entry["status"], _timestamp(entry["time"])
            RunStatus.from_string(status)
        if self._state.run and self._state.stage:
            self._end_stage(status, at)
        elif self._state.run:
            # The last stage's end has ended the pipeline's run, unless the outcome created it.
            client = self._mlflow
            if client.get_run(self._state.run).info.status == "RUNNING":
                client.set_terminated(self._state.run, status, at)
            # Last, since only some users of a team's server may register models.
            self._register()
        self._save(ended=True)

    def _end_stage(self, status: str, at: int) -> None:
        """End a stage's run and, as far as it has come, the pipeline's."""
        client, experiment = client_of(self._root, self._state.experiment)
        client.set_terminated(self._state.run, status, at)
        if self._state.parent:
            # With `dvc repro -k` stages go on after one that failed.
            others = stages_of(client, self._state.parent).values()
            bad = [run.info.status for run in others if run.info.status in _REJECTED_FOLDER]
            client.set_terminated(self._state.parent, (bad or [status])[0], at)
            key = (PARENT_KEY, self._pipeline)
            remove_duplicates(client, experiment, key, self._state.parent)
        own = client.get_run(self._state.run).data.tags.get(STAGE_KEY, "")
        if own:
            remove_duplicates(client, experiment, (STAGE_KEY, own), self._state.run)

    def _log_points(self, run: str, points: Iterable[tuple[str, Any, Any, Any]]) -> None:
        self.log_metrics(self._mlflow, run, points)

    def _log_tags(
        self, run: str, tags: Mapping[str, str], client: "MlflowClient | None" = None
    ) -> None:
        self.log_tags(client or self._mlflow, run, tags)

    def log_metrics(
        self,
        client: "MlflowClient",
        run: str,
        points: Iterable[tuple[str, Any, Any, Any]],
        model: str | None = None,
    ) -> None:
        """Log (legal name, value, milliseconds, step), but for points that MLflow rejects."""
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        for key, value, at, step in points:
            try:
                metrics.append(Metric(key, *_metric_point(value, at, step), model_id=model))
            except (TypeError, ValueError, OverflowError) as error:
                about = {"metric": key, "value": value, "time": at, "step": step, "run": run}
                place = f"{run}/metric/{key}/{step}/{at}"
                self._reject({"kind": "metric", **about}, str(error), place)
        for part in _split_text(metrics, 1000, lambda metric: len(metric.key) + 60):
            self._send(
                part,
                lambda some: client.log_batch(run, metrics=some),
                lambda metric: (metric.key,),
                lambda metric: {
                    "metric": metric.key,
                    "value": metric.value,
                    "time": metric.timestamp,
                    "step": metric.step,
                    "run": run,
                },
            )

    def log_tags(self, client: "MlflowClient", run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, but for those that MLflow rejects; names are made legal here."""
        from mlflow.entities import RunTag

        legal = [
            RunTag(mlflow_names.key(name), mlflow_names.tag(str(value)))
            for name, value in tags.items()
        ]
        for part in _split_text(legal, 100, lambda tag: len(tag.key) + len(tag.value)):
            self._send(
                part,
                lambda some: client.log_batch(run, tags=some),
                lambda tag: (tag.key, tag.value),
                lambda tag: {"tag": tag.key, "value": tag.value, "run": run},
            )

    def _log_parameters(
        self, client: "MlflowClient", run: str, parameters: Mapping[str, str]
    ) -> None:
        """Log parameters that the run does not have yet; what is logged cannot be changed."""
        from mlflow.entities import Param

        known = client.get_run(run).data.params
        legal = [
            Param(mlflow_names.key(name), mlflow_names.parameter(str(value)))
            for name, value in parameters.items()
        ]
        new = [parameter for parameter in legal if parameter.key not in known]
        for part in _split_text(new, 100, lambda param: len(param.key) + len(param.value)):
            self._send(
                part,
                lambda some: client.log_batch(run, params=some),
                lambda param: (param.key, param.value),
                lambda param: {"parameter": param.key, "value": param.value, "run": run},
            )

    def _send(
        self,
        items: Sequence[_T],
        send: Callable[[Sequence[_T]], object],
        names: Callable[[_T], Sequence[str]],
        about: Callable[[_T], dict[str, Any]],
    ) -> None:
        """Send a part of an entry, and set aside what MLflow rejects of it."""

        def reject(item: _T, error: Exception) -> None:
            fields = about(item)
            if is_too_large(error) and not self._is_never_taken(
                lambda: send([item]), fields["run"]
            ):
                return
            kind, *_ = fields
            # Two points of a curve have the same name.
            place = [str(fields[key]) for key in ("step", "time") if key in fields]
            part = "/".join((fields["run"], kind, names(item)[0], *place))
            self._reject({"kind": kind, **fields}, str(error), part)

        send_in_parts(items, send, reject, names)

    def _is_never_taken(self, send: Callable[[], object], run: str) -> bool:
        """Return whether a server takes others, but never this item, which it calls too large.

        Raises:
            Exception: it takes no others either, or this one fails for another reason.
        """
        from mlflow.entities import RunTag

        for last in (False, True):
            try:
                send()
            except Exception as error:
                if not is_too_large(error):
                    raise
                if last:
                    return True
                # As with files: whoever looks at the run sees that something is missing.
                self._mlflow.log_batch(run, tags=[RunTag("atelier.rejected", "true")])
            else:
                return False
        return True

    def log_datasets(self, client: "MlflowClient", run: str, datasets: Sequence[Any]) -> None:
        """Log what a run read, but for datasets that MLflow rejects."""
        self._send(
            datasets,
            lambda some: client.log_inputs(run, datasets=list(some)),
            lambda item: (item.dataset.name, item.dataset.digest),
            lambda item: {"dataset": item.dataset.name, "run": run},
        )


def _metric_point(value: Any, at: Any, step: Any) -> tuple[float, int, int]:
    """Return a point of a curve as MLflow takes it: value, milliseconds and step.

    Raises:
        TypeError: one of them is no number.
        ValueError: one of them is out of range.
        OverflowError: likewise.
    """
    if not isinstance(value, (int, float)):
        raise TypeError(f"the value {value!r} is no number")
    if abs(int(step)) > _LARGEST_INTEGER:
        raise ValueError(f"the step {step} is out of range")
    return float(value), _timestamp(at), int(step)


def _timestamp(milliseconds: Any) -> int:
    """Return a time of an entry as MLflow takes it.

    Raises:
        ValueError: it is none.
    """
    moment = int(milliseconds)
    if not 0 <= moment <= _LARGEST_INTEGER:
        raise ValueError(f"{moment} is no time in milliseconds since 1970")
    return moment


def _file_name(entry: Mapping[str, Any]) -> str:
    """Return the name of an entry's file."""
    return str(entry.get("file") or entry.get("name") or entry["kind"])


def _split_text(
    items: Sequence[_T], most: int, length: Callable[[_T], int]
) -> Iterator[Sequence[_T]]:
    """Split into as many as MLflow takes in one request."""
    part: list[_T] = []
    total = 0
    for item in items:
        if part and (len(part) == most or total + length(item) > _LARGEST_REQUEST):
            yield part
            part, total = [], 0
        part.append(item)
        total += length(item)
    if part:
        yield part
