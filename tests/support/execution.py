"""Pipeline execution in outboxes, and checks of its delivery to a server."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import Run as LoggedRun
from mlflow.tracking import MlflowClient

from atelier.tracking.delivery_worker import flush_backlog
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.outbox import Outbox, executions, problem
from atelier.tracking.rejected import rejected_file
from atelier.tracking.run import Run

PIPELINE = "repro"
LOSSES = [0.5, 0.25, 0.125]
TEXT = "name,value\na,1\n"
GENERATOR = "0123456789abcdef0123456789abcdef"
PARAMETERS = {"train.lr": "0.1", "evaluate.samples": "24", "runtime.device": "cpu"}
STAGES: dict[str, Any] = {
    "convert": {
        "inputs": {"data/raw": "11111111111111111111111111111111.dir"},
        "outputs": {"data/images.npz": "22222222222222222222222222222222"},
        "metrics": {"images": 80.0},
    },
    "train": {
        "inputs": {"data/images.npz": "22222222222222222222222222222222"},
        "outputs": {"models/generator.safetensors": GENERATOR},
        "metrics": {"validation_kid": 3.5, "steps": 3.0},
    },
    "evaluate": {
        "inputs": {"models/generator.safetensors": GENERATOR},
        "outputs": {"metrics/evaluate.json": "33333333333333333333333333333333"},
        "metrics": {"kid": 2.5},
    },
}


def dead_process(number: int = 1) -> Process:
    """Return an exited process of this machine, a different one for each number."""
    return Process(os.getpid(), str(number))


def write_execution(
    root: Path,
    experiment: str,
    model: Path | None = None,
    register: str = "",
    process: Process | None = None,
) -> None:
    """Write the outboxes of a finished execution: two stages ran, an earlier one was restored.

    Args:
        root: the project.
        experiment: name of the MLflow experiment.
        model: a generator's file to log as a model.
        register: name of the registered model.
        process: process of the pipeline; an exited one by default.
    """
    process = process or dead_process()
    parameters = PARAMETERS | ({"tracking.registered_model": register} if register else {})
    common = {"experiment": experiment, "parameters": parameters}
    for stage in ("train", "evaluate"):
        journal = Outbox(
            private_folder(root),
            process,
            stage,
            pipeline=PIPELINE,
            tags={"git.dirty": "false"},
            **common,
        )
        run = Run(journal)
        journal.write("text", name="uncommitted.patch", text="+ a line\n")
        if stage == "train":
            _write_training(run, root, model)
        else:
            run.log_metrics(("quality/kid_by_epoch",), {1: [4.0], 2: [2.5]})
            run.log_summary("quality", {"kid": 2.5})
        run.end("FINISHED")
    stages = STAGES
    if model:
        content = hashlib.md5(model.read_bytes()).hexdigest()
        stages = json.loads(json.dumps(STAGES).replace(GENERATOR, content))
    outcome = Outbox(
        private_folder(root), process, "pipeline", kind="outcome", stages=stages, **common
    )
    figure = root / "figure.csv"
    figure.write_text(TEXT)
    outcome.write("artifact", file=outcome.attach(figure), folder="")
    outcome.write("end", status="FINISHED")
    outcome.close()


def _write_training(run: Run, root: Path, model: Path | None) -> None:
    run.log_steps(0, ("loss/d", "loss/g"), np.array([LOSSES, LOSSES], np.float32).T)
    run.log_summary("quality", {"last_epoch": {"loss_d": 0.125}})
    for step in (1, 2):
        run.log_images("samples", np.full((4, 8, 8, 1), 10 * step, np.uint8), step)
    table = root / "losses.csv"
    table.write_text(TEXT)
    run.log_artifact(table, "tables")
    run.set_tags(device="cpu")
    if model:
        run.log_model(model, "atelier.gan.serialization:load_for_serving")


def deliver(root: Path, attempts: int = 12) -> None:
    """Deliver all entries in at most ``attempts`` attempts."""
    for _ in range(attempts):
        if flush_backlog(root) == 0:
            return
    reasons = [problem(execution) for execution in executions(private_folder(root))]
    raise AssertionError(f"not delivered after {attempts} attempts: {reasons}")


def deliver_in_vain(root: Path, attempts: int = 1) -> None:
    """Attempt deliveries; assert that each leaves entries."""
    for _ in range(attempts):
        assert flush_backlog(root) > 0


def rejected(root: Path) -> list[dict[str, Any]]:
    """Return the rejected entries."""
    file = rejected_file(root)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@dataclass(frozen=True)
class Server:
    """Content of an experiment on a server, read without the proxy."""

    client: MlflowClient
    experiment: str

    def runs(self) -> dict[str, list[LoggedRun]]:
        """Return all runs of the experiment by name."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        named: dict[str, list[LoggedRun]] = {}
        for run in self.client.search_runs([experiment.experiment_id]):
            named.setdefault(str(run.info.run_name), []).append(run)
        return named

    def points(self, run: LoggedRun, metric: str) -> list[tuple[int, float]]:
        """Return step and value of every point of a metric."""
        history = self.client.get_metric_history(run.info.run_id, metric)
        return [(point.step, point.value) for point in history]

    def files(self, run: LoggedRun, folder: str | None = None) -> dict[str, int]:
        """Return the size of every artifact of a run by its path."""
        sizes: dict[str, int] = {}
        for file in self.client.list_artifacts(run.info.run_id, folder):
            sizes |= self.files(run, file.path) if file.is_dir else {file.path: file.file_size}
        return sizes


def assert_delivered(server: Server) -> None:
    """Assert that a server has exactly the entries of :func:`write_execution`."""
    named = server.runs()
    assert {name: len(runs) for name, runs in named.items()} == {
        PIPELINE: 1,
        "train": 1,
        "evaluate": 1,
    }
    (parent,), (train,), (evaluate,) = (named[name] for name in (PIPELINE, "train", "evaluate"))
    for run in (parent, train, evaluate):
        assert run.info.status == "FINISHED", run.info.run_name
        assert "uncommitted.patch" in server.files(run)
    _assert_training(server, train)
    assert server.points(evaluate, "quality/kid_by_epoch") == [(1, 4.0), (2, 2.5)]
    assert evaluate.data.params == {"evaluate.samples": "24"}
    for run in (train, evaluate):
        tags = run.data.tags
        stage = STAGES[tags["atelier.stage"]]
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["git.dirty"] == "false"
        for direction in ("input", "output"):
            for path, content in stage[f"{direction}s"].items():
                assert tags[f"{direction}.{path}"] == content
        inputs = {(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs}
        assert inputs == set(stage["inputs"].items())
    _assert_parent(server, parent)


def _assert_training(server: Server, train: LoggedRun) -> None:
    for name in ("loss/d", "loss/g"):
        assert server.points(train, name) == list(enumerate(LOSSES, 1))
    assert server.points(train, "quality/last_epoch.loss_d") == [(0, 0.125)]
    assert train.data.params == {"train.lr": "0.1"}
    assert train.data.tags["device"] == "cpu"
    files = server.files(train)
    images = [path for path in files if path.startswith("images/") and path.endswith(".png")]
    steps = sorted(path.split("+step+")[1].split("+")[0] for path in images)
    assert steps == ["1", "2"]
    assert all(files.values()), files
    assert files["tables/losses.csv"] == len(TEXT)


def _assert_parent(server: Server, parent: LoggedRun) -> None:
    assert parent.data.params.items() >= PARAMETERS.items()
    assert parent.data.metrics == {"quality/kid": 2.5, "quality/validation_kid": 3.5}
    for name, value in parent.data.metrics.items():
        assert server.points(parent, name) == [(0, value)]
    tags = parent.data.tags
    assert tags["stages.ran"] == "train evaluate"
    assert tags["stages.restored"] == "convert"
    assert tags["restored.convert"] == "unknown"
    assert "| train | ran |" in tags["mlflow.note.content"]
    assert server.files(parent)["figure.csv"] == len(TEXT)
