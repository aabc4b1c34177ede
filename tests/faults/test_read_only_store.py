"""An MLflow store that nobody may write to, from the start or later: all of it arrives, once."""

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
from ..support.stage_runs import start, wait_for_a_state
from .conftest import thaw

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STORE = ("mlflow.db", "mlruns")


def newest(project: Project, stage: str) -> tuple[Any, Any]:
    """The store's client and the newest run of a stage."""
    client, experiment = open_store(project.folder, "atelier")
    return client, client.search_runs([experiment], f"tags.`atelier.stage` = '{stage}'")[0]


def test_read_only_from_the_start_sync_delivers_it_once_it_can_be_written(
    tracked: Project, freeze: Callable[[Path], None]
) -> None:
    for place in STORE:
        freeze(tracked.folder / place)
    tracked.set(**{"render.fps": 9})
    told = tracked.run("dvc", "repro")
    assert "MLflow has not accepted everything yet" in told
    assert "attempt to write a readonly database" in told

    told = tracked.run("atelier", "sync", ok=False)
    assert "readonly database" in told
    assert len(told.splitlines()) == 1, "one sentence"

    for place in STORE:
        thaw(tracked.folder / place)
    # At once, whatever the deliverer of that execution is at, and whatever it knows of the store.
    assert "Everything is delivered to MLflow." in tracked.run("atelier", "sync")
    assert not list((tracked.folder / ".atelier" / "journal").iterdir())
    client, render = newest(tracked, "render")
    assert render.info.status == "FINISHED"
    assert render.data.params["render.fps"] == "9.0"
    files = [file.path for file in client.list_artifacts(render.info.run_id, "renders")]
    assert files.count("renders/report.html") == 1
    parent = client.get_run(render.data.tags["mlflow.parentRunId"])
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["stages.ran"] == "render"
    assert "evaluate.kid" in parent.data.metrics


@pytest.mark.slow
def test_read_only_in_the_middle_the_next_run_delivers_it_first(
    tracked: Project, freeze: Callable[[Path], None]
) -> None:
    tracked.set(**{"train.epochs": 60, "runtime.checkpoint_seconds": 0.0})
    dvc = start(tracked)
    wait_for_a_state(dvc, tracked)
    for place in STORE:
        freeze(tracked.folder / place)
    told, _ = dvc.communicate(timeout=240)
    assert dvc.returncode == 0
    assert "MLflow has not accepted everything yet" in told
    for place in STORE:
        thaw(tracked.folder / place)

    tracked.repro("evaluate")
    tracked.delivered()
    client, train = newest(tracked, "train")
    assert train.info.status == "FINISHED"
    points = client.get_metric_history(train.info.run_id, "loss_d")
    assert [point.step for point in points] == list(range(1, 241))
    _, evaluate = newest(tracked, "evaluate")
    parent = client.get_run(evaluate.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["restored.train"] == train.info.run_id, "delivered in order"


@pytest.mark.slow
def test_a_deliverer_at_work_goes_on_by_itself(
    tmp_path: Path, freeze: Callable[[Path], None]
) -> None:
    client, experiment = open_store(tmp_path, "atelier")
    pipeline = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process.of(pipeline.pid)
    about: dict[str, Any] = {"experiment": "atelier", "pipeline": "p", "parameters": {}, "tags": {}}
    journal = Outbox(private_folder(tmp_path), process, "train", **about)
    program = [sys.executable, "-m", "atelier.tracking.delivery_worker"]
    deliverer = subprocess.Popen([*program, str(tmp_path), str(process.pid), process.started])

    def until(done: Callable[[], Any]) -> None:
        end = time.monotonic() + 60
        while not done():
            assert deliverer.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def values() -> list[float]:
        runs = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
        history = [client.get_metric_history(run.info.run_id, "loss_d") for run in runs]
        return [point.value for points in history for point in points]

    Run(journal).log_steps(0, ("loss_d",), np.array([[1], [2]], np.float32))
    until(lambda: values() == [1, 2])
    freeze(tmp_path / "mlflow.db")
    Run(journal).log_steps(2, ("loss_d",), np.array([[3]], np.float32))
    until(lambda: "readonly" in (problem(journal.folder.parent) or ""))
    thaw(tmp_path / "mlflow.db")
    until(lambda: values() == [1, 2, 3])
    until(lambda: problem(journal.folder.parent) is None)
    Run(journal).end("FINISHED")
    pipeline.communicate()
    assert deliverer.wait(60) == 0
    assert not list((tmp_path / ".atelier" / "journal").iterdir())
    assert values() == [1, 2, 3]
