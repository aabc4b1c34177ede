"""Delivery while PostgreSQL fails, is locked or rejects values."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from atelier.tracking.environment import private_folder
from atelier.tracking.outbox import Outbox
from atelier.tracking.run import Run

from ...support.execution import (
    STAGES,
    Server,
    assert_delivered,
    dead_process,
    deliver,
    deliver_in_vain,
    rejected,
    write_execution,
)
from ...support.project import ROOT
from ...support.proxy import REQUESTS, Proxy

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
# Warnings of MLflow and its imports.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
DISCONNECT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'"
DATABASE_FAULTS = {
    # For example, after a failover to a standby server.
    "read only": (
        "ALTER DATABASE postgres SET default_transaction_read_only = on",
        "ALTER DATABASE postgres RESET default_transaction_read_only",
    ),
    "no connections": (
        "ALTER DATABASE postgres ALLOW_CONNECTIONS false",
        "ALTER DATABASE postgres ALLOW_CONNECTIONS true",
    ),
}


@pytest.fixture
def server(team_server: str, experiment: str) -> Server:
    return Server(MlflowClient(team_server), experiment)


@contextmanager
def database_fault(database: str, kind: str) -> Iterator[None]:
    """Cause a fault of the database while the body runs."""
    begin, end = DATABASE_FAULTS[kind]
    # Use another database of the same server, because this one may reject connections.
    address = f"{database.rpartition('/')[0]}/template1"
    with closing(psycopg.connect(address, autocommit=True)) as connection:
        connection.execute(begin)
        try:
            connection.execute(DISCONNECT)
            yield
        finally:
            connection.execute(end)
            connection.execute(DISCONNECT)


@pytest.mark.parametrize(
    ("kind", "request_name", "passing"),
    [
        (kind, name, passing)
        for kind in DATABASE_FAULTS
        for name, passing in (
            ("create run", 0),
            *(("log batch", passing) for passing in (0, 1, 2, 3, 4, 5, 6, 8, 12)),
            ("update run", 1),
            ("log inputs", 0),
        )
    ],
)
def test_entries_wait_during_database_fault(
    kind: str,
    request_name: str,
    passing: int,
    through_proxy: Path,
    team_proxy: Proxy,
    server: Server,
    team_database: str,
) -> None:
    write_execution(through_proxy, server.experiment)
    # The fault begins at the next request of this kind.
    team_proxy.add("", REQUESTS[request_name], passing)
    team_proxy.add("drop", REQUESTS[request_name], 1000)
    deliver_in_vain(through_proxy)
    team_proxy.clear()
    with database_fault(team_database, kind):
        deliver_in_vain(through_proxy, attempts=3)
    assert rejected(through_proxy) == []
    deliver(through_proxy)
    assert rejected(through_proxy) == []
    assert_delivered(server)


def test_dataset_logged_concurrently_is_delivered(
    through_proxy: Path, server: Server, team_database: str
) -> None:
    number = server.client.create_experiment(server.experiment)
    write_execution(through_proxy, server.experiment)
    name, content = next(iter(STAGES["train"]["inputs"].items()))
    row = {
        "dataset_uuid": uuid.uuid4().hex,
        "experiment_id": int(number),
        "name": name,
        "digest": content,
        "dataset_source_type": "dvc",
        "dataset_source": json.dumps({"path": name, "md5": content}),
    }
    columns = ", ".join(row)
    values = ", ".join(f"%({column})s" for column in row)
    with closing(psycopg.connect(team_database)) as connection:
        connection.execute(f"INSERT INTO datasets ({columns}) VALUES ({values})", row)
        thread = threading.Thread(target=_commit_when_blocking, args=(connection,))
        thread.start()
        try:
            deliver(through_proxy)
        finally:
            thread.join()
    assert rejected(through_proxy) == []
    assert_delivered(server)


def _commit_when_blocking(connection: Any) -> None:
    """Commit as soon as another connection waits for a lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with closing(psycopg.connect(connection.info.dsn, autocommit=True)) as observer:
        end = time.monotonic() + 60
        while time.monotonic() < end and observer.execute(waiting).fetchone()[0] == 0:
            time.sleep(0.02)
    connection.commit()


@pytest.mark.parametrize("table", ["metrics", "tags", "params", "runs", "experiments"])
def test_entries_wait_for_locked_table(
    table: str, through_proxy: Path, server: Server, team_database: str
) -> None:
    """A table can be locked, e.g. while an index is rebuilt."""
    write_execution(through_proxy, server.experiment)
    with closing(psycopg.connect(team_database)) as connection:
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        deliver_in_vain(through_proxy, attempts=2)
        connection.rollback()
    deliver(through_proxy)
    assert rejected(through_proxy) == []
    assert_delivered(server)


def test_values_rejected_by_postgresql_are_replaced(through_proxy: Path, server: Server) -> None:
    hostile = "a\0b\ud800\U0001f3a8" + "x" * 10_000
    journal = Outbox(
        private_folder(through_proxy),
        dead_process(),
        "train",
        experiment=server.experiment,
        pipeline="repro\0",
        parameters={"train.lr": "0.1", "train.words": hostile, "train.a\0b": "1"},
        tags={"git.dirty": "false", "words": hostile, "a\0b": "1"},
    )
    run = Run(journal)
    run.log_summary("quality", {"kid": 2.5, "a\0b": 1.0})
    run.set_tags(warning=hostile)
    journal.write("text", name="uncommitted.patch", text=hostile)
    run.end("FINISHED")
    deliver(through_proxy)
    assert rejected(through_proxy) == []
    runs = server.runs()
    (train,) = runs.pop("train")
    ((parent,),) = runs.values()
    for logged in (train, parent):
        assert logged.info.status == "FINISHED"
        assert logged.data.params["train.lr"] == "0.1"
        assert "\U0001f3a8" in logged.data.params["train.words"]
        assert logged.data.tags["git.dirty"] == "false"
    assert train.data.metrics["quality/kid"] == 2.5
    assert len(train.data.metrics) == 2
    assert "\U0001f3a8" in train.data.tags["warning"]
    assert "uncommitted.patch" in server.files(train)


def test_first_runs_of_three_users_are_delivered_concurrently(
    tmp_path: Path, team_server: str
) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.support.execution import *\n"
        "deliver(Path(sys.argv[1])); found = rejected(Path(sys.argv[1])); assert not found, found"
    )
    environment = os.environ | {"MLFLOW_TRACKING_URI": team_server}
    for _ in range(3):
        name = f"experiment-{uuid.uuid4().hex[:8]}"
        folders = [tmp_path / name / user for user in ("anna", "ben", "cleo")]
        for number, folder in enumerate(folders, 1):
            folder.mkdir(parents=True)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", team_server)
                write_execution(folder, name, process=dead_process(number))
        programs = [
            subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=ROOT, env=environment)
            for folder in folders
        ]
        try:
            assert [process.wait(120) for process in programs] == [0, 0, 0]
        finally:
            for process in programs:
                process.kill()
                process.wait()
        runs = Server(MlflowClient(team_server), name).runs()
        assert {stage: len(found) for stage, found in runs.items()} == {
            "repro": 3,
            "train": 3,
            "evaluate": 3,
        }
        assert {run.info.status for found in runs.values() for run in found} == {"FINISHED"}
