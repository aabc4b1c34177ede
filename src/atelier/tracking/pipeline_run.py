"""Runs of a pipeline execution: their lookup, the parent run, and links by content hash.

Each run has a unique tag, by which it is found again, so that it is created once. Each run of a
stage is also tagged with the hashes of its inputs and outputs, as DVC writes them to ``dvc.lock``.
So the run that made a file is found by the file's hash, even if DVC restored the file from its
cache.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atelier.tracking import mlflow_names
from atelier.tracking.links import TRAINING
from atelier.tracking.metric_names import pipeline_metrics
from atelier.tracking.mlflow_errors import is_access_denied
from atelier.tracking.renamed import current_parameters
from atelier.tracking.titles import Title

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from atelier.tracking.batch_logger import BatchLogger

PARENT_KEY = "atelier.pipeline"
STAGE_KEY = "atelier.journal"
_Stages = Mapping[str, Mapping[str, Any]]
# This stage lists folders of images in every execution; it has no run.
_WITHOUT_RUN = "watch"


def complete_parent_run(
    client: "MlflowClient",
    parent: str,
    stages: _Stages,
    log: "BatchLogger",
    title: Title | None = None,
    has_report: bool = False,
) -> None:
    """Log DVC's records of all stages to a parent run and its children.

    Args:
        client: client of the store.
        parent: id of the parent run.
        stages: by name and in order: ``inputs`` and ``outputs``, hashes by path, and ``metrics``.
        log: logger of the same store.
        title: of the pipeline; the run gets its name and number of images.
        has_report: True if the report page is an artifact of the run.
    """
    stages = {n: s for n, s in stages.items() if n.partition("@")[0] != _WITHOUT_RUN}
    ran = stages_of(client, parent)
    rows: list[tuple[str, str, Run | None]] = []
    for name, stage in stages.items():
        run = ran.get(name)
        if run and run.info.status == "FINISHED":
            _tag_content(client, run.info.run_id, stage, log)
            rows.append((name, "ran", run))
        else:
            producer = find_producer(client, stage["outputs"])
            run_id = producer.info.run_id if producer else "unknown"
            log.log_tags(parent, {f"restored.{name}": run_id})
            rows.append((name, "restored", producer))
    for status in ("ran", "restored"):
        names = [name for name, row_status, _ in rows if row_status == status]
        log.log_tags(parent, {f"stages.{status}": " ".join(names)})
    head = client.get_run(parent)
    points = [(n, v, head.info.start_time, 0) for n, v in pipeline_metrics(stages).items()]
    log.log_metrics(parent, points)
    if title:
        images = stages.get("convert", {}).get("metrics", {}).get("images")
        count = None if images is None else round(images)
        experiment = head.data.tags.get("dvc.experiment", "")
        name = title.run_name(count, _previous_settings(client, head), experiment)
        log.log_tags(parent, {"mlflow.runName": mlflow_names.run_name(name)})
    log.log_tags(parent, {"mlflow.note.content": _note(head, rows, has_report)})


def _previous_settings(client: "MlflowClient", head: "Run") -> dict[str, str]:
    """Return all settings of this clone's pipeline before; empty if it is the first one."""
    clone = head.data.tags.get("atelier.clone", "")
    found = client.search_runs(
        [head.info.experiment_id],
        f"tags.`{PARENT_KEY}` != '' and tags.`atelier.clone` = '{clone}'"
        f" and attributes.start_time < {head.info.start_time}",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return current_parameters(found[0].data.params) if found else {}


def stages_of(client: "MlflowClient", parent: str) -> "dict[str, Run]":
    """Return the runs of the stages of a parent run, by stage.

    Runs that users nested there, e.g. from a notebook, are ignored. Of several runs of one stage
    the latest is returned, preferably one that has ended.
    """
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}' and tags.`atelier.stage` != ''"
    )
    ours = [run for run in found if run.data.tags.get(STAGE_KEY)]
    ours.sort(key=lambda run: (run.info.status != "RUNNING", run.info.start_time))
    return {run.data.tags["atelier.stage"]: run for run in ours}


def find_producer(client: "MlflowClient", outputs: Mapping[str, str]) -> "Run | None":
    """Return the first finished run whose outputs have these hashes (or `abc%`) by path."""
    keys = {mlflow_names.key(f"output.{path}"): hash_ for path, hash_ in outputs.items()}
    conditions = [f"tags.`{key}` LIKE '{hash_}'" for key, hash_ in keys.items()]
    if not conditions:
        return None
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        " and ".join(["attributes.status = 'FINISHED'", *conditions]),
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def _tag_content(
    client: "MlflowClient", run: str, stage: Mapping[str, Any], log: "BatchLogger"
) -> None:
    """Tag a run with the hashes of its inputs and outputs, and log its inputs as datasets."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = {
        f"{kind}.{path}": hash_
        for kind in ("input", "output")
        for path, hash_ in stage[f"{kind}s"].items()
    }
    log.log_tags(run, tags)
    datasets = [
        DatasetInput(
            Dataset(
                mlflow_names.key(path),
                hash_[:36],
                "dvc",
                mlflow_names.text(json.dumps({"path": path, "md5": hash_})),
            ),
            [InputTag("mlflow.data.context", "input")],
        )
        for path, hash_ in stage["inputs"].items()
    ]
    if datasets:
        log.log_datasets(run, datasets)


def _note(head: "Run", rows: "list[tuple[str, str, Run | None]]", has_report: bool) -> str:
    """Return the parent's description in Markdown: link to its report, and its stages.

    Args:
        head: the parent run.
        rows: name and status of each stage, and the run that made its outputs.
        has_report: True if the report page is an artifact of the run.
    """
    page = f"#/experiments/{head.info.experiment_id}/runs/{head.info.run_id}"
    lines = [f"[Report]({page}/artifacts/report.html?{TRAINING})", ""] if has_report else []
    lines += ["| stage | in this execution | made by |", "|---|---|---|"]
    for name, status, run in rows:
        link = "a run that this store does not have"
        if run:
            address = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            link = f"[{run.info.run_id[:8]}]({address}?{TRAINING})"
        lines.append(f"| {name} | {status} | {link} |")
    return "\n".join(lines)


def find_or_create(
    client: "MlflowClient",
    experiment: str,
    name: str,
    at: int,
    key: tuple[str, str],
    tags: dict[str, str],
) -> str:
    """Return the id of the run with the tag ``key``; create the run if there is none.

    If creating it fails, it is looked up again, because the response may have been lost.

    Args:
        client: client of the store.
        experiment: id of the experiment.
        name: name of a new run.
        at: start of a new run, in milliseconds.
        key: name and value of the tag; no other run has it.
        tags: more tags of a new run.

    Raises:
        ConnectionError: the response contains no id of a run.
    """
    tag, value = key
    found = _runs_with_tag(client, experiment, key)
    if not found:
        legal = {k: mlflow_names.tag(v) for k, v in (tags | {tag: value}).items()}
        try:
            run = client.create_run(experiment, at, legal, mlflow_names.run_name(name))
            found = [run]
        except Exception:
            found = _runs_with_tag(client, experiment, key)
            if not found:
                raise
    run_id = str(found[0].info.run_id)
    if not run_id:  # a server that responds with `{}` to every request
        raise ConnectionError("the server's answer names no run; it is no MLflow server")
    return run_id


def find_stage_runs(
    client: "MlflowClient", experiment: str, outboxes: Mapping[str, str]
) -> dict[str, str]:
    """Return the ids of stages' runs by key; empty if there is no run.

    Args:
        client: client of the store.
        experiment: id of the experiment.
        outboxes: name of the outbox that started each run, by key.
    """
    found = {
        key: _runs_with_tag(client, experiment, (STAGE_KEY, outbox))
        for key, outbox in outboxes.items()
    }
    return {key: str(runs[0].info.run_id) if runs else "" for key, runs in found.items()}


def remove_duplicates(
    client: "MlflowClient", experiment: str, key: tuple[str, str], run_id: str
) -> None:
    """Delete empty runs with the tag of ``run_id``, which requests created although they failed."""
    for run in _runs_with_tag(client, experiment, key):
        if run.info.run_id != run_id:
            _delete_if_empty(client, run, key[0])


def remove_late_duplicates(client: "MlflowClient", experiment: str) -> None:
    """Delete empty runs that delayed requests created after the execution was delivered."""
    for tag in (PARENT_KEY, STAGE_KEY):
        running = f"attributes.status = 'RUNNING' and tags.`{tag}` != ''"
        for run in client.search_runs([experiment], running, max_results=100):
            key = (tag, run.data.tags[tag])
            ended = [
                r for r in _runs_with_tag(client, experiment, key) if r.info.status != "RUNNING"
            ]
            if ended:
                _delete_if_empty(client, run, tag)


def _delete_if_empty(client: "MlflowClient", run: "Run", tag: str) -> None:
    """Delete a duplicate without metrics and parameters.

    A team's server may let only some users delete runs. For others the duplicate's tag is deleted,
    so that the run is not found by it.
    """
    if run.data.metrics or run.data.params:
        return
    run_id = run.info.run_id
    client.set_terminated(run_id, "KILLED")
    try:
        client.delete_run(run_id)
    except Exception as error:
        if not is_access_denied(error):
            raise
        try:
            client.delete_tag(run_id, tag)
        except Exception as tag_error:
            # The duplicate stays; the lookup prefers the run with more logged values.
            if not is_access_denied(tag_error):
                raise


def _runs_with_tag(client: "MlflowClient", experiment: str, key: tuple[str, str]) -> "list[Run]":
    """Return the runs with a tag; those with more logged values first, then older ones."""
    tag, value = key
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=20)

    def order(run: "Run") -> tuple[int, int, str]:
        logged = len(run.data.metrics) + len(run.data.params) + len(run.data.tags)
        return -logged, run.info.start_time, run.info.run_id

    return sorted(found, key=order)
