"""Delivery of hostile names, damaged entries and foreign runs to a real store."""

import errno
import os
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.cli.runs import sync
from atelier.core.errors import AtelierError
from atelier.tracking import delivery_worker, rejected, store
from atelier.tracking.delivery_worker import flush, flush_backlog
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.outbox import Outbox, pending, problem, record_start
from atelier.tracking.pipeline_run import stages_of
from atelier.tracking.run import Run
from atelier.tracking.store import StoreError, existing_store, locked, open_store

from ..support.empty_store import _no_cached_client as _no_cached_client
from ..support.empty_store import root_fixture as root_fixture
from ..support.empty_store import runs
from ..support.journals import DEAD
from ..support.selection import slow_after

pytestmark = pytest.mark.filterwarnings("ignore")

LOCK = (
    "schema: '2.0'\nstages:\n  train:\n    cmd: x\n    outs:\n"
    f"    - path: models\n      md5: {'d' * 32}\n"
)


def raise_error(error: Exception) -> None:
    raise error


def start(root: Path, stage: str = "train", process: Process = DEAD, **fields: Any) -> Outbox:
    first = {"experiment": "atelier", "pipeline": "p", "parameters": {}, "tags": {}}
    return Outbox(private_folder(root), process, stage, **(first | fields))


def outcome(root: Path, stages: dict[str, Any], process: Process = DEAD) -> Outbox:
    journal = Outbox(
        private_folder(root),
        process,
        "pipeline",
        kind="outcome",
        experiment="atelier",
        parameters={},
        stages=stages,
    )
    journal.write("end", status="FINISHED")
    journal.close()
    return journal


def test_hostile_names_values_and_files_are_delivered(root: Path) -> None:
    hostile = "a\0b/../\ud800?é" + "x" * 300
    journal = start(
        root,
        experiment="e\0/..",
        pipeline="p\0\ud800",
        parameters={f"train.{hostile}": "v\0\ud800" * 4000, "train.lr": "0.1"},
        tags={hostile: "t\0" * 9000, "machine": "m"},
    )
    run = Run(journal)
    run.log_metrics([hostile, f"{hostile}2", "fine"], {1: [0.5, 0.25, 2.0]})
    run.log_summary("quality", {hostile: 1.0})
    run.log_images(hostile, np.zeros((1, 4, 4, 3), np.uint8), 1)
    for name in ("IMG_2041 (1).txt", "100%.txt", "a#b?c.txt", "ü\udcff.txt", "..b.txt"):
        (root / name).write_text(name, "utf-8", errors="replace")
        run.log_artifact(root / name, "../out")
    run.log_artifact(root / "missing.txt")
    run.set_tags(warning="w\0")
    journal.write("text", name="../../x.patch", text="+ \0\ud800")
    run.end("FINISHED")
    assert flush_backlog(root) == 0
    assert not rejected.read(root)
    from atelier.tracking.mlflow_names import experiment_name

    client, number = open_store(root, experiment_name("e\0/.."))
    found = {run.data.tags.get("atelier.stage"): run for run in client.search_runs([number])}
    train, parent = found["train"], found[None]
    assert sorted(train.data.metrics.values()) == [0.25, 0.5, 1.0, 2.0]
    assert len(train.data.params) == len(parent.data.params) == 2
    assert train.data.tags["machine"] == "m"
    folders = [file.path for file in client.list_artifacts(train.info.run_id)]
    (out,) = [folder for folder in folders if folder.startswith("__")]
    uploaded = client.list_artifacts(train.info.run_id, f"{out}/out")
    assert len(uploaded) == 5
    assert len(client.list_artifacts(train.info.run_id, "images")) == 2
    assert {train.info.status, parent.info.status} == {"FINISHED"}


def test_damaged_line_is_rejected_and_the_rest_delivered(root: Path) -> None:
    journal = start(root)
    journal.close()
    with (journal.folder / "entries.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n[1]\n" + b'{"kind": "of tomorrow", "time": 1}\n')
        file.write(b'{"kind": "picture", "time": 1, "file": "gone.png", "key": "k", "step": 1}\n')
        file.write(b'{"kind": "summary", "time": 1, "section": "style", "values": {"a": 0.5}}\n')
    assert flush_backlog(root) == 0
    assert len(rejected.read(root)) == 4
    assert runs(root)["train"].data.metrics == {"style/a": 0.5}


def test_outcome_ignores_stages_without_runs(root: Path) -> None:
    Run(start(root, parameters={"train.lr": "1"})).end("FINISHED")
    stage: dict[str, Any] = {"inputs": {"data/pictures/a (1)@#.jpg": "a" * 32}, "metrics": {}}
    outcome(
        root,
        {
            "watch@mine": stage | {"outputs": {"data/listing/mine.json": "b" * 32}},
            "watch": stage | {"outputs": {"data/listing/x.json": "b" * 32}},
            "con@vert?": stage | {"outputs": {"x?": "c" * 32}},
            "train": stage | {"outputs": {"models/generator?.safetensors": "d" * 32}},
        },
    )
    assert flush_backlog(root) == 0
    assert not rejected.read(root)
    parent, train = runs(root)["p"].data, runs(root)["train"].data
    assert parent.tags["stages.ran"] == "train"
    assert parent.tags["stages.restored"] == "con@vert?"
    assert "watch" not in str(parent.tags)
    assert "| train | ran |" in parent.tags["mlflow.note.content"]
    assert [v for k, v in train.tags.items() if k.startswith("output.")] == ["d" * 32]
    assert [v for k, v in train.tags.items() if k.startswith("input.")] == ["a" * 32]


def test_run_created_by_outcome_is_ended(root: Path) -> None:
    outcome(root, {"train": {"inputs": {}, "outputs": {"m": "d" * 32}, "metrics": {}}})
    assert flush_backlog(root) == 0
    parent = runs(root)["pipeline"]
    assert parent.info.status == "FINISHED"
    assert parent.info.end_time


@pytest.mark.parametrize("end", ['"time": 5', '"time": "x", "status": "FINISHED"', '"time": -1'])
def test_damaged_end_ends_the_run_as_killed(root: Path, end: str) -> None:
    journal = start(root)
    Run(journal).log_summary("quality", {"kid": 0.5})
    journal.close()
    with (journal.folder / "entries.jsonl").open("a") as file:
        file.write(f'{{"kind": "end", {end}}}\n')
    assert flush_backlog(root) == 0
    assert {run.info.status for run in runs(root).values()} == {"KILLED"}
    assert [line["kind"] for line in rejected.read(root)] == ["end"]


def test_foreign_runs_below_a_parent_are_ignored(root: Path) -> None:
    journal = start(root)
    Run(journal).log_summary("quality", {"kid": 0.5})
    flush_backlog(root)
    client, number = open_store(root, "atelier")
    parent, train = runs(root)["p"].info.run_id, runs(root)["train"].info.run_id
    for tags in ({}, {"atelier.stage": "train"}, {"atelier.stage": "notebook"}):
        client.create_run(number, tags={"mlflow.parentRunId": parent, **tags}, run_name="other")
    Run(journal).end("FINISHED")
    outcome(root, {"train": {"inputs": {}, "outputs": {"m": "d" * 32}, "metrics": {}}})
    assert flush_backlog(root) == 0
    assert runs(root)["p"].info.status == "FINISHED"
    assert {stage: run.info.run_id for stage, run in stages_of(client, parent).items()} == {
        "train": train
    }
    assert runs(root)["train"].data.tags["output.m"] == "d" * 32


def test_trashed_run_is_logged_again(root: Path) -> None:
    journal = start(root)
    Run(journal).log_summary("quality", {"kid": 0.5})
    flush_backlog(root)
    client, _ = open_store(root, "atelier")
    for run in runs(root).values():
        client.delete_run(run.info.run_id)
    Run(journal).log_summary("quality", {"loss": 1.0})
    Run(journal).end("FINISHED")
    tally = delivery_worker.DeliveryCount()
    assert flush_backlog(root, tally=tally) == 0
    assert runs(root)["train"].data.metrics == {"quality/kid": 0.5, "quality/loss": 1.0}
    assert tally.delivered == 4, "every entry counts once: start, two summaries, end"


def test_trashed_experiment_is_restored(root: Path) -> None:
    client, number = open_store(root, "atelier")
    client.delete_experiment(number)
    Run(start(root)).end("FINISHED")
    assert flush_backlog(root) == 0
    assert runs(root)["train"].info.status == "FINISHED"


@pytest.mark.parametrize("folder", slow_after(3, ["a%20b", "a#b", "ü", "My Disk", "100%", "a?b"]))
def test_project_at_any_path_is_logged_without_stray_folders(
    folder: str, tmp_path: Path, empty_store: Path
) -> None:
    root = tmp_path / folder / "atelier"
    root.mkdir(parents=True)
    (root / "mlflow.db").write_bytes(empty_store.read_bytes())
    (root / "a.txt").write_text("a")
    run = Run(start(root))
    run.log_artifact(root / "a.txt")
    run.end("FINISHED")
    assert flush_backlog(root) == 0
    assert runs(root)["train"].info.status == "FINISHED"
    assert list((root / "mlruns").rglob("a.txt"))
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    assert [path.name for path in (tmp_path / folder).iterdir()] == ["atelier"]
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        assert list(connection.execute("SELECT status FROM runs")) == [("FINISHED",)] * 2


@pytest.fixture
def foreign(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Outbox]:
    """Return a function that writes the outbox of a stage on another host, without pipeline end."""

    def write() -> Outbox:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "container-1")
            journal = start(root, parameters={"train.lr": "1"})
            context = {"experiment": "atelier", "workspace": "/app", "root": "/app"}
            record_start(journal.folder.parent, context | {"parameters": {}, "tags": {}})
        Run(journal).end("FINISHED")
        (root / "dvc.lock").write_text(LOCK)
        return journal

    return write


@pytest.mark.slow
def test_silent_execution_of_another_host_is_ended(
    root: Path, foreign: Callable[[], Outbox]
) -> None:
    execution = foreign().folder.parent
    assert flush_backlog(root) == 0
    assert "stages.ran" not in runs(root)["p"].data.tags, "the pipeline may still run"
    assert execution.exists()
    past = time.time() - 2 * delivery_worker._ALIVE_SECONDS
    for path in (*execution.rglob("*"), execution):
        os.utime(path, (past, past))
    assert flush_backlog(root) == 0
    assert runs(root)["p"].data.tags["stages.ran"] == "train"
    assert runs(root)["train"].data.tags["output.models"] == "d" * 32
    assert not execution.exists()


def test_sync_all_ends_execution_of_another_host(root: Path, foreign: Callable[[], Outbox]) -> None:
    execution = foreign().folder.parent
    assert flush(root, everything=True) == 0
    assert runs(root)["p"].data.tags["stages.ran"] == "train"
    assert not execution.exists()


def test_outcome_is_written_after_temporary_errors(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "dvc.lock").write_text(LOCK)
    journal = start(root)
    execution = journal.folder.parent
    folders = {"workspace": str(root.resolve()), "root": str(root.resolve())}
    record_start(execution, folders | {"experiment": "atelier", "parameters": {}, "tags": {}})
    Run(journal).end("FINISHED")
    monkeypatch.setenv("DVC_ROOT", str(root))
    disk_full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "attach", lambda *_: raise_error(disk_full))
        (root / "dvc.yaml").write_text("plots: [models]\n")
        (root / "models").write_bytes(b"picture")
        for _ in range(5):
            with pytest.raises(
                AtelierError, match=r"and the outcome of 1 pipeline: .*No space left"
            ):
                sync()
    assert "stages.ran" not in runs(root)["p"].data.tags
    sync()
    assert runs(root)["p"].data.tags["stages.ran"] == "train"
    assert not execution.exists()


def test_experiment_without_commit_is_reported_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = start(root)
    context = {"workspace": "/copy", "root": str(root), "experiment": "atelier"}
    record_start(journal.folder.parent, context | {"parameters": {}, "tags": {}})
    Run(journal).end("FINISHED")
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setattr(delivery_worker, "_ATTEMPT_SECONDS", 0)
    for _ in range(2):
        with pytest.raises(AtelierError, match=r"and the outcome of 1 pipeline: .*has no commit"):
            sync()
    sync()
    output = capsys.readouterr().out
    assert "The outcome of a pipeline could not be read: the experiment has no commit" in output
    assert "verything" not in output
    sync()
    assert "Everything is delivered to MLflow." in capsys.readouterr().out


def test_other_worker_is_named_as_reason_for_waiting(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start(root)
    Run(journal).end("FINISHED")
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setattr(delivery_worker, "_GRACE_SECONDS", 0)
    with (
        locked(journal.folder.parent / ".lock"),
        pytest.raises(AtelierError, match=r"^0 entries delivered, 2 waiting .*another process"),
    ):
        sync()


def test_timeout_of_store_lock_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_LOCK_SECONDS", 0)
    with locked(root / ".atelier" / "store.lock"):
        for opening in (lambda: open_store(root, "atelier"), lambda: existing_store(root)):
            with pytest.raises(StoreError, match=r"another process .*store\.lock"):
                opening()
    open_store(root, "atelier")


def test_entries_of_an_older_version_are_delivered(root: Path) -> None:
    journal = start(root)
    Run(journal).log_summary("quality", {"kid": 0.5})
    Run(journal).end("FINISHED")
    (journal.folder.parent / "store.txt").unlink()
    (journal.folder / "delivered.json").write_text(
        '{"offset": 0, "run": "", "parent": "", "stage": "", "experiment": "", "ended": false,'
        ' "logged": null}'
    )
    assert flush_backlog(root) == 0
    assert runs(root)["train"].data.metrics == {"quality/kid": 0.5}
    assert not pending(root)
    assert problem(journal.folder.parent) is None
    experiments = open_store(root, "atelier")[0].search_experiments()
    assert {each.name for each in experiments} == {"Default", "other", "atelier"}
