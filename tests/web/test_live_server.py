"""Server of the live page."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.tracking.environment import Process
from atelier.tracking.live_state import CURVES, SAMPLES, STOP
from atelier.web.live_server import live_app

from ..support.live import OWN, dead_key, output_at_end, stoppable_process, write_state
from ..support.project import Project
from ..support.servers import free_port
from ..support.web_server import ask, serving


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Port of the server; its private folder is ``tmp_path``."""
    with serving(live_app(tmp_path)) as number:
        yield number


def stop(port: int, name: str) -> tuple[int, object]:
    body = json.dumps({"name": name}).encode()
    return ask(port, "/stop", "POST", body, Content_Type="application/json")


def test_state_follows_the_stages(port: int, tmp_path: Path) -> None:
    status, answer = ask(port, "/state")
    assert (status, answer["view"]["status"], answer["curves"]) == (200, "none", None)
    folder = write_state(tmp_path, done=3, total=4, title="best32")
    _, answer = ask(port, "/state")
    view = answer["view"]
    assert (view["name"], view["status"], view["done"]) == (folder.name, "running", 3)
    other = write_state(tmp_path, process=dead_key(), started=1.0, title="older")
    _, answer = ask(port, f"/state?name={other.name}")
    assert (answer["view"]["title"], answer["view"]["status"]) == ("older", "killed")


def test_curves_are_sent_once(port: int, tmp_path: Path) -> None:
    folder = write_state(tmp_path, curves=2)
    curves = {"names": ["loss/d"], "steps": [1], "values": [[0.5]], "kid": []}
    (folder / CURVES).write_text(json.dumps(curves), "utf-8")
    assert ask(port, "/state")[1]["curves"] == curves
    assert ask(port, f"/state?curves={folder.name}:1")[1]["curves"] == curves
    assert ask(port, f"/state?curves={folder.name}:2")[1]["curves"] is None


def test_samples_of_known_stages_only(port: int, tmp_path: Path) -> None:
    folder = write_state(tmp_path, samples=1)
    sentence = {"error": "there are no samples of this stage yet; reload the page."}
    assert ask(port, f"/samples/{folder.name}") == (400, sentence)
    (folder / SAMPLES).write_bytes(b"an image")
    assert ask(port, f"/samples/{folder.name}?number=1") == (200, b"an image")
    (tmp_path / SAMPLES).write_bytes(b"secret")
    (tmp_path / "live" / SAMPLES).write_bytes(b"secret")
    for name in ("..", ".", "%2e%2e", "..%2f..", "unknown"):
        status, content = ask(port, f"/samples/{name}")
        assert status in (400, 404)
        assert content != b"secret"


def test_linked_samples_are_not_served(port: int, tmp_path: Path) -> None:
    folder = write_state(tmp_path, samples=1)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / SAMPLES).symlink_to(tmp_path / "secret")
    assert ask(port, f"/samples/{folder.name}")[0] == 400


@pytest.mark.parametrize("kid", ["[[1, NaN]]", "[[1, 1e999]]", 100_000 * "[", "{}"])
def test_damaged_curves_are_not_sent(port: int, tmp_path: Path, kid: str) -> None:
    folder = write_state(tmp_path, curves=1)
    text = f'{{"names": [], "steps": [], "values": [], "kid": {kid}}}'
    (folder / CURVES).write_text(text, "utf-8")
    status, answer = ask(port, "/state")
    assert (status, answer["curves"]) == (200, None)


def test_page_is_served(port: int) -> None:
    status, page = ask(port, "/")
    assert status == 200
    assert b'id="stop"' in page
    assert b'id="data"' not in page


def test_stop_sends_the_signal_once(port: int, tmp_path: Path) -> None:
    with stoppable_process() as process:
        folder = write_state(tmp_path, process=Process.of(process.pid).key)
        for _ in range(2):
            assert stop(port, folder.name) == (200, {"message": "train is stopping"})
        assert process.stdout is not None
        assert process.stdout.readline() == "stop\n"
        assert ask(port, "/state")[1]["view"]["status"] == "stopping"
        assert output_at_end(process) == ""
    status, answer = stop(port, folder.name)
    assert (status, answer) == (
        400,
        {"error": "this stage has ended; the page shows the next one in a moment."},
    )


def test_stop_applies_to_the_pipeline_of_the_request(port: int, tmp_path: Path) -> None:
    with stoppable_process() as process, stoppable_process() as other:
        key = Process.of(process.pid).key
        fields = {"pipeline": key, "process": dead_key(), "status": "finished"}
        convert = write_state(tmp_path, "convert", **fields)
        write_state(tmp_path, process=Process.of(other.pid).key, started=9000.0)
        assert ask(port, "/state")[1]["view"]["stage"] == "train", "the newest"
        assert stop(port, convert.name)[0] == 400, "nothing is running between two stages"
        write_state(tmp_path, "render", process=key, pipeline=key, started=2000.0)
        assert stop(port, convert.name) == (200, {"message": "render is stopping"})
        assert output_at_end(process) == "stop\n"
        assert output_at_end(other) == ""


def test_foreign_page_cannot_stop_a_training(port: int, tmp_path: Path) -> None:
    folder = write_state(tmp_path, process=OWN)
    body = json.dumps({"name": folder.name}).encode()
    headers = {"Content_Type": "application/json", "Origin": "http://evil.example"}
    assert ask(port, "/stop", "POST", body, **headers)[0] == 403
    assert ask(port, "/stop", "POST", b"{}", Content_Type="application/json")[0] == 422
    assert stop(port, "../live")[0] == 400
    assert not (folder / STOP).exists()


def test_busy_port_is_reported(port: int, ready: Project) -> None:
    message = ready.atelier("live", "--port", str(port), ok=False)
    assert f"port {port} is in use by another program; type: atelier live --port " in message


def test_command_serves_the_page_of_the_project(ready: Project) -> None:
    folder = write_state(ready.folder / ".atelier", process=OWN, title="best32")
    port = free_port()
    command = [sys.executable, "-m", "atelier.cli.app", "live", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=ready.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"Open http://127.0.0.1:{port}\n"
        deadline = time.monotonic() + 60
        while True:
            try:
                _, answer = ask(port, "/state")
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert answer["view"]["name"] == folder.name
        server.send_signal(signal.SIGINT)
        output, _ = server.communicate(timeout=60)
    assert "Traceback" not in output
