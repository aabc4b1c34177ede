"""The commands of the section "A team" in docs/tracking.md, run as they are printed."""

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from mlflow.tracking import MlflowClient

from ...support.project import ROOT, TRACKED, clone
from ...support.proxy import proxy
from ...support.servers import free_port, postgresql, program, wait_for_server

pytestmark = pytest.mark.slow
HOST = "mlflow.example.org"
ADMIN = ("admin", "a long admin password")
SEARCH = "/api/2.0/mlflow/experiments/search"


def blocks(heading: str) -> list[str]:
    """Return the blocks of code below a heading of the team's section."""
    text = (ROOT / "docs" / "tracking.md").read_text("utf-8")
    section = re.search(rf"^### {heading}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert section, heading
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section[1], re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in found if block.strip()]


def placed(text: str, values: dict[str, str]) -> str:
    """Replace the places of the example by those of this test."""
    for name, value in values.items():
        assert name in text, f"{name} is not in:\n{text}"
        text = text.replace(name, value)
    return text


@contextmanager
def documented_server(folder: Path) -> Iterator[int]:
    """Run the documented server; yield its port."""
    _, settings, command = blocks("Start the server")
    port = free_port()
    with postgresql() as store:
        database = "postgresql://mlflow:PASSWORD@db/mlflow"
        (folder / "basic_auth.ini").write_text(placed(settings, {database: store}))
        script = placed(
            command, {database: store, "5000": str(port), "s3://bucket": str(folder / "bucket")}
        )
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        log = folder / "server.log"
        with program("bash", "-ec", script, log=log, cwd=folder, env=inherited) as server:
            wait_for_server(port, server, log)
            yield port


def add_user(name: str, port: int) -> None:
    (command,) = blocks("Add a colleague")
    subprocess.run(
        ["bash", "-ec", placed(command, {"anna": name, "5000": str(port)})],
        env=os.environ | {"MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1]},
        check=True,
        capture_output=True,
    )


def test_documented_server_serves_two_colleagues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = blocks("Work with it")
    with documented_server(tmp_path) as port, proxy(f"http://127.0.0.1:{port}") as gate:
        # As a reverse proxy does, it passes the public name on.
        route = {"http_proxy": gate.address, "no_proxy": ""}
        for name in ("anna", "ben"):
            add_user(name, port)
            project = clone(tmp_path / name, **TRACKED)
            project.set(**{"tracking.registered_model": "faces"})
            script = placed(work, {"anna": name, "https:": "http:"})
            *variables, repro, sync = script.splitlines()
            # One after the other, since each has a time limit of its own.
            for command in (repro, sync):
                output = project.run("bash", "-ec", "\n".join((*variables, command)), **route)
            assert "Everything is delivered to MLflow." in output
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
        client = MlflowClient(f"http://127.0.0.1:{port}")
        experiment = client.get_experiment_by_name("atelier")
        assert experiment
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert [run.data.tags.get("atelier.stage") for run in runs].count("train") == 2
        parents = [run for run in runs if "stages.ran" in run.data.tags]
        assert len(parents) == 2
        assert all("evaluate.kid" in run.data.metrics for run in parents)
        assert client.get_model_version_by_alias("faces", "champion")


def test_documented_server_refuses_strangers(tmp_path: Path) -> None:
    with documented_server(tmp_path) as port:
        address = f"http://127.0.0.1:{port}{SEARCH}"

        def status(host: str, origin: str = "", user: tuple[str, str] | None = ADMIN) -> int:
            headers = {"Host": host} | ({"Origin": origin} if origin else {})
            body = {"max_results": 1}
            return requests.post(address, json=body, headers=headers, auth=user).status_code

        assert status(HOST) == 200
        assert status(HOST, origin=f"https://{HOST}") == 200
        assert status("elsewhere.example.org") == 403
        assert status(HOST, origin="https://elsewhere.example.org") == 403
        assert status(HOST, user=None) == 401
        assert status(HOST, user=("admin", "a wrong password")) == 401
