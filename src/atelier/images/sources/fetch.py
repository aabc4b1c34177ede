"""Fetching a file by http(s): in pieces, resumed after a break, and checked."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3

from atelier.errors import AtelierError
from atelier.images.checksum import Checksum, digest
from atelier.images.sources.partial import Partial
from atelier.images.sources.scratch import Scratch
from atelier.images.sources.transfer import PIECE, transferred
from atelier.progress import Report, silent

_REDIRECTS = 5
# Answers after which it is worth asking again.
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Patience:
    """How long to go on trying.

    Attributes:
        attempts: how often the server is asked in all.
        pause: seconds before the second attempt; doubled before each later one.
        timeout: seconds to wait for a connection, and for the next bytes.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: tuple[float, float] = (10.0, 60.0)


class _Interrupted(Exception):  # noqa: N818 - an event, not an error
    """The server may answer if it is asked again; the message says what happened."""


def fetch(
    url: str,
    scratch: Scratch,
    checksum: Checksum,
    report: Report = silent,
    patience: Patience | None = None,
) -> Path:
    """Fetch ``url`` into ``scratch`` and return the path of the checked file.

    What arrived before a break stays in ``scratch``, and the next call goes on from there if
    the server still has the same file. One process at a time fetches a file; another one waits.

    Args:
        url: an http or https address.
        scratch: where it is kept, named by a hash of address and checksum.
        checksum: what the file must agree with.
        report: told of bytes.
        patience: how often and how long to try.

    Raises:
        AtelierError: the address is none, the server cannot be reached, refuses, or sends a web
            page or another file than the checksum asks for; or the checksum is empty, and then
            the sentence says what it is.
    """
    shown = _public(url)
    path = scratch.claim(_key(url, checksum), report)
    if not path.exists():
        _fetch_all(url, Partial(path), report, patience or Patience())
    if not checksum.value:
        actual = digest(path, checksum.algorithm)
        path.replace(scratch.claim(_key(url, Checksum(checksum.algorithm, actual)), report))
        raise AtelierError(
            f"the {checksum.algorithm} of {shown} is not set, so that nobody could tell if the"
            f" file changed: what came has {actual}; set it to that if you trust it, and run again."
        )
    if not checksum.agrees(path):
        path.unlink()
        raise AtelierError(
            f"{shown} sent a file whose {checksum.algorithm} is not {checksum.value}; it was"
            " removed: check the address and the checksum, and run again."
        )
    return path


def _key(url: str, checksum: Checksum) -> str:
    """Name a file without showing its address, which may hold a token."""
    return hashlib.sha256(f"{url}\n{checksum.value.lower()}".encode()).hexdigest()[:32]


def _public(url: str) -> str:
    """Give an address without user, password, query and fragment: what may be shown."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = parts = None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise AtelierError("the address is not valid; it must start with http:// or https://.")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _fetch_all(url: str, partial: Partial, report: Report, patience: Patience) -> None:
    shown = _public(url)
    with requests.Session() as session:
        session.max_redirects = _REDIRECTS
        for attempt in range(patience.attempts):
            try:
                _fetch_rest(session, url, partial, report, patience.timeout)
            except _Interrupted as error:
                reason = str(error)
            else:
                partial.finish()
                return
            if attempt + 1 < patience.attempts:
                time.sleep(patience.pause * 2**attempt)
    raise AtelierError(
        f"{shown} could not be fetched in {patience.attempts} attempts ({reason}); run again"
        " later, and it goes on from where it was."
    )


def _fetch_rest(
    session: requests.Session,
    url: str,
    partial: Partial,
    report: Report,
    timeout: tuple[float, float],
) -> None:
    """Ask once for what is still missing, and keep whatever comes."""
    if partial.complete:
        return
    shown = _public(url)
    # The bytes are wanted as they lie there: a transfer encoding would falsify their count.
    headers = {"Accept-Encoding": "identity", **partial.range_headers()}
    with (
        _faults_told(shown),
        session.get(url, headers=headers, stream=True, timeout=timeout) as response,
    ):
        _refuse(response, shown)
        partial.start(response)
        for piece in response.raw.stream(PIECE, decode_content=False):
            if partial.size == 0:
                _refuse_page(piece, shown)
            partial.append(piece)
            report(transferred(partial.size, partial.total))
    _refuse_length(partial)


@contextmanager
def _faults_told(shown: str) -> Iterator[None]:
    """Tell faults after which it is worth asking again from those that stay."""
    try:
        yield
    except requests.TooManyRedirects:
        raise AtelierError(
            f"{shown} leads through more than {_REDIRECTS} redirects; give the final address."
        ) from None
    except requests.exceptions.SSLError:
        raise AtelierError(
            f"the certificate of {shown} cannot be verified; check the address and this"
            " machine's clock."
        ) from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _Interrupted("it did not answer in time") from None
    except (requests.ConnectionError, urllib3.exceptions.HTTPError):
        raise _Interrupted("the connection failed") from None
    except requests.RequestException as error:
        raise AtelierError(
            f"{shown} cannot be fetched ({type(error).__name__}); check the address."
        ) from None


def _refuse_length(partial: Partial) -> None:
    if partial.total is None or partial.complete:
        return
    size, total = partial.size, partial.total
    if size > total:
        partial.discard()
    raise _Interrupted(f"{size} bytes came, {total} were announced")


def _refuse(response: requests.Response, shown: str) -> None:
    status = response.status_code
    if status in _PASSING:
        raise _Interrupted(f"it answered {status}")
    if status in (401, 403):
        raise AtelierError(
            f"{shown} answered {status}: it wants a permission that this address does not carry;"
            " fetch the file by hand and give its path."
        )
    if status not in (200, 206, 416):
        raise AtelierError(f"{shown} answered {status} instead of a file; check the address.")
    if status == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
        _refuse_page(b"<html", shown)


def _refuse_page(start: bytes, shown: str) -> None:
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise AtelierError(
            f"{shown} sent a web page instead of a file, as sites do that want a login or a click;"
            " fetch the file by hand and give its path."
        )
