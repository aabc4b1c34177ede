"""Servers of pages on this machine, and what protects them.

A page of another site that is open in the same browser can send requests to 127.0.0.1, directly or
by a name that it points there (DNS rebinding). So requests must name this machine as their host,
and come from a page of this server.
"""

import asyncio
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atelier.core.errors import AtelierError, is_out_of_memory, os_error_message
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
        seconds: until a request is received completely.
        concurrent_uploads: requests to the paths of ``uploads``, likewise.
    """

    body: int = 64 * 1024
    uploads: Mapping[str, int] = field(default_factory=dict)
    concurrent: int = 16
    seconds: float = 30.0
    concurrent_uploads: int = 2

    def of(self, path: str) -> int:
        """Return the largest body of a request to a path, in bytes."""
        return self.uploads.get(path, self.body)


class _RefusedError(Exception):
    """Raised with the status and the sentence of a refusal."""


class Guard:
    """ASGI middleware: refuse requests of foreign pages, too large or slow ones, and too many."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits
        self._active, self._uploads = 0, 0

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
        is_upload = scope["path"] in self._limits.uploads
        is_refused = is_upload and self._uploads >= self._limits.concurrent_uploads
        self._active += 1
        self._uploads += is_upload and not is_refused
        try:
            if is_refused:
                await self._discard_body(receive)
                refusal = 503, "other files are being uploaded; try again in a moment."
                await _answer(refusal, scope, receive, send)
            else:
                await self._forward(scope, receive, send, int(headers.get("content-length") or 0))
        finally:
            self._active -= 1
            self._uploads -= is_upload and not is_refused

    async def _forward(self, scope: Scope, receive: Receive, send: Send, length: int) -> None:
        """Receive the whole body, and pass the request on."""
        has_started = False

        async def protected(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                added = ((name.encode(), value.encode()) for name, value in _HEADERS.items())
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        try:
            body = await self._body(receive, self._limits.of(scope["path"]), length)
            await self._app(scope, _replayed(body, receive), protected)
        except _RefusedError as error:
            await _answer(error.args, scope, receive, send)
        except asyncio.CancelledError:  # at the end of the server
            if not has_started:
                await _answer((503, "the server has ended."), scope, receive, send)

    async def _discard_body(self, receive: Receive) -> None:
        """Receive a body without storing it; a browser reads the answer when it has sent all."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.seconds):
                while (await receive()).get("more_body", False):
                    pass

    async def _body(self, receive: Receive, limit: int, length: int) -> bytes:
        """Return the body; raise if it is larger than a limit, or takes too long."""
        body, has_more = bytearray(), True
        try:
            async with asyncio.timeout(self._limits.seconds):
                while has_more:
                    if max(len(body), length) > limit:
                        raise _RefusedError(413, f"the request is larger than {limit:,} bytes.")
                    message = await receive()
                    body += message.get("body", b"")
                    has_more = message.get("more_body", False)
        except TimeoutError:
            seconds = f"{self._limits.seconds:g} seconds"
            raise _RefusedError(408, f"the request was not sent within {seconds}.") from None
        if len(body) > limit:
            raise _RefusedError(413, f"the request is larger than {limit:,} bytes.")
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that returns the body first, and then what ``receive`` returns."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


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
    or parameters of the wrong type, 500 for a full disk, exhausted memory and errors of the program
    itself. FastAPI's pages of documentation, which load scripts of other sites, are off.

    Args:
        limits: bounds on the requests.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(AtelierError, _mistake)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_answer)
    for error in (OSError, MemoryError, Exception):
        app.add_exception_handler(error, _failure)
    app.add_middleware(Guard, limits=limits or Limits())
    return app


async def _mistake(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 400)


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return JSONResponse({"error": "the body is not valid JSON."}, 422)
    place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return JSONResponse({"error": f"{place} is not valid: {first['msg']}."}, 422)


async def _no_answer(_: Request, error: Any) -> JSONResponse:
    sentences = {404: "there is no such page.", 405: "this address does not take that request."}
    sentence = sentences.get(error.status_code, "the request is not valid.")
    return JSONResponse({"error": sentence}, error.status_code)


async def _failure(_: Request, error: Exception) -> JSONResponse:
    known = os_error_message(error) if isinstance(error, OSError) else ""
    if is_out_of_memory(error):
        known = "the memory is too small for this; close other programs and try again."
    if not known:
        traceback.print_exception(error)
        known = "this is an error of the program; the terminal of the server shows it."
    return JSONResponse({"error": known}, 500)


class _Server(uvicorn.Server):
    """A server that ends other work when it receives a signal."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        super().__init__(config)
        self.closing = threading.Thread(target=close)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the server after a signal; requests that wait for the work can then be answered."""
        if not self.should_exit:
            self.closing.start()
        super().handle_exit(sig, frame)


def serve(app: FastAPI, reserved: socket.socket, close: Callable[[], None] = lambda: None) -> None:
    """Answer requests until Ctrl-C.

    Args:
        app: from :func:`create_app`.
        reserved: from :func:`atelier.core.ports.reserve`.
        close: ends the work of requests; called once, in another thread.
    """
    config = uvicorn.Config(
        app,
        # h11 also where httptools is installed: its limits of headers do not depend on the machine.
        http="h11",
        # Errors are printed by the application. uvicorn's are those of requests that it cancels.
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, close)
    try:
        server.run([reserved])
    except KeyboardInterrupt:  # uvicorn raises the signal again after it has ended
        pass
    finally:
        if server.closing.ident is None:
            server.closing.start()
        server.closing.join()
