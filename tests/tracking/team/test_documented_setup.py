"""Commands of the section "A team" in docs/tracking.md."""

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
    """Return the code blocks below a heading of the team's section."""
    text = (ROOT / "docs" / "tracking.md").read_text("utf-8")
    section = re.search(rf"^### {heading}\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert section, heading
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", section[1], re.MULTILINE)
    return [textwrap.dedent(block).strip() + "\n" for block in found if block.strip()]


def replaced(text: str, values: dict[str, str]) -> str:
    """Replace the example's values by those of this test."""
    for name, value in values.items():
        assert name in text, f"{name} is not in:\n{text}"
        text = text.replace(name, value)
    return text


@contextmanager
def documented_server(folder: Path) -> Iterator[int]:
    """Run the documented server and yield its port."""
    _, settings, command = blocks("Start the server")
    port = free_port()
    with postgresql() as store:
        database = "postgresql://mlflow:PASSWORD@db/mlflow"
        (folder / "basic_auth.ini").write_text(replaced(settings, {database: store}))
        script = replaced(
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
        ["bash", "-ec", replaced(command, {"anna": name, "5000": str(port)})],
        env=os.environ | {"MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1]},
        check=True,
        capture_output=True,
    )


def test_documented_server_serves_two_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = blocks("Work with it")
    with documented_server(tmp_path) as port, proxy(f"http://127.0.0.1:{port}") as reverse_proxy:
        # The proxy forwards the public host name.
        route = {"http_proxy": reverse_proxy.address, "no_proxy": ""}
        for name in ("anna", "ben"):
            add_user(name, port)
            project = clone(tmp_path / name, **TRACKED)
            project.set(**{"tracking.registered_model": "faces"})
            script = replaced(work, {"anna": name, "https:": "http:"})
            *variables, repro, sync = script.splitlines()
            # One command per call, because each call has its own time limit.
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
        assert all("quality/kid" in run.data.metrics for run in parents)
        assert client.get_model_version_by_alias("faces", "champion")


def test_documented_server_rejects_other_hosts_origins_and_users(tmp_path: Path) -> None:
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
