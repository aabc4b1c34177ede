"""Limits for MLflow's requests: one attempt, a deadline for all of it, and an answer of MLflow.

MLflow's own limits count the seconds between two bytes, so that a server which sends a byte
at a time blocks for ever, and it sends a request again whose answer was lost, although the
server may have carried it out. Delivery retries by itself, and looks first.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import IOBase
from typing import TYPE_CHECKING, Any

from atelier.tracking.values import shown

if TYPE_CHECKING:
    from requests import Response

_SECONDS = 30.0
_SLOWEST = 50_000  # bytes a second, for an upload
_MOVED = (301, 302, 303)  # such a redirect turns a request that writes into one that reads


class DeadlineExceededError(Exception):
    """Raised if something took longer than its deadline allows."""


class _DeadlineError(BaseException):
    """Not an ``Exception``: a library that handles those must not take it for its own."""


def limit_requests() -> None:
    """Have all of MLflow's requests to a tracking server limited, in this process."""
    from mlflow.utils import rest_utils
    from requests.exceptions import Timeout

    name = "_get_http_response_with_retries"  # all requests pass it
    send: Any = getattr(rest_utils, name)
    if getattr(send, "limited", False):
        return

    def limited(method: str, url: str, *_retries: Any, **options: Any) -> "Response":
        options["respect_retry_after_header"] = False
        try:
            with deadline(_allowed(options)):
                response: Response = send(method, url, 0, 0, 0, frozenset(), False, **options)
        except DeadlineExceededError as error:
            raise Timeout(str(error)) from None
        _refuse_foreign_answer(method, url, response, bool(options.get("stream")))
        return response

    limited.limited = True  # type: ignore[attr-defined]
    setattr(rest_utils, name, limited)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise :class:`DeadlineExceededError` if the body takes longer; only in the main thread.

    A signal interrupts a read that never ends, which no check between two reads can.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(_number: int, _frame: Any) -> None:
        raise _DeadlineError

    # An outer deadline that ends earlier holds, too.
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    seconds = min(seconds, left or seconds)
    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _DeadlineError:
        raise DeadlineExceededError(f"no complete answer within {seconds:.0f} s") from None
    finally:
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = left - (time.monotonic() - began)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 0.001))


def _allowed(options: dict[str, Any]) -> float:
    """Return the seconds that a request may take, by its timeout and the size of its file."""
    timeout = options.get("timeout")
    seconds = min(_SECONDS, 3.0 * timeout) if isinstance(timeout, (int, float)) else _SECONDS
    data = options.get("data")
    size = os.fstat(data.fileno()).st_size if isinstance(data, IOBase) else 0
    return float(seconds + size / _SLOWEST)


def _refuse_foreign_answer(method: str, url: str, response: "Response", stream: bool) -> None:
    """Raise if an answer cannot be MLflow's, although its status says that all is well.

    Raises:
        requests.ConnectionError: a login page, an empty body, a redirect that lost the request.
    """
    from requests.exceptions import ConnectionError as NoAnswerError

    moved = [answer for answer in response.history if answer.status_code in _MOVED]
    if method.upper() != "GET" and moved:
        place = shown(moved[0].headers.get("Location", "another address"))
        raise NoAnswerError(f"foreign answer: the server redirects to {place}")
    if 300 <= response.status_code < 400:
        raise NoAnswerError(f"foreign answer: the server redirects ({response.status_code})")
    downloads = method.upper() == "GET" and "/mlflow-artifacts/artifacts/" in url
    ours = "/mlflow/" in url or "/mlflow-artifacts/" in url
    uploads = method.upper() == "PUT" and "/mlflow-artifacts/artifacts/" in url
    if response.status_code != 200 or stream or downloads or not ours:
        return
    if uploads and not response.content:
        return  # MLflow's own answer is empty, too; the caller verifies the file
    try:
        is_object = isinstance(json.loads(response.content), dict)
    except ValueError:
        is_object = False
    if not is_object:
        what = "an empty answer" if not response.content.strip() else "no JSON"
        raise NoAnswerError(f"foreign answer: {what} where MLflow sends JSON")
