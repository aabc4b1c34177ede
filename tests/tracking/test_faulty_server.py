"""Delivery through faulty servers and proxies loses and duplicates no entry and reports faults."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atelier.core.errors import AtelierError
from atelier.tracking import destination, mlflow_writer, rejected, store
from atelier.tracking.delivery_worker import flush, flush_backlog
from atelier.tracking.environment import Process, private_folder
from atelier.tracking.outbox import Outbox, pending, problem
from atelier.tracking.run import Run
from atelier.tracking.store import client_of, open_store

from ..support.faulty_server import AFTER, BEFORE, Server, running
from ..support.selection import slow_after

pytestmark = pytest.mark.filterwarnings("ignore")
DEAD = Process(os.getpid(), "1")  # no running process with this number has this start time


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    private_folder(folder)
    open_store(folder, "other")
    with running(folder / "mlflow.db", folder / "artifacts") as server:
        yield server


@pytest.fixture
def server(_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    client_of.cache_clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    monkeypatch.setattr(mlflow_writer, "_PAUSES", (0.0, 0.0))
    _server.requests.clear()
    _server.rejected = ""
    _server.largest = 1_000_000
    yield _server
    _server.rule = lambda method, path: ""
    client_of.cache_clear()


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Outbox]:
    """Return a function that opens an outbox in an experiment used by this test only."""

    def journal(stage: str = "train", process: Process = DEAD, **fields: Any) -> Outbox:
        first = {
            "experiment": f"e-{abs(hash(request.node.name))}",
            "pipeline": "p",
            "parameters": {"train.lr": "0.1", "render.fps": "4"},
            "tags": {"git.dirty": "false"},
        }
        return Outbox(private_folder(tmp_path), process, stage, **(first | fields))

    return journal


def log_everything(journal: Outbox, folder: Path) -> None:
    run = Run(journal)
    run.log_steps(0, ("loss/d", "loss/g"), np.array([[1, 2], [3, 4]], np.float32))
    run.log_images("samples", np.full((4, 8, 8, 1), 9, np.uint8), 1)
    (folder / "a.txt").write_text("a")
    run.log_artifact(folder / "a.txt", "out")
    run.set_tags(device="cpu")
    journal.write("text", name="uncommitted.patch", text="+ a line")
    run.log_summary("quality", {"kid": 0.5})
    run.end("FINISHED")


def check_all_once(root: Path, journal: Outbox, experiment: str) -> None:
    client, number = open_store(root, experiment)
    found = client.search_runs([number])
    assert sorted(run.info.run_name for run in found) == ["p", "train"]
    assert {run.info.status for run in found} == {"FINISHED"}
    (run,) = (run for run in found if run.info.run_name == "train")
    (parent,) = (run for run in found if run.info.run_name == "p")
    assert run.data.params == {"train.lr": "0.1"}
    assert parent.data.params == {"train.lr": "0.1", "render.fps": "4"}
    assert run.data.tags["device"] == "cpu"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    points = client.get_metric_history(run.info.run_id, "loss/g")
    assert [(point.step, point.value) for point in points] == [(1, 2), (2, 4)]
    assert run.data.metrics["quality/kid"] == 0.5
    files = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert Counter(Path(file).suffix for file in files) == {".png": 1, ".webp": 1}
    assert [file.path for file in client.list_artifacts(run.info.run_id, "out")] == ["out/a.txt"]
    assert "uncommitted.patch" in [f.path for f in client.list_artifacts(run.info.run_id)]
    assert not journal.folder.exists()


REQUESTS = {
    "experiments/get-by-name": "GET",
    "experiments/create": "POST",
    "runs/search": "POST",
    "runs/create": "POST",
    "runs/get": "GET",
    "runs/update": "POST",
    "runs/log-batch": "POST",
    "mlflow-artifacts/artifacts": "PUT",
}
ESSENTIAL = [
    ("runs/create", "lost answer"),
    ("runs/log-batch", "false 400"),
    ("runs/log-batch", "empty 200"),
    ("experiments/create", "lost answer"),
    ("mlflow-artifacts/artifacts", "empty 200"),
]
REST = [(r, f) for r in REQUESTS for f in (*BEFORE, *AFTER) if (r, f) not in ESSENTIAL]


@pytest.mark.parametrize(
    ("request_", "fault"),
    slow_after(len(ESSENTIAL), [*ESSENTIAL, *REST]),
)
def test_fault_neither_loses_nor_duplicates_entries(
    request_: str,
    fault: str,
    server: Server,
    start: Callable[..., Outbox],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fault == "drip":
        monkeypatch.setenv(
            "MLFLOW_HTTP_REQUEST_TIMEOUT", "1"
        )  # the fault lasts three times as long
    times = iter(range(10))

    def rule(method: str, path: str) -> str:
        matches = method == REQUESTS[request_] and request_ in path
        return fault if matches and next(times, 10) < 4 else ""

    server.rule = rule
    journal = start()
    log_everything(journal, tmp_path)
    experiment = f"{journal_experiment(journal)}"
    for _ in range(8):
        if flush_backlog(tmp_path) == 0:
            break
    server.rule = lambda method, path: ""  # the fault may not have hit all four requests
    assert not rejected.read(tmp_path) or fault == "413"
    if fault != "413":
        check_all_once(tmp_path, journal, experiment)


@pytest.mark.parametrize("fault", slow_after(1, ["403", "html 400"]))
def test_server_that_refuses_a_description_of_the_experiment_gets_all_entries(
    fault: str, server: Server, start: Callable[..., Outbox], tmp_path: Path
) -> None:
    refused: list[str] = []

    def rule(method: str, path: str) -> str:
        if "set-experiment-tag" not in path:
            return ""
        refused.append(path)
        return fault

    server.rule = rule
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    assert flush_backlog(tmp_path) == 0
    assert refused
    check_all_once(tmp_path, journal, experiment)


def journal_experiment(journal: Outbox) -> str:
    from atelier.tracking.outbox import entries

    return str(next(iter(entries(journal.folder)))[0]["experiment"])


@pytest.mark.parametrize(
    "address",
    slow_after(
        3,
        [
            *("localhost:5000", "foo://bar", "http://["),
            *("http://", "nowhere", "/no/such/place", "postgresql://"),
        ],
    ),
)
def test_address_without_store_keeps_all_entries(
    address: str, tmp_path: Path, start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    client_of.cache_clear()
    monkeypatch.setattr(store, "_OPEN_SECONDS", 3.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    journal = start()
    log_everything(journal, tmp_path)
    assert flush_backlog(tmp_path) == 1
    assert problem(journal.folder.parent)
    assert not rejected.read(tmp_path)
    assert sum(each.entries for each in pending(tmp_path)) == 8


def test_backlog_is_delivered_after_address_is_corrected(
    server: Server, tmp_path: Path, start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "localhost:5000")
    assert flush(tmp_path) == 1
    assert server.address in (problem(journal.folder.parent) or "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server.address.replace('//', '//me:secret@')}/")
    assert flush(tmp_path) == 0
    check_all_once(tmp_path, journal, experiment)


def test_entries_are_delivered_only_to_their_own_store(
    server: Server, tmp_path: Path, start: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address.replace("//", "//me:secret@"))
    journal = start()
    log_everything(journal, tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert flush_backlog(tmp_path) == 1
    reason = problem(journal.folder.parent) or ""
    assert server.address in reason
    assert "mlflow.db" in reason
    assert "secret" not in reason
    assert not (tmp_path / "mlflow.db").exists()
    assert "secret" not in (destination.recorded(journal.folder.parent) or "")
    experiment = journal_experiment(journal)
    assert flush(tmp_path, here=True) == 0
    client, number = open_store(tmp_path, experiment)
    assert len(client.search_runs([number])) == 2


@pytest.mark.parametrize("fault", slow_after(1, ["503", "429", "drip"]))
def test_slow_or_busy_server_ends_attempt_with_message(
    fault: str,
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    server.rule = lambda method, path: fault
    journals = [
        start(process=Process(os.getpid(), str(number)), pipeline=f"p{number}")
        for number in range(1, 4)
    ]
    for journal in journals:
        log_everything(journal, tmp_path)
    assert flush_backlog(tmp_path) == 3
    assert all(problem(journal.folder.parent) for journal in journals)
    if fault == "drip":
        assert len(server.requests) == 1, (
            "other outboxes are not tried if the server does not respond"
        )


@pytest.mark.parametrize(
    ("fault", "kind"),
    slow_after(
        1,
        [
            (fault, kind)
            for fault in ("413", "500", "drop")
            for kind in ("picture", "artifact", "text")
        ],
    ),
)
def test_file_rejected_by_server_is_saved_and_other_entries_delivered(
    fault: str, kind: str, server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    ends = {"artifact": "out/a.txt", "picture": ".png", "text": "uncommitted.patch"}[kind]
    server.rule = lambda method, path: fault if method == "PUT" and path.endswith(ends) else ""
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    for _ in range(5):
        flush_backlog(tmp_path)
    assert not journal.folder.exists()
    (line,) = rejected.read(tmp_path)
    assert line["kind"] == kind
    if kind != "text":
        assert (tmp_path / line["kept"]).is_file()
    client, number = open_store(tmp_path, experiment)
    found = {run.info.run_name: run for run in client.search_runs([number])}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert found["train"].data.metrics["quality/kid"] == 0.5
    notes = client.list_artifacts(found["train"].info.run_id, "not-uploaded")
    assert len(notes) == 1, "the run has a note as well"


def test_store_that_lists_no_sizes_accepts_files(
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.entities import FileInfo
    from mlflow.tracking import MlflowClient

    listed = MlflowClient.list_artifacts

    def without_sizes(*args: Any) -> list[FileInfo]:
        return [FileInfo(file.path, file.is_dir, None) for file in listed(*args)]

    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "list_artifacts", without_sizes)
        assert flush_backlog(tmp_path) == 0
    check_all_once(tmp_path, journal, experiment)


def test_files_wait_while_server_accepts_none(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    server.rule = lambda method, path: "500" if method == "PUT" else ""
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    for _ in range(4):
        assert flush_backlog(tmp_path) == 1
    assert not rejected.read(tmp_path)
    server.rule = lambda method, path: ""
    assert flush_backlog(tmp_path) == 0
    check_all_once(tmp_path, journal, experiment)


@pytest.mark.slow
def test_file_is_delivered_if_server_recovers_before_note(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    def rule(method: str, path: str) -> str:
        if "not-uploaded" in path:
            server.rule = lambda method, path: ""
        return "500" if method == "PUT" and path.endswith("a.txt") else ""

    server.rule = rule
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    for _ in range(5):
        flush_backlog(tmp_path)
    assert ("PUT", True) in {(m, "not-uploaded" in path) for m, path in server.requests}
    assert not rejected.read(tmp_path)
    check_all_once(tmp_path, journal, experiment)
    client, number = open_store(tmp_path, experiment)
    for run in client.search_runs([number]):
        names = [file.path for file in client.list_artifacts(run.info.run_id)]
        assert "not-uploaded" not in names


@pytest.mark.parametrize(
    "fault",
    slow_after(1, ["401", "drop", "403", "429"]),
)
def test_denied_access_and_outages_do_not_reject_a_file(
    fault: str, server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    # 401 and 403 affect one file. In an outage, all requests from that file on fail.
    is_outage = fault == "drop"
    failed: list[str] = []

    def rule(method: str, path: str) -> str:
        if method == "PUT" and path.endswith("a.txt"):
            failed.append(path)
            return fault
        return fault if is_outage and failed else ""

    server.rule = rule
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    for _ in range(7):
        failed.clear()
        assert flush_backlog(tmp_path) == 1
    assert not any("not-uploaded" in path for _, path in server.requests)
    assert not rejected.read(tmp_path)
    server.rule = lambda method, path: ""
    assert flush_backlog(tmp_path) == 0
    check_all_once(tmp_path, journal, experiment)


def test_run_created_after_delivery_of_its_execution_is_deleted(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    experiment = ""

    def execute(number: int) -> None:
        nonlocal experiment
        process = Process(os.getpid(), str(number))
        journal = start(process=process)
        experiment = journal_experiment(journal)
        log_everything(journal, tmp_path)
        outcome = Outbox(
            private_folder(tmp_path),
            process,
            "pipeline",
            kind="outcome",
            experiment=experiment,
            parameters={},
            stages={"train": {"inputs": {}, "outputs": {}, "metrics": {}}},
        )
        outcome.write("end", status="FINISHED")
        outcome.close()
        assert flush_backlog(tmp_path) == 0

    execute(1)
    client, number = open_store(tmp_path, experiment)
    before = {run.info.run_id for run in client.search_runs([number])}
    for run in client.search_runs([number], "tags.`atelier.journal` != ''"):
        client.create_run(number, run.info.start_time, dict(run.data.tags))
    assert len(client.search_runs([number])) > len(before)
    execute(2)
    after = client.search_runs([number])
    assert before <= {run.info.run_id for run in after}
    assert len(after) == len(before) + 2


@pytest.mark.parametrize("name", slow_after(2, ["loss/g", "render.fps", "device", "quality/kid"]))
def test_only_content_quoted_by_mlflow_is_rejected(
    name: str, server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    server.rejected = name
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    assert flush_backlog(tmp_path) == 0
    lines = rejected.read(tmp_path)
    assert lines
    assert all(name in line.values() for line in lines), "no other content is rejected"
    client, number = open_store(tmp_path, experiment)
    found = {run.info.run_name: run.data for run in client.search_runs([number])}
    logged = {*found["train"].metrics, *found["p"].params, *found["train"].tags}
    expected = {"loss/d", "loss/g", "device", "render.fps", "quality/kid", "git.dirty"}
    assert logged & expected == expected - {name}


def test_every_rejected_point_of_a_metric_is_recorded(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    server.rejected = "loss/g"
    journal = start()
    rows = [[1, 5, [1.0, 10.0]], [2, 5, [2.0, 20.0]], [3, -1, [3.0, 30.0]], [2**70, 5, [4.0, None]]]
    journal.write("metrics", names=["loss/d", "loss/g"], rows=rows)
    journal.write("end", status="FINISHED")
    journal.close()
    experiment = journal_experiment(journal)
    assert flush_backlog(tmp_path) == 0
    lines = rejected.read(tmp_path)
    generator_lines = [line for line in lines if line["metric"] == "loss/g"]
    assert [line["value"] for line in generator_lines] == [30.0, None, 10.0, 20.0]
    assert [line["step"] for line in generator_lines] == [3, 2**70, 1, 2]
    assert [line["value"] for line in lines if line["metric"] == "loss/d"] == [3.0, 4.0]
    client, number = open_store(tmp_path, experiment)
    (run,) = (run for run in client.search_runs([number]) if run.info.run_name == "train")
    assert run.data.metrics == {"loss/d": 2.0}


def test_requests_that_are_too_large_are_split(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    server.largest = 700
    journal = start(tags={"long": "x" * 2000, "git.dirty": "false"})
    names = [f"loss_{number}" for number in range(20)]
    journal.write("metrics", names=names, rows=[[1, 5, list(range(20))]])
    journal.write("end", status="FINISHED")
    journal.close()
    experiment = journal_experiment(journal)
    assert flush_backlog(tmp_path) == 0
    lines = rejected.read(tmp_path)
    assert {line["tag"] for line in lines} == {"long"}
    client, number = open_store(tmp_path, experiment)
    (run,) = (run for run in client.search_runs([number]) if run.info.run_name == "train")
    assert run.data.metrics == {f"loss_{number}": float(number) for number in range(20)}
    assert run.data.tags["git.dirty"] == "false"
    assert run.data.tags["atelier.rejected"] == "true"


@pytest.mark.slow
def test_nothing_is_rejected_while_every_request_is_too_large(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    server.rule = lambda method, path: "413" if method in ("POST", "PUT") else ""
    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)
    assert flush_backlog(tmp_path) == 1
    server.rule = lambda method, path: "413" if path.endswith("log-batch") else ""
    assert flush_backlog(tmp_path) == 1
    assert not rejected.read(tmp_path)
    server.rule = lambda method, path: ""
    assert flush_backlog(tmp_path) == 0
    check_all_once(tmp_path, journal, experiment)


@pytest.mark.parametrize("fault", slow_after(1, ["403", "missing"]))
def test_unreachable_registry_blocks_only_registration(
    fault: str,
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The server in this process sets MLflow's registry to its own database.
    monkeypatch.setattr("mlflow.tracking._model_registry.utils._registry_uri", server.address)
    server.rule = lambda method, path: fault if "/registered-models/" in path else ""
    evaluation = start("evaluate")
    experiment = journal_experiment(evaluation)
    Run(evaluation).end("FINISHED")
    client, number = open_store(tmp_path, experiment)
    model = client.create_logged_model(number, name="generator")
    content = f"{abs(hash(fault)):032x}"
    client.set_logged_model_tags(model.model_id, {"content.md5": content})
    client.finalize_logged_model(model.model_id, "READY")
    inputs = {"models/generator.safetensors": content}
    journal = Outbox(
        private_folder(tmp_path),
        DEAD,
        "pipeline",
        kind="outcome",
        experiment=experiment,
        parameters={"tracking.registered_model": f"faces-{fault}"},
        stages={"evaluate": {"inputs": inputs, "outputs": {}, "metrics": {"kid": 0.25}}},
    )
    (tmp_path / "last.png").write_bytes(b"picture")
    journal.write("artifact", file=journal.attach(tmp_path / "last.png"), folder="")
    journal.write("end", status="FINISHED")
    journal.close()
    for _ in range(2):
        assert flush_backlog(tmp_path) == 1
    assert [each.entries for each in pending(tmp_path)] == [1]
    (parent,) = (run for run in client.search_runs([number]) if run.info.run_name == "p")
    assert parent.data.tags["stages.ran"] == "evaluate"
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["last.png"]
    server.rule = lambda method, path: ""
    assert flush_backlog(tmp_path) == 0
    (version,) = client.search_model_versions(f"name = 'faces-{fault}'")
    assert version.tags["kid"] == "0.25"
    assert len(client.search_runs([number])) == 2


@pytest.mark.slow
@pytest.mark.parametrize("may_delete", [True, False])
def test_late_request_leaves_no_second_run(
    may_delete: bool, server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    # With EDIT permission, MLflow does not allow deleting runs of another user's experiment.
    server.rule = lambda method, path: "" if may_delete or "delete" not in path[-6:] else "403"
    journal = start()
    run = Run(journal)
    run.log_summary("quality", {"kid": 0.5})
    flush_backlog(tmp_path)
    experiment = journal_experiment(journal)
    client, number = open_store(tmp_path, experiment)
    # A delayed request creates a second run after its retry succeeded.
    for key in ("atelier.pipeline", "atelier.journal"):
        (found,) = client.search_runs([number], f"tags.`{key}` != ''")
        client.create_run(number, found.info.start_time, dict(found.data.tags))
    run.end("FINISHED")
    assert flush_backlog(tmp_path) == 0
    remaining = client.search_runs([number])
    assert may_delete or len(remaining) == 4
    tag_names = ("atelier.pipeline", "atelier.journal")
    remaining = [run for run in remaining if any(key in run.data.tags for key in tag_names)]
    assert sorted(run.info.run_name for run in remaining) == ["p", "train"]
    assert {run.info.status for run in remaining} == {"FINISHED"}


def test_run_whose_tag_cannot_be_deleted_blocks_nothing(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    server.rule = lambda method, path: "403" if path.endswith(("/delete", "/delete-tag")) else ""
    journal = start()
    run = Run(journal)
    run.log_summary("quality", {"kid": 0.5})
    flush_backlog(tmp_path)
    client, number = open_store(tmp_path, journal_experiment(journal))
    (found,) = client.search_runs([number], "tags.`atelier.journal` != ''")
    client.create_run(number, found.info.start_time, dict(found.data.tags))
    run.end("FINISHED")
    assert flush_backlog(tmp_path) == 0
    assert client.get_run(found.info.run_id).info.status == "FINISHED"


def test_experiment_created_concurrently_is_used(
    server: Server, tmp_path: Path, start: Callable[..., Outbox]
) -> None:
    from mlflow.tracking import MlflowClient

    journal = start()
    log_everything(journal, tmp_path)
    experiment = journal_experiment(journal)

    def rule(method: str, path: str) -> str:
        if path.endswith("experiments/create") and not created:
            created.append(True)
            MlflowClient(server.address).create_experiment(experiment)
        return ""

    created: list[bool] = []
    server.rule = rule
    assert flush_backlog(tmp_path) == 0
    assert created
    check_all_once(tmp_path, journal, experiment)


def test_sync_reports_delivered_waiting_and_rejected_entries(
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from atelier.cli.runs import sync

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    server.rule = lambda method, path: "401"
    log_everything(start(), tmp_path)
    with pytest.raises(AtelierError) as error:
        sync()
    assert str(error.value).startswith("0 entries delivered, 8 waiting in .atelier/journal")
    assert "401" in str(error.value)
    assert "0 rejected" in str(error.value)

    server.rule = lambda method, path: "413" if path.endswith("a.txt") else ""
    sync()
    output = capsys.readouterr().out
    assert "7 entries delivered, 0 waiting; 1 rejected in .atelier/refused.jsonl" in output
    assert "verything" not in output

    rejected.rejected_file(tmp_path).unlink()
    sync()
    assert "Everything is delivered to MLflow." in capsys.readouterr().out


def test_stage_reports_waiting_and_rejected_entries(
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from atelier.tracking.stage import _wait_for_delivery

    server.rule = lambda method, path: "413" if path.endswith("a.txt") else ""
    journal = start()
    log_everything(journal, tmp_path)
    flush_backlog(tmp_path)
    _wait_for_delivery(tmp_path, journal.folder, 1)
    assert "1 entry was rejected by MLflow" in capsys.readouterr().err
    _wait_for_delivery(tmp_path, journal.folder, 1)
    assert capsys.readouterr().err == "", "it is reported once"

    server.rule = lambda method, path: "403"
    journal = start()
    log_everything(journal, tmp_path)
    flush_backlog(tmp_path)
    _wait_for_delivery(tmp_path, journal.folder, 1)
    output = capsys.readouterr().err
    assert "MLflow has not accepted everything yet" in output
    assert "8 entries of this stage" in output

    later = start("evaluate")
    Run(later).end("FINISHED")
    _wait_for_delivery(tmp_path, later.folder, 0)
    output = capsys.readouterr().err
    assert "2 entries of this stage, 8 of earlier stages and 0 of earlier executions" in output


@pytest.mark.parametrize("ending", ["FINISHED", "FAILED"])
def test_failed_or_manual_stage_reports_entries_of_earlier_ones(
    ending: str,
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from atelier.core import settings
    from atelier.tracking import stage

    server.rule = lambda method, path: "403"
    log_everything(start(), tmp_path)
    flush_backlog(tmp_path)
    rejected.reject(tmp_path, "name", "too large", {"kind": "text"}, None)
    monkeypatch.setattr(stage, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(stage, "_start_worker", lambda *_: None)
    loaded = settings.load(Path(__file__).parents[2] / "params.yaml")
    with contextlib.suppress(KeyError), stage._run("render", loaded, None, logged=True):
        if ending == "FAILED":
            raise KeyError
    output = capsys.readouterr().err
    assert "8 entries of earlier stages and executions are not delivered" in output
    assert "1 entry was rejected by MLflow (too large)" in output


def test_ctrl_c_ends_sync_with_one_sentence(
    server: Server,
    tmp_path: Path,
    start: Callable[..., Outbox],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from atelier.cli.runs import sync

    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    log_everything(start(), tmp_path)

    def rule(method: str, path: str) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "drip"

    server.rule = rule
    with pytest.raises(AtelierError, match=r"8 waiting .*interrupted"):
        sync()
