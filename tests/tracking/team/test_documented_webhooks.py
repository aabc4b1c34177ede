"""Programs of docs/webhooks.md: a message when the champion changes."""

import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import requests
from cryptography.fernet import Fernet
from mlflow.tracking import MlflowClient

from atelier.tracking.models import _set_champion

from ...support.project import ROOT
from ...support.servers import free_port, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SECRET = "a long random text"
SETTINGS = {"evaluate.samples": "24"}


def block(marker: str) -> str:
    """Return the code block of the page that contains a text."""
    text = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    (code,) = (textwrap.dedent(one) for one in found if marker in one)
    return code


@contextmanager
def receiver(folder: Path) -> Iterator[tuple[str, Queue[str]]]:
    """Run the documented receiver; yield its address and the lines that it prints."""
    port, lines = free_port(), Queue[str]()
    (folder / "receiver.py").write_text(block("# receiver.py"))
    with subprocess.Popen(
        [sys.executable, "receiver.py", str(port)],
        cwd=folder,
        env=os.environ | {"WEBHOOK_SECRET": SECRET},
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        reader = threading.Thread(target=lambda: [lines.put(line) for line in program.stdout or ()])
        reader.start()
        try:
            yield f"http://127.0.0.1:{port}/champion", lines
        finally:
            program.kill()
            reader.join()


def register(client: MlflowClient, kid: float) -> str:
    """Register a version with a KID; return its number."""
    run = client.create_run("0").info
    version = client.create_model_version("faces", f"{run.artifact_uri}/model", run.run_id).version
    for key, value in {"kid": repr(kid), **SETTINGS}.items():
        client.set_model_version_tag("faces", version, key, value)
    _set_champion(client, "faces", SETTINGS)
    return str(version)


def test_receiver_prints_each_new_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = dict(re.findall(r"export (MLFLOW_\w+)=([\w,]+)$", block("ALLOW_PRIVATE"), re.M))
    variables["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"] = Fernet.generate_key().decode()
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with (
        receiver(tmp_path) as (address, lines),
        mlflow_server(store, tmp_path, environment=variables) as server,
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        values: dict[str, Any] = {}
        code = block("create_webhook").replace("https://hooks.example.org/champion", address)
        exec(code, values)
        assert "success=True, response_status=200" in capsys.readouterr().out
        client = values["client"]
        client.create_registered_model("faces")
        for kid in (2.0, 3.0, 1.0):  # the second one is worse than the champion
            register(client, kid)
        client.set_registered_model_alias("faces", "newest", "2")
        client.set_registered_model_alias("faces", "champion", "2")
        printed = [lines.get(timeout=60) for _ in range(3)]
        # Messages may arrive in another order.
        assert sorted(printed) == [
            f"version {number} of faces is the champion\n" for number in (1, 2, 3)
        ]
        assert lines.empty()
        unsigned = requests.post(address, json={"data": {"alias": "champion"}}, timeout=60)
        assert unsigned.status_code == 401
        assert lines.empty()
