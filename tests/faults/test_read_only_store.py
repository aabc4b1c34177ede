"""Entries for a read-only MLflow store are delivered once, after it becomes writable."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.tracking.environment import Process, private_folder
from atelier.tracking.outbox import Outbox, problem
from atelier.tracking.run import Run
from atelier.tracking.store import open_store

from ..support.project import Project
from ..support.stage_runs import start, wait_for_checkpoint
from .conftest import thaw

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STORE = ("mlflow.db", "mlruns")


def newest(project: Project, stage: str) -> tuple[Any, Any]:
    """Return the store's client and the newest run of a stage."""
    client, experiment = open_store(project.folder, "atelier")
    return client, client.search_runs([experiment], f"tags.`atelier.stage` = '{stage}'")[0]


@pytest.mark.slow
def test_sync_delivers_entries_after_store_becomes_writable(
    tracked: Project, freeze: Callable[[Path], None]
) -> None:
    for name in STORE:
        freeze(tracked.folder / name)
    tracked.set(**{"render.fps": 9})
    output = tracked.run("dvc", "repro")
    assert "MLflow has not accepted everything yet" in output
    assert "attempt to write a readonly database" in output

    output = tracked.run("atelier", "sync", ok=False)
    assert "readonly database" in output
    assert len(output.splitlines()) == 1, "one sentence"

    for name in STORE:
        thaw(tracked.folder / name)
    # `atelier sync` does not wait for the execution's own worker, nor for its retry delay.
    assert "Everything is delivered to MLflow." in tracked.run("atelier", "sync")
    assert not list((tracked.folder / ".atelier" / "journal").iterdir())
    client, render = newest(tracked, "render")
    assert render.info.status == "FINISHED"
    assert render.data.params["render.fps"] == "9.0"
    files = [file.path for file in client.list_artifacts(render.info.run_id, "renders")]
    assert files.count("renders/training.gif") == 1
    parent = client.get_run(render.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["stages.ran"] == "render"
    assert "quality/kid" in parent.data.metrics


@pytest.mark.slow
def test_next_run_delivers_entries_of_earlier_read_only_store_first(
    tracked: Project, freeze: Callable[[Path], None]
) -> None:
    tracked.set(**{"train.epochs": 60, "runtime.checkpoint_seconds": 0.0})
    dvc = start(tracked)
    wait_for_checkpoint(dvc, tracked)
    for name in STORE:
        freeze(tracked.folder / name)
    output, _ = dvc.communicate(timeout=240)
    assert dvc.returncode == 0
    assert "MLflow has not accepted everything yet" in output
    for name in STORE:
        thaw(tracked.folder / name)

    tracked.repro("evaluate")
    tracked.delivered()
    client, train = newest(tracked, "train")
    assert train.info.status == "FINISHED"
    points = client.get_metric_history(train.info.run_id, "loss/d")
    assert [point.step for point in points] == list(range(1, 241))
    _, evaluate = newest(tracked, "evaluate")
    parent = client.get_run(evaluate.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["restored.train"] == train.info.run_id, "delivered in order"


@pytest.mark.slow
def test_running_worker_continues_when_store_becomes_writable(
    tmp_path: Path, freeze: Callable[[Path], None]
) -> None:
    client, experiment = open_store(tmp_path, "atelier")
    pipeline = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process.of(pipeline.pid)
    fields: dict[str, Any] = {
        "experiment": "atelier",
        "pipeline": "p",
        "parameters": {},
        "tags": {},
    }
    journal = Outbox(private_folder(tmp_path), process, "train", **fields)
    program = [sys.executable, "-m", "atelier.tracking.delivery_worker"]
    worker = subprocess.Popen([*program, str(tmp_path), str(process.pid), process.started])

    def wait_until(done: Callable[[], Any]) -> None:
        end = time.monotonic() + 60
        while not done():
            assert worker.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def values() -> list[float]:
        runs = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
        history = [client.get_metric_history(run.info.run_id, "loss/d") for run in runs]
        return [point.value for points in history for point in points]

    Run(journal).log_steps(0, ("loss/d",), np.array([[1], [2]], np.float32))
    wait_until(lambda: values() == [1, 2])
    freeze(tmp_path / "mlflow.db")
    Run(journal).log_steps(2, ("loss/d",), np.array([[3]], np.float32))
    wait_until(lambda: "readonly" in (problem(journal.folder.parent) or ""))
    thaw(tmp_path / "mlflow.db")
    wait_until(lambda: values() == [1, 2, 3])
    wait_until(lambda: problem(journal.folder.parent) is None)
    Run(journal).end("FINISHED")
    pipeline.communicate()
    assert worker.wait(60) == 0
    assert not list((tmp_path / ".atelier" / "journal").iterdir())
    assert values() == [1, 2, 3]
