"""Protection of the pages' servers."""

import errno
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from fastapi import Request
from pydantic import BaseModel

from atelier.core.errors import AtelierError
from atelier.core.ports import require_free, reserve
from atelier.web.server import Limits, create_app

from ..support.web_server import ask, serving

BODY_LIMIT, UPLOAD_LIMIT, CONCURRENT, SECONDS = 1000, 5000, 4, 0.5


RELEASE, RELEASE_UPLOADS = threading.Event(), threading.Event()
RECEIVED = threading.Semaphore(0)
ERRORS = {
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "memory": MemoryError(),
    "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"),
    "program": KeyError("secret"),
}


# Both requests wait in the event loop; `close` ends the first one.
SCRIPT = """
import asyncio, threading
from atelier.core.ports import reserve
from atelier.web.server import create_app, serve

app, ended = create_app(), threading.Event()

@app.get("/ending")
def ending():
    print("waiting", flush=True)
    assert ended.wait(60)
    return "ended"

@app.get("/endless")
async def endless():
    print("waiting", flush=True)
    await asyncio.sleep(1000)

def close():
    ended.set()
    print("closed", flush=True)

with reserve(0, "x") as reserved:
    print(reserved.getsockname()[1], flush=True)
    serve(app, reserved, close)
"""


class Form(BaseModel):
    """Body of a request."""

    value: int


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server that is protected as those of the commands."""
    uploads = {"/upload": UPLOAD_LIMIT, "/held": UPLOAD_LIMIT}
    app = create_app(Limits(BODY_LIMIT, uploads, CONCURRENT, SECONDS, concurrent_uploads=2))

    @app.get("/slow")
    def _wait() -> str:
        assert RELEASE.wait(60)
        return "done"

    @app.get("/number/{value}")
    async def _number(value: int) -> int:
        if value < 0:
            raise AtelierError("the number is negative.")
        return value

    @app.post("/form")
    async def _form(form: Form) -> int:
        return form.value

    @app.get("/failure/{kind}")
    async def _fail(kind: str) -> None:
        raise ERRORS[kind]

    @app.post("/echo")
    @app.post("/upload")
    async def _length(request: Request) -> int:
        return len(await request.body())

    @app.post("/held")
    def _hold() -> str:
        RECEIVED.release()
        assert RELEASE_UPLOADS.wait(60)
        return "done"

    with serving(app) as number:
        yield number


def test_requests_of_own_pages_are_answered(port: int) -> None:
    own = f"http://127.0.0.1:{port}"
    assert ask(port, "/number/3") == (200, 3)
    assert ask(port, "/number/3", Origin=own, Sec_Fetch_Site="same-origin") == (200, 3)
    assert ask(port, "/number/3", Sec_Fetch_Site="same-site") == (200, 3), "a link from MLflow"
    assert ask(port, "/echo", "POST", b"abc", Origin=own) == (200, 3)
    tunnel = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}
    assert ask(port, "/echo", "POST", b"abc", **tunnel) == (200, 3), "by an SSH tunnel"
    assert ask(port, "/echo", "POST", b"abc", Host=f"[::1]:{port}") == (200, 3)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[", "0.0.0.0"])
def test_foreign_host_is_refused(port: int, host: str) -> None:
    """The name of a foreign site may point to 127.0.0.1 (DNS rebinding)."""
    sentence = "this server only answers requests to 127.0.0.1 or localhost."
    assert ask(port, "/number/3", Host=host) == (403, {"error": sentence})


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Origin": "http://evil.example"}),
        ("GET", {"Origin": "null"}),
        ("GET", {"Origin": "http://127.0.0.1:1"}),
        ("GET", {"Sec_Fetch_Site": "cross-site"}),
        ("POST", {"Sec_Fetch_Site": "same-site"}),
        ("POST", {"Origin": "https://localhost"}),
    ],
)
def test_foreign_page_is_refused(port: int, method: str, headers: dict[str, str]) -> None:
    status, content = ask(port, "/echo" if method == "POST" else "/number/3", method, **headers)
    assert status == 403
    assert content == {"error": "this server only answers requests of its own pages."}


@pytest.mark.parametrize(
    ("path", "limit"), [("/echo", BODY_LIMIT), ("/upload", UPLOAD_LIMIT), ("/form", BODY_LIMIT)]
)
def test_large_bodies_are_refused(port: int, path: str, limit: int) -> None:
    if path != "/form":
        assert ask(port, path, "POST", bytes(limit)) == (200, limit)
    refused = (413, {"error": f"the request is larger than {limit:,} bytes."})
    assert ask(port, path, "POST", bytes(limit + 1)) == refused
    # Without a declared length.
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"2000\r\n" + bytes(0x2000) + b"\r\n0\r\n\r\n")
        assert b" 413 " in connection.recv(100)
    status, _ = ask(port, path, "POST", b"", Content_Length="-5")
    assert status == 400


def test_requests_beyond_the_limit_are_refused_and_the_server_recovers(port: int) -> None:
    busy = (503, {"error": "the server is busy; try again in a moment."})
    with ThreadPoolExecutor(CONCURRENT) as pool:
        waiting = [pool.submit(ask, port, "/slow") for _ in range(CONCURRENT)]
        while ask(port, "/number/1") != busy:
            assert not any(each.done() for each in waiting)
        assert [ask(port, "/number/1") for _ in range(50)] == 50 * [busy]
        RELEASE.set()
        assert [each.result() for each in waiting] == CONCURRENT * [(200, "done")]
    assert ask(port, "/number/1") == (200, 1)


def test_uploads_beyond_their_limit_are_refused_unread(port: int) -> None:
    """They could fill the memory. The whole body is discarded: its size is not checked."""
    busy = (503, {"error": "other files are being uploaded; try again in a moment."})
    with ThreadPoolExecutor(2) as pool:
        uploads = [pool.submit(ask, port, "/held", "POST", b"x") for _ in range(2)]
        assert all(RECEIVED.acquire(timeout=60) for _ in uploads)
        assert ask(port, "/upload", "POST", bytes(1000 * UPLOAD_LIMIT)) == busy
        assert ask(port, "/echo", "POST", bytes(BODY_LIMIT)) == (200, BODY_LIMIT)
        RELEASE_UPLOADS.set()
        assert [upload.result() for upload in uploads] == 2 * [(200, "done")]
    assert ask(port, "/upload", "POST", bytes(UPLOAD_LIMIT)) == (200, UPLOAD_LIMIT)


def test_thousand_requests_are_answered(port: int) -> None:
    for number in range(1000):
        assert ask(port, f"/number/{number}") == (200, number)


def test_request_that_is_not_sent_completely_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")
        assert b" 408 " in connection.recv(100)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("GET", "/number/-1", None, 400, "the number is negative."),
        ("GET", "/nothing", None, 404, "there is no such page."),
        ("GET", "/docs", None, 404, "there is no such page."),  # it loads scripts of another site
        ("GET", "/echo", None, 405, "this address does not take that request."),
        ("POST", "/form", b"{", 422, "the body is not valid JSON."),
        ("POST", "/form", b'{"value":' + b"[" * 400, 422, "the body is not valid JSON."),
        ("POST", "/form", b"{}", 422, "value is not valid: Field required."),
        ("GET", "/failure/disk", None, 500, "there is no room to write a file (No space"),
        ("GET", "/failure/memory", None, 500, "the memory is too small for this; close other"),
        ("GET", "/failure/torch", None, 500, "the memory is too small for this; close other"),
    ],
)
def test_errors_are_sentences(
    port: int, method: str, path: str, body: bytes | None, status: int, sentence: str
) -> None:
    found, content = ask(port, path, method, body, Content_Type="application/json")
    assert (found, list(content)) == (status, ["error"])
    assert content["error"].startswith(sentence)


def test_error_of_the_program_is_shown_in_the_terminal_only(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    sentence = "this is an error of the program; the terminal of the server shows it."
    assert ask(port, "/failure/program") == (500, {"error": sentence})
    assert "KeyError: 'secret'" in capfd.readouterr().err


def test_pages_are_not_cached_framed_or_guessed(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/number/1")
    response = connection.getresponse()
    response.read()
    expected = {"cache-control": "no-store", "x-frame-options": "DENY"}
    expected |= {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}
    assert {name: response.headers[name] for name in expected} == expected
    assert response.headers.get("access-control-allow-origin") is None
    connection.close()


def test_busy_port_is_reported_with_a_free_one(port: int) -> None:
    message = f"^port {port} is in use by another program; type: x --port "
    with pytest.raises(AtelierError, match=message):
        require_free(port, "x")
    with pytest.raises(AtelierError, match=message):
        reserve(port, "x")


def test_reserved_port_is_only_of_this_machine_and_cannot_be_taken() -> None:
    with reserve(0, "x") as reserved:
        address, number = reserved.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(AtelierError, match=f"^port {number} is in use"):
            reserve(number, "x")


def test_ctrl_c_ends_the_server_its_work_and_waiting_requests(tmp_path: Path) -> None:
    """A request whose work is ended is answered; one that goes on is cut after two seconds."""
    script = tmp_path / "server.py"
    script.write_text(SCRIPT, "utf-8")
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        port = int(run.stdout.readline())
        with ThreadPoolExecutor(2) as pool:
            ending, endless = (pool.submit(ask, port, path) for path in ("/ending", "/endless"))
            assert [run.stdout.readline().strip() for _ in range(2)] == ["waiting", "waiting"]
            assert {
                each.laddr.ip
                for each in psutil.Process(run.pid).net_connections()
                if not each.raddr
            } == {"127.0.0.1"}
            run.send_signal(signal.SIGINT)
            assert ending.result() == (200, "ended")
            assert endless.result() == (503, {"error": "the server has ended."})
        output, errors = run.communicate(timeout=60)
    assert (output, errors, run.returncode) == ("closed\n", "", 0)
