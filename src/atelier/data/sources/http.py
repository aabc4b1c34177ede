"""Fetching a file by http(s): in pieces, resumed after a break, and checked."""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from atelier.core.errors import AtelierError
from atelier.core.hashing import Checksum, file_digest
from atelier.core.progress import ProgressCallback, silent
from atelier.data.sources.download_cache import PIECE, DownloadCache, copy_with_progress

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)


class PartialDownload:
    """The bytes of a file that have arrived so far.

    Beside them lies a note of what the server said of the whole: its length, and the validator
    (ETag or Last-Modified) that tells whether it still has the same file. Without a validator
    nothing is resumed.
    """

    def __init__(self, path: Path) -> None:
        """Open what an earlier attempt left of ``path``, if anything."""
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._note = path.with_name(path.name + ".json")
        self.validator, self.total = self._read_note()

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self._part.stat().st_size if self._part.exists() else 0

    @property
    def complete(self) -> bool:
        """Whether all bytes that were announced have arrived."""
        return self.total is not None and self.size == self.total

    def range_headers(self) -> dict[str, str]:
        """Ask for the missing bytes, if the server still has the file that these began."""
        if not self.size or not self.validator:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.validator}

    def start(self, response: requests.Response) -> None:
        """Make ready for the body of ``response``: the rest, or else all from the first byte."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code == 206 and found and int(found[1]) == self.size:
            self.total = None if found[2] == "*" else int(found[2])
        else:
            self.discard()
            if response.status_code != 200:
                raise requests.ConnectionError("a range that nobody asked for")
            length = response.headers.get("Content-Length", "")
            self.total = int(length) if _LENGTH.fullmatch(length) else None
            self.validator = _validator(response)
        self._note.write_text(json.dumps({"validator": self.validator, "total": self.total}))

    def append(self, piece: bytes) -> None:
        """Keep the next bytes."""
        with self._part.open("ab") as file:
            file.write(piece)

    def discard(self) -> None:
        """Forget everything that has arrived."""
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.validator, self.total = "", None

    def finish(self) -> None:
        """Give the file its own name."""
        self._part.touch()
        self._part.replace(self._path)
        self._note.unlink(missing_ok=True)

    def _read_note(self) -> tuple[str, int | None]:
        try:
            note: dict[str, Any] = json.loads(self._note.read_text())
            return str(note["validator"]), None if note["total"] is None else int(note["total"])
        except (OSError, ValueError, KeyError, TypeError):
            # Without a legible note the next answer starts from the first byte.
            return "", None


def _validator(response: requests.Response) -> str:
    etag = response.headers.get("ETag", "")
    # A weak ETag promises the same meaning, not the same bytes.
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


_REDIRECTS = 5
# Answers after which it is worth asking again.
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class RetryPolicy:
    """How long to go on trying.

    Attributes:
        attempts: how often the server is asked in all.
        pause: seconds before the second attempt; doubled before each later one.
        timeout: seconds to wait for a connection, and for the next bytes.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: tuple[float, float] = (10.0, 60.0)


class _TransientError(Exception):  # noqa: N818 - an event, not an error
    """The server may answer if it is asked again; the message says what happened."""


def fetch(
    url: str,
    scratch: DownloadCache,
    checksum: Checksum,
    report: ProgressCallback = silent,
    patience: RetryPolicy | None = None,
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
    path = scratch.lock(_key(url, checksum), report)
    if not path.exists():
        _fetch_all(url, PartialDownload(path), report, patience or RetryPolicy())
    if not checksum.value:
        actual = file_digest(path, checksum.algorithm)
        path.replace(scratch.lock(_key(url, Checksum(checksum.algorithm, actual)), report))
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


def _fetch_all(
    url: str, partial: PartialDownload, report: ProgressCallback, patience: RetryPolicy
) -> None:
    shown = _public(url)
    with requests.Session() as session:
        session.max_redirects = _REDIRECTS
        for attempt in range(patience.attempts):
            try:
                _fetch_rest(session, url, partial, report, patience.timeout)
            except _TransientError as error:
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
    partial: PartialDownload,
    report: ProgressCallback,
    timeout: tuple[float, float],
) -> None:
    """Ask once for what is still missing, and keep whatever comes."""
    if partial.complete:
        return
    shown = _public(url)
    # The bytes are wanted as they lie there: a transfer encoding would falsify their count.
    headers = {"Accept-Encoding": "identity", **partial.range_headers()}
    with (
        _errors_as_sentences(shown),
        session.get(url, headers=headers, stream=True, timeout=timeout) as response,
    ):
        _reject_response(response, shown)
        partial.start(response)
        for piece in response.raw.stream(PIECE, decode_content=False):
            if partial.size == 0:
                _reject_html(piece, shown)
            partial.append(piece)
            report(copy_with_progress(partial.size, partial.total))
    _reject_length(partial)


@contextmanager
def _errors_as_sentences(shown: str) -> Iterator[None]:
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
        raise _TransientError("it did not answer in time") from None
    except (requests.ConnectionError, urllib3.exceptions.HTTPError):
        raise _TransientError("the connection failed") from None
    except requests.RequestException as error:
        raise AtelierError(
            f"{shown} cannot be fetched ({type(error).__name__}); check the address."
        ) from None


def _reject_length(partial: PartialDownload) -> None:
    if partial.total is None or partial.complete:
        return
    size, total = partial.size, partial.total
    if size > total:
        partial.discard()
    raise _TransientError(f"{size} bytes came, {total} were announced")


def _reject_response(response: requests.Response, shown: str) -> None:
    status = response.status_code
    if status in _TRANSIENT_STATUS:
        raise _TransientError(f"it answered {status}")
    if status in (401, 403):
        raise AtelierError(
            f"{shown} answered {status}: it wants a permission that this address does not carry;"
            " fetch the file by hand and give its path."
        )
    if status not in (200, 206, 416):
        raise AtelierError(f"{shown} answered {status} instead of a file; check the address.")
    if status == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
        _reject_html(b"<html", shown)


def _reject_html(start: bytes, shown: str) -> None:
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise AtelierError(
            f"{shown} sent a web page instead of a file, as sites do that want a login or a click;"
            " fetch the file by hand and give its path."
        )
