"""Delivery of entries to MLflow, once and in order, also after failures."""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from atelier.core.checkpoints import Checkpoints
from atelier.tracking import delivery_worker
from atelier.tracking.delivery_worker import flush, flush_backlog
from atelier.tracking.environment import Process, git_tags, private_folder, uncommitted
from atelier.tracking.outbox import Outbox, entries, outboxes, problem, remove
from atelier.tracking.redact import flat, numbers, redact, redact_urls
from atelier.tracking.rejected import rejected_file
from atelier.tracking.run import Run, sheet
from atelier.tracking.store import open_store

from ..support.empty_store import _no_cached_client as _no_cached_client
from ..support.empty_store import root_fixture as root_fixture
from ..support.empty_store import runs
from ..support.journals import DEAD, start

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def log_everything(journal: Outbox, folder: Path) -> None:
    """Log an entry of each kind."""
    run = Run(journal)
    run.log_steps(0, ("loss/d", "loss/g"), np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    run.log_summary("quality", {"kid": 0.5, "by": {"scale": 2.0}, "name": "x", "nan": float("nan")})
    for step in (1, 2):
        run.log_images("samples", np.full((4, 8, 8, 1), 10 * step, np.uint8), step)
    (folder / "out" / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "out" / "deep" / "a.txt").write_text("a")
    run.log_artifact(folder / "out")
    run.set_tags(device="cpu")
    run.warn("the discriminator has won")
    run.log_metrics(("quality/validation_kid",), {1: [2.0], 5: [1.0]})
    journal.write("text", name="uncommitted.patch", text="+ a line")
    (folder / "out" / "deep" / "a.txt").unlink()  # outputs may be gone before delivery


def test_tag_holds_all_different_warnings_in_order(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = start(root)
    run = Run(journal)
    run.warn("The training is short.", "The images are alike.")
    run.warn("The training is short.")
    run.end("FINISHED")
    assert flush_backlog(root) == 0
    tags = runs(root)["train"].data.tags
    assert tags["warning"] == "The training is short. The images are alike."
    assert capsys.readouterr().err.count("WARNING: The training is short.") == 2


def test_many_warnings_do_not_fill_the_outbox(root: Path) -> None:
    journal = start(root)
    run = Run(journal)
    run.warn(*(f"In epoch {number} the images are alike." for number in range(2000)))
    tags = [entry for entry, _ in entries(journal.folder) if entry["kind"] == "tags"]
    assert len(tags) < 300
    assert tags[-1]["tags"]["warning"].startswith("In epoch 0 the images are alike. In epoch 1 ")
    run.end("FINISHED")


def test_all_entries_of_a_stage_are_delivered_once(root: Path, tmp_path: Path) -> None:
    journal = start(root)
    log_everything(journal, tmp_path)
    journal.write("end", status="FINISHED")
    journal.close()
    assert flush_backlog(root) == 0
    assert flush_backlog(root) == 0

    client, _ = open_store(root, "atelier")
    found = runs(root)
    run, parent = found["train"], found["p"]
    assert run.info.status == parent.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params == {"train.lr": "0.1"}
    assert parent.data.params == {"train.lr": "0.1", "render.fps": "4"}
    points = client.get_metric_history(run.info.run_id, "loss/g")
    assert [(point.step, point.value) for point in points] == [(1, 2), (2, 4), (3, 6)]
    assert run.data.metrics["quality/kid"] == 0.5
    assert "quality/nan" not in run.data.metrics
    assert run.data.metrics["quality/by.scale"] == 2
    assert parent.data.metrics == {}, "a pipeline has metrics once its outcome is known"
    assert run.data.tags["warning"] == "the discriminator has won"
    images = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert len([path for path in images if path.endswith(".png")]) == 2
    assert [f.path for f in client.list_artifacts(run.info.run_id, "out/deep")] == [
        "out/deep/a.txt"
    ]
    assert not (private_folder(root) / "journal").exists() or not list(
        (private_folder(root) / "journal").iterdir()
    )


def test_delivery_killed_after_any_entry_repeats_nothing(root: Path, tmp_path: Path) -> None:
    journal = start(root)
    log_everything(journal, tmp_path)
    journal.write("end", status="FINISHED")
    offsets = [offset for _, offset in entries(journal.folder)]
    content = (journal.folder / "entries.jsonl").read_bytes()
    delivered = journal.folder / "delivered.json"
    # The outbox grows by one entry at a time. After each, the worker is killed between the
    # request and writing delivered.json, so the next worker starts at the previous offset.
    for offset in offsets:
        (journal.folder / "entries.jsonl").write_bytes(content[:offset])
        before = delivered.read_bytes() if delivered.exists() else None
        assert not delivery_worker._deliver_all(root, journal.folder.parent)
        if offset == offsets[-1]:
            break
        if before is None:
            delivered.unlink()
        else:
            delivered.write_bytes(before)
        assert not delivery_worker._deliver_all(root, journal.folder.parent)
    assert not journal.folder.exists()
    journal.close()
    client, _ = open_store(root, "atelier")
    run = runs(root)["train"]
    assert len(runs(root)) == 2
    points = client.get_metric_history(run.info.run_id, "loss/d")
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 3), (3, 5)]
    images = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert len([path for path in images if path.endswith(".png")]) == 2
    validation = client.get_metric_history(run.info.run_id, "quality/validation_kid")
    assert [(p.step, p.value) for p in validation] == [(1, 2.0), (5, 1.0)]
    assert run.data.tags["device"] == "cpu"
    assert "uncommitted.patch" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_resumed_run_repeats_no_step(root: Path) -> None:
    first = start(root)
    Run(first).log_steps(0, ("loss/d",), np.array([[1], [2], [3]], np.float32))
    first.close()  # killed after step 3; the last checkpoint is of step 2
    flush_backlog(root)
    killed = runs(root)["train"]
    assert killed.info.status == "KILLED"
    second = start(root, pipeline="q", continues=first.folder.name)
    Run(second).log_steps(2, ("loss/d",), np.array([[3], [4]], np.float32))
    Run(second).end("FINISHED")
    flush_backlog(root)
    client, experiment = open_store(root, "atelier")
    (run,) = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    assert run.info.run_id == killed.info.run_id
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss/d")
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_resumed_run_waits_for_delivery_of_earlier_attempt(root: Path) -> None:
    first = start(root)
    Run(first).log_steps(0, ("loss/d",), np.array([[1], [2]], np.float32))
    first.close()
    second = start(root, process=Process(os.getpid(), "2"), continues=first.folder.name)
    Run(second).log_steps(1, ("loss/d",), np.array([[2], [3]], np.float32))
    Run(second).end("FINISHED")
    # MLflow may be available again when the second attempt's worker starts.
    assert delivery_worker._deliver_all(root, second.folder.parent)
    assert "earlier attempt at train" in (problem(second.folder.parent) or "")
    assert flush_backlog(root) == 0
    client, experiment = open_store(root, "atelier")
    (run,) = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss/d")
    assert [(point.step, point.value) for point in points] == [(1, 1), (2, 2), (3, 3)]


def test_extended_training_has_the_run_that_it_continues(root: Path) -> None:
    first = start(root)
    first.close()
    second = start(root, process=Process(os.getpid(), "2"))
    finished = Checkpoints(root / "finished")
    finished.folder.mkdir()
    (finished.folder / "journal").write_text(first.folder.name)
    Run(second).set_extended(2000, finished)
    Run(second).end("FINISHED")
    assert delivery_worker._deliver_all(root, second.folder.parent), "the first run does not exist"
    assert flush_backlog(root) == 0
    third = start(root, process=Process(os.getpid(), "3"))
    (finished.folder / "journal").write_text("gone")
    Run(third).set_extended(3000, finished)
    Run(third).end("FINISHED")
    fourth = start(root, process=Process(os.getpid(), "4"))
    (finished.folder / "journal").write_text("")  # tracking was off
    Run(fourth).set_extended(4000, finished)
    Run(fourth).end("FINISHED")
    assert flush_backlog(root) == 0
    client, experiment = open_store(root, "atelier")
    found = client.search_runs([experiment], "tags.`atelier.stage` = 'train'")
    runs_by_key = {run.data.tags["atelier.journal"]: run for run in found}
    tags = [
        {k: v for k, v in runs_by_key[box.folder.name].data.tags.items() if "extended" in k}
        for box in (second, third, fourth)
    ]
    assert tags == [
        {
            "extended_from": "2000 steps",
            "extended_from_run": runs_by_key[first.folder.name].info.run_id,
        },
        {"extended_from": "3000 steps"},
        {"extended_from": "4000 steps"},
    ]


def test_stages_of_one_pipeline_share_a_parent_run(root: Path) -> None:
    for stage, status in (("train", "FINISHED"), ("evaluate", "FAILED")):
        journal = start(root, stage)
        journal.write("end", status=status)
        journal.close()
    assert flush_backlog(root) == 0
    found = runs(root)
    assert sorted(found) == ["evaluate", "p", "train"]
    assert found["p"].info.status == "FAILED"
    parents = {found[stage].data.tags["mlflow.parentRunId"] for stage in ("train", "evaluate")}
    assert parents == {found["p"].info.run_id}


def test_killed_stage_ends_as_killed_and_running_stage_does_not_end(root: Path) -> None:
    code = (
        "from tests.support.journals import *; import sys\n"
        "journal = start(Path(sys.argv[1]))\n"
        "print(journal.folder, flush=True)\n"
        "input()"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(root)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout
    folder = Path(program.stdout.readline().strip())
    # Its DVC process has exited (see DEAD), but the stage still runs as an orphan.
    assert flush_backlog(root) == 1
    assert folder.exists()
    assert runs(root)["train"].info.status == "RUNNING"
    program.kill()
    program.wait()
    assert flush_backlog(root) == 0
    assert not folder.exists()
    assert runs(root)["train"].info.status == "KILLED"
    program.communicate()


def test_illegal_name_becomes_legal_and_unique(root: Path) -> None:
    journal = start(root)
    journal.write("metrics", names=["what?", "what!", "fine"], rows=[[1, 1, [0.5, 0.25, 1.0]]])
    Run(journal).log_summary("quality", {"kid": 0.5})
    journal.write("end", status="FINISHED")
    journal.close()
    assert flush_backlog(root) == 0
    metrics = runs(root)["train"].data.metrics
    assert sorted(metrics.values()) == [0.25, 0.5, 0.5, 1.0]
    assert metrics["fine"] == 1.0
    assert len([name for name in metrics if name.startswith("what_-")]) == 2
    assert not rejected_file(root).exists()


def test_stage_succeeds_if_outbox_cannot_be_written(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = start(root)
    remove(journal.folder)
    run = Run(journal)
    run.log_images("samples", np.zeros((1, 8, 8, 3), np.uint8), 1)
    run.log_summary("quality", {"kid": 0.5})
    run.end("FINISHED")
    output = capsys.readouterr().err
    assert output.count("WARNING: this run is no longer logged") == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("https://me:secret@host/a.zip?token=x", "https://host/a.zip"),
        ("HTTPS://me:se'cret@host/a", "HTTPS://host/a"),
        ("see https://u:p@h/a and s3://k@b/c?x=1, both", "see https://h/a and s3://b/c, both"),
        (["https://u:p@h/a?token=x"], "['https://h/a']"),
        ("+ see https://[host]/x", "+ see https://[host]/x"),
        (0.5, "0.5"),
    ],
)
def test_urls_are_logged_without_secrets(value: object, expected: str) -> None:
    assert redact_urls(value) == expected


def test_patch_contains_no_values_named_like_secrets() -> None:
    patch = "+API_KEY = abc\n+token: hf_123\n+password='p'\n+lr: 0.1\n"
    assert redact(patch) == "+API_KEY = ***\n+token: ***\n+password=***\n+lr: 0.1\n"


def test_patch_in_another_encoding_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("plain\n")
    for arguments in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm a"):
        subprocess.run(["git", *arguments.split()], check=True)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\n")
    assert "+caf\ufffd" in uncommitted()
    assert git_tags()["git.dirty"] == "true"


@pytest.mark.slow
def test_all_entries_are_delivered_again_after_store_is_removed(root: Path, tmp_path: Path) -> None:
    journal = start(root)
    log_everything(journal, tmp_path)
    flush_backlog(root)
    (root / "mlflow.db").unlink()
    shutil.rmtree(root / "mlruns")
    Run(journal).end("FINISHED")
    # In other processes, because MLflow still has the removed file open in this one.
    deliver = (
        "from atelier.tracking.delivery_worker import flush_backlog;"
        " assert flush_backlog(root) == 0"
    )
    query = (
        "from atelier.tracking.store import open_store; c, e = open_store(root, 'atelier');"
        " (run,) = c.search_runs([e], \"tags.`atelier.stage` = 'train'\");"
        " print(run.info.status, len(c.get_metric_history(run.info.run_id, 'loss/d')))"
    )
    code = f"from pathlib import Path; root = Path({str(root)!r}); {deliver};{query}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output == "FINISHED 3\n"


def test_model_that_cannot_be_built_blocks_no_other_entry(root: Path, tmp_path: Path) -> None:
    journal = start(root)
    (tmp_path / "x.safetensors").write_bytes(b"no network")
    Run(journal).log_model(tmp_path / "x.safetensors", "atelier.gan.serialization:gone")
    Run(journal).log_summary("quality", {"loss": 1.0})
    Run(journal).end("FINISHED")
    assert flush_backlog(root) == 0
    assert runs(root)["train"].data.metrics == {"quality/loss": 1.0}
    assert "gone" in rejected_file(root).read_text()


def test_one_failed_stage_fails_the_pipeline(root: Path) -> None:
    for stage, status in (("train", "FAILED"), ("stylize", "FINISHED")):
        Run(start(root, stage)).end(status)
    flush_backlog(root)
    assert runs(root)["p"].info.status == "FAILED"


def test_entries_are_delivered_in_order_after_server_outage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for stage in ("train", "evaluate"):
        journal = start(root, stage)
        log_everything(journal, tmp_path)
        journal.write("end", status="FINISHED")
        journal.close()
    assert flush_backlog(root) == 2
    execution = journal.folder.parent
    assert [folder.name.split("-")[1] for folder in outboxes(execution)] == ["train", "evaluate"]

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert flush_backlog(root) == 2, "meant for another store"
    assert flush(root, here=True) == 0
    found = runs(root)
    assert found["train"].info.start_time <= found["evaluate"].info.start_time
    assert found["evaluate"].data.metrics["quality/kid"] == 0.5


@pytest.mark.slow
def test_stage_does_not_wait_long_for_unresponsive_server(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        journal = start(root)
        log_everything(journal, tmp_path)
        Run(journal).end("FINISHED")
        assert flush_backlog(root) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert flush(root, here=True) == 0
    assert runs(root)["train"].info.status == "FINISHED"


@pytest.mark.slow
def test_locked_store_receives_remaining_entries_later(root: Path) -> None:
    journal = start(root)
    Run(journal).log_steps(0, ("loss/d",), np.array([[1], [2]], np.float32))
    flush_backlog(root)
    Run(journal).log_steps(2, ("loss/d",), np.array([[3]], np.float32))
    Run(journal).end("FINISHED")
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert flush_backlog(root) == 1
        other.execute("ROLLBACK")
    assert flush_backlog(root) == 0
    client, _ = open_store(root, "atelier")
    run = runs(root)["train"]
    assert run.info.status == "FINISHED"
    assert [p.value for p in client.get_metric_history(run.info.run_id, "loss/d")] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_concurrent_workers_create_missing_store(tmp_path: Path, count: int) -> None:
    processes = []
    for number in range(count):
        process = Process(10_000_000 + number, "1")
        journal = start(tmp_path, "train", process, pipeline=f"p{number}")
        journal.write("end", status="FINISHED")
        journal.close()
        processes.append(process)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    program = [sys.executable, "-m", "atelier.tracking.delivery_worker", str(tmp_path)]
    workers = [
        subprocess.Popen([*program, str(process.pid), process.started], env=environment)
        for process in processes
    ]
    assert [worker.wait(120) for worker in workers] == [0] * count
    names = sorted(name for name in runs(tmp_path) if name.startswith("p"))
    assert names == [f"p{number}" for number in range(count)]


def test_stage_start_imports_no_slow_packages() -> None:
    code = "import sys, atelier.cli.app, atelier.tracking.stage; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert not {"mlflow", "dvc", "torch", "sqlalchemy", "cv2"} & set(result.stdout.split())


def test_process_differs_from_later_one_with_same_number() -> None:
    assert Process.of(os.getpid()).is_alive()
    assert not DEAD.is_alive()
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process.of(program.pid)
    assert process.is_alive()
    program.kill()
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)  # it has exited but is a zombie
    assert not process.is_alive()
    program.communicate()


def test_incomplete_last_line_is_not_read(tmp_path: Path) -> None:
    journal = start(tmp_path)
    journal.close()
    file = journal.folder / "entries.jsonl"
    content = file.read_bytes()
    file.write_bytes(content + b'{"kind": "metr')
    assert [entry["kind"] for entry, _ in entries(journal.folder)] == ["start"]


def test_numbers_are_flattened_and_images_form_a_grid() -> None:
    values = {"a": 1, "b": {"c": 2.5, "d": "x", "e": float("inf")}, "f": True, "g": {}}
    assert numbers(values) == {"a": 1.0, "b.c": 2.5}
    assert flat(values)["g"] == {}
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2, 1)
    grid = sheet(images)
    assert grid.shape == (512, 512, 3), "enlarged by a whole factor, so that MLflow shows it large"
    assert (grid[:256:128, 256::128, 0] == images[1, :, :, 0]).all()
    assert (grid[256:, 256:] == 255).all()
    assert sheet(np.zeros((2, 600, 300, 3), np.uint8)).shape == (600, 600, 3)
    assert sheet(np.zeros((6, 100, 100, 3), np.uint8), columns=3).shape == (400, 600, 3)
