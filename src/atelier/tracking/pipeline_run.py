"""What MLflow is told of a whole pipeline execution: its parent run, and the ties of content.

Content is the only tie between runs: every run of a stage is tagged with the hash of each
input and output, as DVC writes them to ``dvc.lock``, so that the run that made a file is
found by the file's hash, also where DVC brought the file from its cache.
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
# Looks at folders of pictures at every execution; it never has a run.
_WITHOUT_RUN = "watch"


def complete_parent_run(
    client: "MlflowClient", parent: str, stages: _Stages, log: "BatchLogger"
) -> None:
    """Complete a parent run and its children by what DVC recorded.

    Args:
        client: where to.
        parent: id of the parent run.
        stages: by name, in order: ``inputs`` and ``outputs``, hashes by path, and ``metrics``.
        log: how to log to a run.
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
            maker = find_producer(client, stage["outputs"])
            made_by = maker.info.run_id if maker else "unknown"
            log.log_tags(parent, {f"restored.{name}": made_by})
            _log_numbers(client, parent, name, stage["metrics"], log)
            rows.append((name, "restored", maker))
    for how in ("ran", "restored"):
        names = [name for name, happened, _ in rows if happened == how]
        log.log_tags(parent, {f"stages.{how}": " ".join(names)})
    log.log_tags(parent, {"mlflow.note.content": _note(rows)})


def stages_of(client: "MlflowClient", parent: str) -> "dict[str, Run]":
    """Return the runs of the stages that ran below a parent, by stage.

    Anybody may nest runs of their own there, as a notebook does; only those count that delivery
    made. Of several runs of one stage the last one counts, and one that has ended before others.
    """
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}' and tags.`atelier.stage` != ''"
    )
    ours = [run for run in found if run.data.tags.get(STAGE_KEY)]
    ours.sort(key=lambda run: (run.info.status != "RUNNING", run.info.start_time))
    return {run.data.tags["atelier.stage"]: run for run in ours}


def find_producer(client: "MlflowClient", outputs: Mapping[str, str]) -> "Run | None":
    """The first finished run that made all of these contents, hashes (or `abc%`) by path."""
    keys = {mlflow_names.key(f"output.{path}"): hash_ for path, hash_ in outputs.items()}
    wanted = [f"tags.`{key}` LIKE '{hash_}'" for key, hash_ in keys.items()]
    if not wanted:
        return None
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        " and ".join(["attributes.status = 'FINISHED'", *wanted]),
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def _tag_content(
    client: "MlflowClient", run: str, stage: Mapping[str, Any], log: "BatchLogger"
) -> None:
    """Tag a run with the hashes of what it read and made; its inputs are datasets as well."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = {
        f"{way}.{path}": hash_
        for way in ("input", "output")
        for path, hash_ in stage[f"{way}s"].items()
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
    """Give the parent the final numbers of a stage that did not run."""
    at = client.get_run(parent).info.start_time
    points = [(mlflow_names.key(f"{stage}.{name}"), value, at, 0) for name, value in values.items()]
    log.log_metrics(parent, points)


def _note(rows: "list[tuple[str, str, Run | None]]") -> str:
    """The parent's description: a table of the stages, with links to the runs that made them."""
    lines = ["| stage | in this execution | made by |", "|---|---|---|"]
    for name, happened, run in rows:
        maker = "a run that this store does not have"
        if run:
            address = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
            maker = f"[{run.info.run_id[:8]}]({address})"
        lines.append(f"| {name} | {happened} | {maker} |")
    return "\n".join(lines)
