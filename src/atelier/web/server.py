"""Servers of pages on this machine, and what protects them.

A page of another site that is open in the same browser can send requests to 127.0.0.1, directly or
by a name that it points there (DNS rebinding). So requests must name this machine as their host,
and come from a page of this server.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.core.errors import AtelierError
from atelier.core.ports import HOST

_HOSTS = {HOST, "localhost", "::1"}
_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class Limits:
    """Bounds on the requests of a server.

    Attributes:
        body: bytes of a request's body.
        uploads: bytes of the body of requests to these paths.
        concurrent: requests that are answered at the same time; others are refused with 503.
    """

    body: int = 64 * 1024
    uploads: Mapping[str, int] = field(default_factory=dict)
    concurrent: int = 16

    def of(self, path: str) -> int:
        """Return the largest body of a request to a path, in bytes."""
        return self.uploads.get(path, self.body)


class _TooLargeError(Exception):
    """Raised when a body is larger than its limit."""


class Guard:
    """ASGI middleware: refuse requests of foreign pages, too large ones, and too many."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits, self._active = app, limits, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websockets: uvicorn refuses the connection
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        refusal = _refusal(scope["method"], headers)
        if refusal is None and self._active >= self._limits.concurrent:
            refusal = 503, "the server is busy; try again in a moment."
        if refusal is not None:
            await _answer(refusal, scope, receive, send)
            return
        self._active += 1
        try:
            await self._limited(scope, receive, send, headers)
        finally:
            self._active -= 1

    async def _limited(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str]
    ) -> None:
        """Pass a request on; refuse it once its body exceeds the limit."""
        limit, received, started = self._limits.of(scope["path"]), 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLargeError
            return message

        async def protected(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        too_large = 413, f"the request is larger than {limit:,} bytes."
        if int(headers.get("content-length") or 0) > limit:
            await _answer(too_large, scope, receive, send)
            return
        try:
            await self._app(scope, counted, protected)
        except _TooLargeError:
            if not started:
                await _answer(too_large, scope, receive, send)


def _refusal(method: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
    """Return status and sentence for a request that another site may have caused; or ``None``."""
    host = headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in _HOSTS:
        return 403, "this server only answers requests to 127.0.0.1 or localhost."
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    foreign = site == "cross-site" or (method != "GET" and site == "same-site")
    if foreign or origin not in (None, f"http://{host}"):
        return 403, "this server only answers requests of its own pages."
    if not headers.get("content-length", "0").isdecimal():
        return 400, "the header Content-Length is not a number."
    return None


async def _answer(refusal: tuple[int, str], scope: Scope, receive: Receive, send: Send) -> None:
    status, sentence = refusal
    headers = _HEADERS | ({"retry-after": "1"} if status == 503 else {"connection": "close"})
    await JSONResponse({"error": sentence}, status, headers)(scope, receive, send)


def create_app(limits: Limits | None = None) -> FastAPI:
    """Return an application without routes, which is protected and reports errors as sentences.

    Errors have the body ``{"error": sentence}``: 400 for an :class:`AtelierError`, 422 for a body
    or parameters of the wrong type. FastAPI's pages of documentation, which load scripts of other
    sites, are off.

    Args:
        limits: bounds on the requests.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def mistake(_: Request, error: Any) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    async def invalid(_: Request, error: Any) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return JSONResponse({"error": f"{place} is not valid: {first['msg']}."}, 422)

    app.add_exception_handler(AtelierError, mistake)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_middleware(Guard, limits=limits or Limits())
    return app


def serve(app: FastAPI, port: int) -> None:
    """Answer requests on a port of this machine until Ctrl-C.

    Args:
        app: from :func:`create_app`.
        port: checked with :func:`atelier.core.ports.require_free`.
    """
    # h11 also where httptools is installed: its limits of headers do not depend on the machine.
    uvicorn.run(
        app,
        host=HOST,
        port=port,
        http="h11",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
