"""MLflow server in this process, behind a WSGI layer that injects faults."""

import io
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Rule = Callable[[str, str], str]  # returns the name of a fault, or "", for a method and a path

_ANSWERS = {
    "html 400": ("400 Bad Request", "text/html", b"<html>Bad Request</html>"),
    "json 400": ("400 Bad Request", "application/json", b'{"message": "no"}'),
    "false 400": (
        "400 Bad Request",
        "application/json",
        b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "the request is not valid"}',
    ),
    "empty 200": ("200 OK", "text/html", b""),
    "page 200": ("200 OK", "text/html", b"<html>Please log in</html>"),
    "401": ("401 Unauthorized", "text/plain", b"You are not authenticated."),
    "403": ("403 Forbidden", "application/json", b'{"error_code": "PERMISSION_DENIED"}'),
    "404": ("404 Not Found", "text/html", b"<html>nothing here</html>"),
    "missing": (
        "404 Not Found",
        "application/json",
        b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "there is no such model"}',
    ),
    "413": ("413 Request Entity Too Large", "text/html", b"<html>too large</html>"),
    "500": ("500 Internal Server Error", "text/html", b"<html>sorry</html>"),
    "503": ("503 Service Unavailable", "text/plain", b"later"),
    "429": ("429 Too Many Requests", "text/plain", b"later"),
    "redirect": ("302 Found", "text/html", b""),
}
BEFORE = [*_ANSWERS, "drop", "drip"]
AFTER = ["lost answer", "500 after"]


@dataclass
class Server:
    """A running server.

    Attributes:
        address: for ``MLFLOW_TRACKING_URI``.
        rule: returns the fault of a request; none by default.
        largest: limit for requests to log, in bytes; larger ones get status 413.
        rejected: name that the server rejects in a request; none by default.
        requests: method and path of all received requests.
    """

    address: str
    rule: Rule = lambda method, path: ""
    rejected: str = ""
    largest: int = 1_000_000
    requests: list[tuple[str, str]] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running(store: Path, artifacts: Path) -> Iterator[Server]:
    """Serve an SQLite database; artifacts are uploaded through the server."""
    before = dict(os.environ)
    from mlflow import server as mlflow_server
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as tracking

    os.environ[mlflow_server.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{store}"
    os.environ[mlflow_server.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
    os.environ[mlflow_server.ARTIFACTS_DESTINATION_ENV_VAR] = str(artifacts)
    os.environ[mlflow_server.SERVE_ARTIFACTS_ENV_VAR] = "true"
    from mlflow.server import app, handlers
    from werkzeug.serving import make_server

    uris = registry._registry_uri, tracking._tracking_uri
    handlers.initialize_backend_stores(
        f"sqlite:///{store}", default_artifact_root="mlflow-artifacts:/"
    )
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    state = Server("")
    http = make_server("127.0.0.1", 0, _layer(app.wsgi_app, state), threaded=True)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield state
    finally:
        state.stopped.set()
        http.shutdown()
        thread.join()
        http.server_close()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
        # The server sets its stores for this process; later tests must not use them.
        registry._registry_uri, tracking._tracking_uri = uris
        handlers._tracking_store = handlers._model_registry_store = None


def _layer(app: Callable[..., Iterable[bytes]], state: Server) -> Callable[..., Any]:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        state.requests.append((method, path))
        fault = state.rule(method, path)
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if length > state.largest and "/mlflow/runs/log-" in path:
            fault = "413"
        if state.rejected and path.endswith("log-batch"):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            environ["wsgi.input"] = io.BytesIO(body)
            if f'"{state.rejected}"'.encode() in body:
                start("400 Bad Request", [("Content-Type", "application/json")])
                message = f"Invalid value \"{state.rejected}\" for parameter 'key' supplied"
                error = {"error_code": "INVALID_PARAMETER_VALUE", "message": message}
                return [json.dumps(error).encode()]
        if fault in AFTER:
            list(app(environ, lambda *_: lambda _: None))
            if fault == "lost answer":
                return _dropped(environ)
            # The server has already read the body; another read would block.
            environ["wsgi.input"], fault = io.BytesIO(), "500"
        if fault in _ANSWERS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, kind, body = _ANSWERS[fault]
            headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
            headers += [("Retry-After", "3600")] if fault in ("503", "429") else []
            headers += [("Location", "/login")] if fault == "redirect" else []
            start(status, headers)
            return [body]
        if fault == "drop":
            return _dropped(environ)
        if fault == "drip":
            start("200 OK", [("Content-Type", "application/json"), ("Content-Length", "100000")])
            return _dripping(state)
        return app(environ, start)

    return answer


def _dropped(environ: dict[str, Any]) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


def _dripping(state: Server) -> Iterator[bytes]:
    while not state.stopped.wait(0.2):
        yield b" "
