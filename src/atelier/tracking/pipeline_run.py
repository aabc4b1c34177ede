"""Parent run of a pipeline execution, and links between runs by content hash.

Each run of a stage is tagged with the hashes of its inputs and outputs, as DVC writes them to
``dvc.lock``. So the run that made a file is found by the file's hash, even if DVC restored the file
from its cache.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from atelier.tracking import mlflow_names
from atelier.tracking.run_lookup import STAGE_KEY

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from atelier.tracking.batch_logger import BatchLogger

_Stages = Mapping[str, Mapping[str, Any]]
# This stage lists folders of images in every execution; it has no run.
_WITHOUT_RUN = "watch"


def complete_parent_run(
    client: "MlflowClient", parent: str, stages: _Stages, log: "BatchLogger"
) -> None:
    """Log DVC's records of all stages to a parent run and its children.

    Args:
        client: client of the store.
        parent: id of the parent run.
        stages: by name and in order: ``inputs`` and ``outputs``, hashes by path, and ``metrics``.
        log: logger of the same store.
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
            _log_numbers(client, parent, name, stage["metrics"], log)
            rows.append((name, "restored", producer))
    for status in ("ran", "restored"):
        names = [name for name, row_status, _ in rows if row_status == status]
        log.log_tags(parent, {f"stages.{status}": " ".join(names)})
    log.log_tags(parent, {"mlflow.note.content": _note(rows)})


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


def _log_numbers(
    client: "MlflowClient", parent: str, stage: str, values: Mapping[str, float], log: "BatchLogger"
) -> None:
    """Log the final metrics of a stage that did not run to the parent run."""
    at = client.get_run(parent).info.start_time
    points = [(mlflow_names.key(f"{stage}.{name}"), value, at, 0) for name, value in values.items()]
    log.log_metrics(parent, points)


def _note(rows: "list[tuple[str, str, Run | None]]") -> str:
    """Return the parent's description: a Markdown table of stages with links to their runs."""
    lines = ["| stage | in this execution | made by |", "|---|---|---|"]
    for name, status, run in rows:
        link = "a run that this store does not have"
        if run:
            address = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            link = f"[{run.info.run_id[:8]}]({address})"
        lines.append(f"| {name} | {status} | {link} |")
    return "\n".join(lines)
