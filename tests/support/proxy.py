"""HTTP proxy that injects faults into selected requests."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

# Not forwarded: the proxy reads complete bodies and closes each connection.
_OF_CONNECTION = {"connection", "transfer-encoding", "content-length", "keep-alive", "expect"}
_LOGIN = "/a-login-page"
# Timeout of clients in these tests, and durations of faults.
TIMEOUT_SECONDS = 2
SLOW_SECONDS = 3.0
DRIP_SECONDS = 0.5

REQUESTS = {
    "find experiment": "GET .*/experiments/get-by-name",
    "create experiment": "POST .*/experiments/create",
    "search experiments": "POST .*/experiments/search",
    "search runs": "POST .*/runs/search",
    "create run": "POST .*/runs/create",
    "get run": "GET .*/runs/get",
    "log batch": "POST .*/runs/log-batch",
    "update run": "POST .*/runs/update",
    "log inputs": "POST .*/runs/log-inputs",
    "upload": "PUT .*/mlflow-artifacts/artifacts/",
    "list files": r"GET .*/mlflow-artifacts/artifacts\?",
}


@dataclass(frozen=True)
class Answer:
    """Response of the proxy.

    Attributes:
        status: HTTP status; 0 closes the connection without a response.
        body: content of the response.
        kind: content type of the body.
        forward: send the request to the server first, and discard the server's response.
        headers: further headers of the response.
    """

    status: int = 0
    body: bytes = b""
    kind: str = "text/html"
    forward: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def _error(status: int, code: str) -> Answer:
    body = json.dumps({"error_code": code, "message": "not now"}).encode()
    return Answer(status, body, "application/json")


_PAGE = b"<html><body><h1>Bad Request</h1></body></html>"
ANSWERS = {
    "drop": Answer(),
    "lose": Answer(forward=True),
    "500": _error(500, "INTERNAL_ERROR"),
    "503": _error(503, "TEMPORARILY_UNAVAILABLE"),
    "lost 500": Answer(500, b'{"error_code": "INTERNAL_ERROR"}', "application/json", forward=True),
    "lost 504": Answer(504, _PAGE, forward=True),
    "400": _error(400, "BAD_REQUEST"),
    "invalid": _error(400, "INVALID_PARAMETER_VALUE"),
    "html 400": Answer(400, _PAGE),
    "html 404": Answer(404, _PAGE),
    "html 200": Answer(200, _PAGE),
    "empty 200": Answer(200),
    "401": Answer(401, b"Unauthorized", headers=(("WWW-Authenticate", 'Basic realm="mlflow"'),)),
    "403": Answer(403, b"Permission denied"),
    "413": Answer(413, _PAGE),
    "429": Answer(429, b"{}", "application/json", headers=(("Retry-After", "3600"),)),
    "redirect": Answer(302, headers=(("Location", _LOGIN),)),
}
# Faults in the transfer of the server's response.
TRANSPORTS = ("cut", "drip", "late", "slow")
FAULTS = (*ANSWERS, *TRANSPORTS)


@dataclass
class _Fault:
    name: str
    request: str
    times: int


@dataclass
class Proxy:
    """Planned faults and received requests.

    Attributes:
        address: URL of the proxy.
        requests: method and path of every request, and its fault.
    """

    server: str
    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    _faults: list[_Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)

    def add(self, fault: str, request: str = "", times: int = 1) -> None:
        """Inject a fault into the next requests whose method and path match a pattern.

        An empty fault forwards them unchanged, before later faults of the same pattern.
        """
        if fault and fault not in FAULTS:
            raise ValueError(f"{fault} is not one of {FAULTS}")
        with self._lock:
            self._faults.append(_Fault(fault, request, times))

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def met(self) -> int:
        """Return the number of requests with a fault."""
        with self._lock:
            return sum(1 for _, fault in self.requests if fault)

    def take(self, request: str) -> str:
        """Record a request; return the name of its fault, or an empty string."""
        with self._lock:
            name = ""
            for fault in self._faults:
                if fault.times and re.search(fault.request, request):
                    fault.times -= 1
                    name = fault.name
                    break
            self.requests.append((request, name))
            return name

    def wait(self, seconds: float) -> None:
        """Wait for some seconds, or until the proxy is closed."""
        self.closed.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    proxy: ClassVar[Proxy]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _handle(self) -> None:
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.startswith(_LOGIN):
            self._send(200, [("Content-Type", "text/html")], _PAGE)
            return
        fault = self.proxy.take(f"{self.command} {self.path}")
        # The client may have closed the connection.
        with suppress(OSError, HTTPException):
            if fault in ANSWERS:
                answer = ANSWERS[fault]
                if answer.forward:
                    self._forward(body)
                if answer.status:
                    headers = [("Content-Type", answer.kind), *answer.headers]
                    self._send(answer.status, headers, answer.body)
                return
            if fault == "slow":
                self.proxy.wait(SLOW_SECONDS)
            status, headers, content = self._forward(body)
            if fault == "late":
                self.proxy.wait(SLOW_SECONDS)
            self._send(status, headers, content, fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        host = urlsplit(self.proxy.server).netloc
        connection = HTTPConnection(host, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _OF_CONNECTION}
            # Clients that are configured for a proxy send absolute URLs.
            path = urlsplit(self.path)._replace(scheme="", netloc="").geturl()
            connection.request(self.command, path, body, headers | {"Connection": "close"})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _send(
        self, status: int, headers: list[tuple[str, str]], body: bytes, fault: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _OF_CONNECTION:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
        elif fault == "drip":
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.proxy.wait(DRIP_SECONDS)
        else:
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of clients that have closed the connection."""


@contextmanager
def proxy(server: str) -> Iterator[Proxy]:
    """Run a proxy for a server in the body of ``with``."""
    running = Proxy(server)
    handler = type("Handler", (_Handler,), {"proxy": running})
    with _Server(("127.0.0.1", 0), handler) as listening:
        running.address = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield running
        finally:
            running.closed.set()
            listening.shutdown()
            thread.join()
