"""What MLflow is told of a whole pipeline execution: its parent run, and the ties of content.

Content is the only tie between runs: every run of a stage is tagged with the hash of each
input and output, as DVC writes them to ``dvc.lock``, so that the run that made a file is
found by the file's hash, also where DVC brought the file from its cache.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_Stages = Mapping[str, Mapping[str, Any]]


def tell_pipeline(client: "MlflowClient", parent: str, stages: _Stages) -> None:
    """Complete a parent run and its children by what DVC recorded.

    Args:
        client: where to.
        parent: id of the parent run.
        stages: by name, in order: ``inputs`` and ``outputs``, hashes by path, and ``metrics``.
    """
    ran = stages_of(client, parent)
    rows: list[tuple[str, str, Run | None]] = []
    for name, stage in stages.items():
        run = ran.get(name)
        if run and run.info.status == "FINISHED":
            _tag_content(client, run.info.run_id, stage)
            rows.append((name, "ran", run))
        else:
            maker = find_maker(client, stage["outputs"])
            made_by = maker.info.run_id if maker else "unknown"
            client.set_tag(parent, f"restored.{name}", made_by)
            _log_numbers(client, parent, name, stage["metrics"])
            rows.append((name, "restored", maker))
    for how in ("ran", "restored"):
        names = [name for name, happened, _ in rows if happened == how]
        client.set_tag(parent, f"stages.{how}", " ".join(names))
    client.set_tag(parent, "mlflow.note.content", _note(rows))


def stages_of(client: "MlflowClient", parent: str) -> "dict[str, Run]":
    """The runs of the stages that ran below a parent, by stage."""
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.data.tags["atelier.stage"]: run for run in found}


def find_maker(client: "MlflowClient", outputs: Mapping[str, str]) -> "Run | None":
    """The first finished run that made all of these contents, hashes (or `abc%`) by path."""
    wanted = [f"tags.`output.{path}` LIKE '{hash_}'" for path, hash_ in outputs.items()]
    if not wanted:
        return None
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        " and ".join(["attributes.status = 'FINISHED'", *wanted]),
        order_by=["attributes.start_time ASC"],
        max_results=1,
    )
    return found[0] if found else None


def _tag_content(client: "MlflowClient", run: str, stage: Mapping[str, Any]) -> None:
    """Tag a run with the hashes of what it read and made; its inputs are datasets as well."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, RunTag

    tags = [
        RunTag(f"{way}.{path}", hash_)
        for way in ("input", "output")
        for path, hash_ in stage[f"{way}s"].items()
    ]
    client.log_batch(run, tags=tags)
    datasets = [
        DatasetInput(
            Dataset(path, hash_, "dvc", json.dumps({"path": path, "md5": hash_})),
            [InputTag("mlflow.data.context", "input")],
        )
        for path, hash_ in stage["inputs"].items()
    ]
    if datasets:
        client.log_inputs(run, datasets=datasets)


def _log_numbers(
    client: "MlflowClient", parent: str, stage: str, values: Mapping[str, float]
) -> None:
    """Give the parent the final numbers of a stage that did not run."""
    from mlflow.entities import Metric

    at = client.get_run(parent).info.start_time
    points = [Metric(f"{stage}.{name}", value, at, 0) for name, value in values.items()]
    if points:
        client.log_batch(parent, metrics=points)


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
