"""Delivery of one outbox to MLflow: every entry once and in order, also after interruptions."""

import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.tracking import mlflow_names, rejected, uploads
from atelier.tracking.batch_logger import BatchLogger, timestamp
from atelier.tracking.delivery_state import DeliveryState
from atelier.tracking.environment import OF_STUDY, private_folder
from atelier.tracking.links import record_links
from atelier.tracking.metric_names import current_metric
from atelier.tracking.mlflow_errors import (
    ContentError,
    as_content_error,
    has_no_response,
    is_access_denied,
    is_gone,
    is_of_machine,
    is_too_large,
    rejects,
)
from atelier.tracking.models import log_evaluation, log_model, register_model
from atelier.tracking.outbox import (
    DELIVERED,
    entries,
    has_earlier_attempt,
    is_open,
    now,
    remove,
)
from atelier.tracking.pipeline_run import (
    PARENT_KEY,
    STAGE_KEY,
    complete_parent_run,
    find_or_create,
    find_stage_runs,
    remove_duplicates,
    remove_late_duplicates,
    stages_of,
)
from atelier.tracking.renamed import current_loader, current_parameters
from atelier.tracking.run_start import RunStart
from atelier.tracking.store import StoreError, client_of, is_remote
from atelier.tracking.study_run import study_run
from atelier.tracking.titles import Title

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_FAILED = ("FAILED", "KILLED")
_KINDS_WITH_FILE = ("text", "artifact", "picture", "model")
# Seconds before a request to a remote server is sent again.
_PAUSES = (0.3, 1.0)
# After this many attempts a file is rejected, if the server accepts other requests.
_MAX_ATTEMPTS = 5


class _RunGoneError(Exception):
    """Raised if the run that an outbox is delivered to was deleted."""


class _TooEarlyError(AtelierError):
    """Raised if an earlier attempt at the same work is not delivered yet."""


class Delivery:
    """Delivers a stage's outbox to its run and the parent run, or an outcome to the parent run."""

    def __init__(self, root: Path, pipeline: str, outbox: Path) -> None:
        """Load the progress of an earlier delivery of the same outbox.

        Args:
            root: the main project.
            pipeline: name of the execution's folder; a tag with it identifies the parent run.
            outbox: the outbox's folder.
        """
        self.delivered = 0
        self._root = root
        self._pipeline = pipeline
        self._outbox = outbox
        self._restarted = False
        self._file = outbox / DELIVERED
        self._state = DeliveryState.load(self._file)

    def _client(self) -> "MlflowClient":
        """Return the client of the store, which the first call opens."""
        return client_of(self._root, self._state.experiment)[0]

    def _log(self) -> BatchLogger:
        return BatchLogger(self._client(), self._reject)

    def deliver_pending(self) -> None:
        """Deliver all pending entries; after the last one, remove the outbox."""
        # Checked before reading, so that entries written before the stage's end are included.
        more_may_come = is_open(self._outbox)
        try:
            self._deliver_batch(more_may_come)
        except _RunGoneError:
            self._restarted = True
            self.delivered = 0
            self._state = DeliveryState()
            self._save()
            self._deliver_batch(more_may_come)
        if self._state.ended:
            remove(self._outbox)

    def _deliver_batch(self, more_may_come: bool) -> None:
        last = 0
        for entry, offset in entries(self._outbox, self._state.offset):
            is_delivered = self._apply(entry)
            with suppress(TypeError, ValueError, OverflowError):
                last = timestamp(entry["time"])
            self._save(offset=offset, attempts=0)
            self.delivered += is_delivered
        if not more_may_come and not self._state.ended:
            self._apply({"kind": "end", "status": "KILLED", "time": last or now()})

    def _apply(self, entry: dict[str, Any]) -> bool:
        """Deliver one entry, or reject it if MLflow will never accept it.

        Returns:
            True if it was delivered, False if it was rejected as a whole.

        Raises:
            _TooEarlyError: another outbox must be delivered first.
            _RunGoneError: the run was deleted.
            Exception: MLflow does not accept it now, or another server responds.
        """
        try:
            self._deliver_with_retries(entry)
        except (StoreError, _TooEarlyError):
            raise
        except ContentError as error:
            self._reject(entry, str(error))
            return False
        except Exception as error:
            if not self._restarted and is_gone(error, self._state.run, self._state.parent):
                raise _RunGoneError from error
            if entry["kind"] not in _KINDS_WITH_FILE:
                raise
            name = _file_name(entry)
            if rejects(error, name, Path(name).name, str(entry.get("key", ""))):
                self._reject(entry, str(error))
                return False
            if self._is_last_attempt(error):
                return self._deliver_or_reject(entry, error)
            raise
        return True

    def _deliver_with_retries(self, entry: dict[str, Any]) -> None:
        """Deliver an entry; retry if a remote server's error may be temporary."""
        for pause in (*_PAUSES, None):
            try:
                self._deliver(entry)
                return
            except (StoreError, ContentError, _TooEarlyError):
                raise
            except Exception as error:
                gone = is_gone(error, self._state.run, self._state.parent)
                temporary = is_remote() and not (gone or is_too_large(error))
                if pause is None or not temporary or "timeout exception" in str(error):
                    raise
                time.sleep(pause)

    def _deliver(self, entry: dict[str, Any]) -> None:
        match entry["kind"]:
            case "start":
                self._start(entry)
            case "outcome":
                self._outcome(entry)
            case "end":
                self._end(entry)
            case _ if not self._state.run:
                raise ContentError("the outbox has no first entry that names a run")
            case "metrics":
                self._metrics(entry)
            case "summary":
                self._summary(entry)
            case "tags":
                with as_content_error():
                    tags, outboxes = dict(entry["tags"]), dict(entry.get("runs", {}))
                self._log().log_tags(self._state.run, tags | self._run_ids(outboxes))
            case "text":
                self._text(entry)
            case "artifact":
                self._artifact(entry)
            case "picture":
                self._picture(entry)
            case "model":
                with as_content_error():
                    file, loader = self._file_of(entry), current_loader(str(entry["loader"]))
                log_model(self._client(), self._state.run, file, loader)
            case kind:
                raise ContentError(f"this version knows no entries of the kind {kind}")

    def _is_last_attempt(self, error: Exception) -> bool:
        """Count a failed attempt at a file; return True if only one more attempt is left."""
        if not is_remote() or not self._is_about_file(error):
            return False
        self._save(attempts=self._state.attempts + 1)
        return is_too_large(error) or self._state.attempts >= _MAX_ATTEMPTS

    def _is_about_file(self, error: Exception) -> bool:
        """Return True if the file itself may be the reason for a failed attempt."""
        if is_access_denied(error) or is_of_machine(error):
            return False
        if not has_no_response(error):
            return True
        # Some proxies close the connection where others respond with 413. The file counts as the
        # reason only if the server responds to another request at the same time.
        try:
            self._client().get_run(self._state.run)
        except Exception:
            return False
        return True

    def _deliver_or_reject(self, entry: dict[str, Any], error: Exception) -> bool:
        """Deliver a file, or reject it if the server accepts a note in its place.

        The server may have recovered between the failed attempt and the note. Therefore the file
        is sent once more after the note.

        Returns:
            True if the file was delivered.

        Raises:
            Exception: the server does not accept the note either.
        """
        name = Path(_file_name(entry)).name
        try:
            uploads.write_note(self._client(), self._state.run, name, str(error))
        except Exception:
            raise error from None
        try:
            self._deliver(entry)
        except ContentError as last_error:
            self._reject(entry, str(last_error))
            return False
        except Exception as last_error:
            if not self._is_about_file(last_error):
                raise
            self._reject(entry, str(last_error))
            return False
        uploads.remove_note(self._client(), self._state.run, name)
        return True

    def _reject(self, entry: dict[str, Any], reason: str, part: str = "") -> None:
        """Record a rejected entry or a part of it, and keep its file."""
        name = f"{self._outbox.name}/{self._state.offset}"
        file = self._outbox / entry["file"] if entry.get("file") else None
        fields = {"stage": self._state.stage or entry.get("stage", ""), **entry}
        rejected.reject(self._root, f"{name}/{part}" if part else name, reason, fields, file)

    def _save(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        self._state.save(self._file)

    def _start(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            start = RunStart.from_entry(entry)
        client, experiment = client_of(self._root, start.experiment)
        self._save(experiment=start.experiment)  # the client of the next requests depends on it
        parent, tags = "", start.run_tags()
        if start.pipeline:
            parent = self._start_parent(start, experiment)
            tags |= {"mlflow.parentRunId": parent}
        if start.continues:
            self._require_earlier_attempts(start.stage)
        key = (STAGE_KEY, start.continues or self._outbox.name)
        first = {"atelier.stage": start.stage} | ({"mlflow.parentRunId": parent} if parent else {})
        run = find_or_create(client, experiment, start.run_name(), start.time, key, first)
        self._log().log_tags(run, tags | first)
        self._log().log_parameters(run, start.run_parameters())
        self._save(run=run, parent=parent, stage=start.stage)
        if parent:
            record_links(self._root, self._outbox.parent, experiment, parent)
        if start.continues:
            self._resume_run()

    def _start_parent(self, start: RunStart, experiment: str) -> str:
        """Create or reopen the pipeline's run, and return its id."""
        client, key = self._client(), (PARENT_KEY, self._pipeline)
        experiment_name = start.tags.get("dvc.experiment", "")
        name = start.title.run_name(experiment=experiment_name) if start.title else ""
        name = name or start.pipeline
        parent = find_or_create(client, experiment, name, start.time, key, {})
        tags = start.tags | {"mlflow.source.name": "dvc.yaml"}
        if study := start.tags.get(OF_STUDY):
            tags |= {"mlflow.parentRunId": study_run(client, experiment, study, start.time)}
        self._log().log_tags(parent, tags)
        self._log().log_parameters(parent, start.parameters)
        client.update_run(parent, status="RUNNING")
        return parent

    def _resume_run(self) -> None:
        """Reopen a run that an earlier execution started; its steps are not logged again."""
        client, run = self._client(), self._state.run
        client.update_run(run, status="RUNNING")
        names = client.get_run(run).data.metrics
        histories = {name: client.get_metric_history(run, name) for name in names}
        self._save(logged={n: max(point.step for point in h) for n, h in histories.items()})

    def _metrics(self, entry: dict[str, Any]) -> None:
        logged = self._state.logged or {}
        with as_content_error():
            keys = [mlflow_names.key(current_metric(name)) for name in entry["names"]]
            points = [
                (key, value, at, step)
                for step, at, values in entry["rows"]
                for key, value in zip(keys, values, strict=True)
                if key.startswith("system/") or step > logged.get(key, -1)
            ]
        self._log().log_metrics(self._state.run, points)

    def _summary(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            # Entries of earlier versions have no section.
            section = f"{entry['section']}/" if "section" in entry else f"{self._state.stage}."
            points = [
                (mlflow_names.key(current_metric(f"{section}{name}")), value, entry["time"], 0)
                for name, value in entry["values"].items()
            ]
        self._log().log_metrics(self._state.run, points)

    def _run_ids(self, outboxes: Mapping[str, str]) -> dict[str, str]:
        """Return the ids of the runs that belong to outboxes; without those that do not exist."""
        runs = find_stage_runs(*client_of(self._root, self._state.experiment), outboxes)
        if "" in runs.values():
            self._require_earlier_attempts(self._state.stage)
        return {tag: run for tag, run in runs.items() if run}

    def _require_earlier_attempts(self, stage: str) -> None:
        if has_earlier_attempt(private_folder(self._root), self._outbox, stage):
            raise _TooEarlyError(f"an earlier attempt at {stage} is not delivered yet")

    def _text(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            content = mlflow_names.text(entry["text"])
            name = mlflow_names.artifact_path(entry["name"])
            parent = "" if entry.get("own") else self._state.parent
        for run in filter(None, (self._state.run, parent)):
            uploads.upload_text(self._client(), run, content, name)

    def _artifact(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            file = self._file_of(entry)
            folder = "" if entry["folder"] in ("", ".") else f"{entry['folder']}/"
            path = mlflow_names.artifact_path(f"{folder}{file.name}")
        uploads.upload(self._client(), self._state.run, {path: file})

    def _picture(self, entry: dict[str, Any]) -> None:
        with as_content_error():
            image = uploads.LoggedImage(
                file=self._file_of(entry),
                key=mlflow_names.image_key(entry["key"]),
                step=int(entry["step"]),
                time=int(entry["time"]),
                unique=uuid.uuid5(uuid.NAMESPACE_URL, f"{self._outbox.name}/{entry['file']}"),
            )
        uploads.upload_image(self._client(), self._state.run, image)
        self._log().log_tags(self._state.run, {"mlflow.loggedImages": "True"})

    def _file_of(self, entry: dict[str, Any]) -> Path:
        """Return the file that was attached to an entry."""
        file = self._outbox / str(entry["file"])
        if not file.is_file():
            raise ContentError(f"the file {entry['file']} is missing in the outbox")
        return file

    def _outcome(self, entry: dict[str, Any]) -> None:
        """Complete the pipeline's run; the entries that follow are its images."""
        with as_content_error():
            stages, name, at = entry["stages"], entry["experiment"], entry["time"]
            title = Title.from_json(entry)
        client, experiment = client_of(self._root, name)
        key = (PARENT_KEY, self._pipeline)
        parent = find_or_create(client, experiment, "pipeline", at, key, {})
        self._save(run=parent, experiment=name)
        remove_duplicates(client, experiment, key, parent)
        with suppress(Exception):  # the user may lack the permission to delete these runs
            remove_late_duplicates(client, experiment)
        ran = stages_of(client, parent)
        for run in ran.values():
            own = (STAGE_KEY, run.data.tags[STAGE_KEY])
            remove_duplicates(client, experiment, own, run.info.run_id)
        complete_parent_run(client, parent, stages, self._log(), title, bool(entry.get("report")))
        evaluation = ran.get("evaluate")
        if evaluation and "evaluate" in stages:
            log_evaluation(client, stages["evaluate"], evaluation.info.run_id, self._log())

    def _register(self) -> None:
        """Register the model that the pipeline evaluated, if its settings name one."""
        first, _ = next(entries(self._outbox), ({}, 0))
        name, evaluate = "", None
        with suppress(ContentError), as_content_error():  # such an outcome was rejected before
            parameters = current_parameters(first["parameters"])
            name = parameters.get("tracking.registered_model", "")
            evaluate = first["stages"].get("evaluate")
        evaluation = stages_of(self._client(), self._state.run).get("evaluate")
        if not (name and evaluate and evaluation):
            return
        try:
            register_model(self._client(), evaluate, evaluation.info.run_id, name)
        except Exception as error:
            if not rejects(error, name, mlflow_names.model_name(name)):
                raise
            self._reject({"kind": "register", "register": name}, str(error), "register")

    def _end(self, entry: dict[str, Any]) -> None:
        from mlflow.entities import RunStatus

        with as_content_error():
            status, at = entry["status"], timestamp(entry["time"])
            RunStatus.from_string(status)
        if self._state.run and self._state.stage:
            self._end_stage(status, at)
        elif self._state.run:
            # The last stage has ended the pipeline's run, unless the outcome created it.
            client = self._client()
            if client.get_run(self._state.run).info.status == "RUNNING":
                client.set_terminated(self._state.run, status, at)
            # Last, because a team's server may let only some users register models.
            self._register()
        self._save(ended=True)

    def _end_stage(self, status: str, at: int) -> None:
        """End a stage's run, and the pipeline's run until another stage reopens it."""
        client, experiment = client_of(self._root, self._state.experiment)
        client.set_terminated(self._state.run, status, at)
        if self._state.parent:
            # With `dvc repro -k`, stages run after one that failed.
            others = stages_of(client, self._state.parent).values()
            failed = [run.info.status for run in others if run.info.status in _FAILED]
            client.set_terminated(self._state.parent, (failed or [status])[0], at)
            key = (PARENT_KEY, self._pipeline)
            remove_duplicates(client, experiment, key, self._state.parent)
        own = client.get_run(self._state.run).data.tags.get(STAGE_KEY, "")
        if own:
            remove_duplicates(client, experiment, (STAGE_KEY, own), self._state.run)


def _file_name(entry: Mapping[str, Any]) -> str:
    """Return the name of an entry's file."""
    return str(entry.get("file") or entry.get("name") or entry["kind"])
