"""Command that serves MLflow's pages."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from atelier.tracking.environment import private_folder
from atelier.tracking.links import latest_location, record_links

from ..support.servers import free_port
from .conftest import CommandRunner

TABLE = "#/experiments/3/runs?viewStateShareKey=atelier&workflowType=machine_learning"


@pytest.fixture(name="root")
def root_fixture(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Project without runs, which is the working folder."""
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def busy_port() -> Iterator[int]:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_project_without_runs_names_the_next_command(atelier: CommandRunner) -> None:
    output = atelier("ui", "--port", free_port(), code=1)
    assert "there are no runs yet; type: dvc repro" in output


def test_busy_port_names_the_next_free_one(
    atelier: CommandRunner, root: Path, busy_port: int
) -> None:
    (root / "mlflow.db").touch()
    record_links(root, private_folder(root), "3", "a1")
    output = atelier("ui", "--port", str(busy_port), code=1)
    advice = output.partition("type: atelier ui --port ")[2]
    assert f"port {busy_port} is in use by another program; " in output
    assert busy_port < int(advice) < busy_port + 100
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(advice)))


def test_runs_on_a_server_need_no_other_server(
    atelier: CommandRunner, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://anna:secret@mlflow.example.org")
    record_links(root, private_folder(root), "3", "a1")
    assert atelier("ui") == f"The runs are on a server: https://mlflow.example.org/{TABLE}\n"


def test_addresses_are_those_of_the_latest_run(root: Path) -> None:
    assert latest_location(root) is None
    record_links(root, private_folder(root), "3", "a1")
    location = latest_location(root)
    assert location is not None
    assert location.table() == f"http://127.0.0.1:5000/{TABLE}"
    page = "#/experiments/3/runs/a1?workflowType=machine_learning"
    assert location.page(5001) == f"http://127.0.0.1:5001/{page}"
    (private_folder(root) / "run.json").write_text('{"store": 1')
    assert latest_location(root) is None


@pytest.mark.slow
def test_command_serves_the_runs_on_the_loopback_address(root: Path) -> None:
    from atelier.tracking.store import open_store

    _, experiment = open_store(root, "atelier")
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "atelier.cli.app", "ui", "--port", str(port)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert f"/#/experiments/{experiment}/runs?" in server.stdout.readline()
            # A refused connection is tried again for about two minutes.
            retries = Retry(connect=20, backoff_factor=0.1, backoff_max=8)
            with requests.Session() as session:
                session.mount("http://", HTTPAdapter(max_retries=retries))
                response = session.get(f"http://127.0.0.1:{port}/health", timeout=30)
            assert response.text == "OK"
            assert server.poll() is None
        finally:
            server.kill()
