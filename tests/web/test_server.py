"""Protection of the pages' servers."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest
from fastapi import Request

from atelier.core.errors import AtelierError
from atelier.core.ports import require_free
from atelier.web.server import Limits, create_app

from ..support.web_server import ask, serving

BODY_LIMIT, UPLOAD_LIMIT, CONCURRENT = 1000, 5000, 4


RELEASE = threading.Event()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Port of a server that is protected as those of the commands."""
    app = create_app(Limits(BODY_LIMIT, {"/upload": UPLOAD_LIMIT}, CONCURRENT))

    @app.get("/slow")
    def _wait() -> str:
        assert RELEASE.wait(60)
        return "done"

    @app.get("/number/{value}")
    async def _number(value: int) -> int:
        if value < 0:
            raise AtelierError("the number is negative.")
        return value

    @app.post("/echo")
    @app.post("/upload")
    async def _length(request: Request) -> int:
        return len(await request.body())

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


@pytest.mark.parametrize(("path", "limit"), [("/echo", BODY_LIMIT), ("/upload", UPLOAD_LIMIT)])
def test_large_bodies_are_refused(port: int, path: str, limit: int) -> None:
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


def test_thousand_requests_are_answered(port: int) -> None:
    for number in range(1000):
        assert ask(port, f"/number/{number}") == (200, number)


def test_errors_are_sentences(port: int) -> None:
    assert ask(port, "/number/-1") == (400, {"error": "the number is negative."})
    status, content = ask(port, "/number/x")
    assert status == 422
    assert content["error"].startswith("value is not valid: ")
    assert ask(port, "/docs")[0] == 404, "the page would load scripts of another site"


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
    with pytest.raises(AtelierError, match=f"^port {port} is in use by another program; type: x "):
        require_free(port, "x")
