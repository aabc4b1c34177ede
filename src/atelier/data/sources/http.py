"""Download of one file by HTTP(S) with resume, retries and checksum."""

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
from atelier.data.sources.download_cache import PIECE, DownloadCache, transfer_progress

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
_MAX_REDIRECTS = 5
# Status codes after which a retry can succeed.
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


class PartialDownload:
    """Incomplete download of a file, with the metadata that a resume needs.

    The metadata is a JSON file with the total size and the validator (ETag or Last-Modified), which
    shows whether the server still has the same file. Without a validator, a download starts again.

    Attributes:
        validator: the validator, or an empty string.
        total: size of the complete file, ``None`` if it is unknown.
    """

    def __init__(self, path: Path) -> None:
        """Open the incomplete download of ``path``, if there is one."""
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._metadata = path.with_name(path.name + ".json")
        self.validator, self.total = self._read_metadata()

    @property
    def size(self) -> int:
        """Number of received bytes."""
        return self._part.stat().st_size if self._part.exists() else 0

    @property
    def complete(self) -> bool:
        """Whether all announced bytes were received."""
        return self.total is not None and self.size == self.total

    def range_headers(self) -> dict[str, str]:
        """Return headers that request the missing bytes if the file is unchanged on the server."""
        if not self.size or not self.validator:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.validator}

    def start(self, response: requests.Response) -> None:
        """Prepare for the body of a response: the missing bytes or the whole file."""
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code == 206 and found and int(found[1]) == self.size:
            self.total = None if found[2] == "*" else int(found[2])
        else:
            self.discard()
            if response.status_code != 200:
                raise requests.ConnectionError("a range that was not requested")
            length = response.headers.get("Content-Length", "")
            self.total = int(length) if _LENGTH.fullmatch(length) else None
            self.validator = _validator(response)
        self._metadata.write_text(json.dumps({"validator": self.validator, "total": self.total}))

    def append(self, piece: bytes) -> None:
        """Append received bytes."""
        with self._part.open("ab") as file:
            file.write(piece)

    def discard(self) -> None:
        """Remove all received bytes."""
        self._part.unlink(missing_ok=True)
        self._metadata.unlink(missing_ok=True)
        self.validator, self.total = "", None

    def finish(self) -> None:
        """Rename the complete download to its final path."""
        self._part.touch()
        self._part.replace(self._path)
        self._metadata.unlink(missing_ok=True)

    def _read_metadata(self) -> tuple[str, int | None]:
        try:
            metadata: dict[str, Any] = json.loads(self._metadata.read_text())
            total = metadata["total"]
            return str(metadata["validator"]), None if total is None else int(total)
        except (OSError, ValueError, KeyError, TypeError):
            # Without valid metadata, the download starts again.
            return "", None


def _validator(response: requests.Response) -> str:
    etag = response.headers.get("ETag", "")
    # A weak ETag does not guarantee identical bytes.
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts, pauses and timeouts of a download.

    Attributes:
        attempts: number of requests.
        pause: seconds before the second attempt, doubled for each later one.
        timeout: seconds to wait for a connection, and for the next bytes.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: tuple[float, float] = (10.0, 60.0)


class _TransientError(Exception):
    """Raised after a failure for which a retry can succeed; the message is the reason."""


def fetch(
    url: str,
    cache: DownloadCache,
    checksum: Checksum,
    report: ProgressCallback = silent,
    retry: RetryPolicy | None = None,
) -> Path:
    """Download ``url`` to ``cache`` and return the path of the verified file.

    After an interruption, received bytes remain in ``cache``. The next call resumes the download
    if the server still has the same file. If another process downloads the same file, this call
    blocks until that process has finished.

    Args:
        url: an http or https address.
        cache: folder of the file, whose name is a hash of address and checksum.
        checksum: expected checksum of the file.
        report: called with the number of received bytes.
        retry: number of attempts, pauses and timeouts.

    Raises:
        AtelierError: the address is invalid, the server does not respond, refuses the request, or
            sends a web page or another file. Also if the checksum is empty; the message then
            contains the actual one.
    """
    public_url = _public(url)
    path = cache.lock(_key(url, checksum), report)
    if not path.exists():
        _fetch_all(url, PartialDownload(path), report, retry or RetryPolicy())
    if not checksum.value:
        actual = file_digest(path, checksum.algorithm)
        path.replace(cache.lock(_key(url, Checksum(checksum.algorithm, actual)), report))
        raise AtelierError(
            f"the {checksum.algorithm} of {public_url} is not set, so that changes of the file"
            f" could not be detected: the received file has {actual}; set it to that if you trust"
            " the file, and run again."
        )
    if not checksum.agrees(path):
        path.unlink()
        raise AtelierError(
            f"{public_url} sent a file whose {checksum.algorithm} is not {checksum.value}; it was"
            " removed: check the address and the checksum, and run again."
        )
    return path


def _key(url: str, checksum: Checksum) -> str:
    """Return a file name that does not reveal the address, which may contain a token."""
    return hashlib.sha256(f"{url}\n{checksum.value.lower()}".encode()).hexdigest()[:32]


def _public(url: str) -> str:
    """Return an address without user, password, query and fragment, for messages."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = parts = None
    if parts is None or parts.scheme not in ("http", "https") or not host:
        raise AtelierError("the address is not valid; it must start with http:// or https://.")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"


def _fetch_all(
    url: str, partial: PartialDownload, report: ProgressCallback, retry: RetryPolicy
) -> None:
    """Complete a download with retries."""
    with requests.Session() as session:
        session.max_redirects = _MAX_REDIRECTS
        for attempt in range(retry.attempts):
            try:
                _fetch_rest(session, url, partial, report, retry.timeout)
            except _TransientError as error:
                reason = str(error)
            else:
                partial.finish()
                return
            if attempt + 1 < retry.attempts:
                time.sleep(retry.pause * 2**attempt)
    raise AtelierError(
        f"{_public(url)} could not be fetched in {retry.attempts} attempts ({reason}); run again"
        " later to resume the download."
    )


def _fetch_rest(
    session: requests.Session,
    url: str,
    partial: PartialDownload,
    report: ProgressCallback,
    timeout: tuple[float, float],
) -> None:
    """Send one request for the missing bytes and append the received ones."""
    if partial.complete:
        return
    public_url = _public(url)
    # Compression would change the number of received bytes.
    headers = {"Accept-Encoding": "identity", **partial.range_headers()}
    with (
        _errors_as_sentences(public_url),
        session.get(url, headers=headers, stream=True, timeout=timeout) as response,
    ):
        _reject_response(response, public_url)
        partial.start(response)
        for piece in response.raw.stream(PIECE, decode_content=False):
            if partial.size == 0:
                _reject_html(piece, public_url)
            partial.append(piece)
            report(transfer_progress(partial.size, partial.total))
    _reject_length(partial)


@contextmanager
def _errors_as_sentences(public_url: str) -> Iterator[None]:
    """Convert errors of requests to :class:`_TransientError` or AtelierError."""
    try:
        yield
    except requests.TooManyRedirects:
        raise AtelierError(
            f"{public_url} leads through more than {_MAX_REDIRECTS} redirects; give the final"
            " address."
        ) from None
    except requests.exceptions.SSLError:
        raise AtelierError(
            f"the certificate of {public_url} cannot be verified; check the address and this"
            " machine's clock."
        ) from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise _TransientError("it did not respond in time") from None
    except (requests.ConnectionError, urllib3.exceptions.HTTPError):
        raise _TransientError("the connection failed") from None
    except requests.RequestException as error:
        raise AtelierError(
            f"{public_url} cannot be fetched ({type(error).__name__}); check the address."
        ) from None


def _reject_length(partial: PartialDownload) -> None:
    if partial.total is None or partial.complete:
        return
    size, total = partial.size, partial.total
    if size > total:
        partial.discard()
    raise _TransientError(f"{size} bytes were received, {total} were announced")


def _reject_response(response: requests.Response, public_url: str) -> None:
    status = response.status_code
    if status in _TRANSIENT_STATUS:
        raise _TransientError(f"it responded with status {status}")
    if status in (401, 403):
        raise AtelierError(
            f"{public_url} responded with status {status}: it requires a permission that this"
            " address does not include; fetch the file by hand and give its path."
        )
    if status not in (200, 206, 416):
        raise AtelierError(
            f"{public_url} responded with status {status} instead of a file; check the address."
        )
    if status == 200 and response.headers.get("Content-Type", "").startswith("text/html"):
        _reject_html(b"<html", public_url)


def _reject_html(start: bytes, public_url: str) -> None:
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise AtelierError(
            f"{public_url} sent a web page instead of a file, as sites do that require a login or"
            " a confirmation; fetch the file by hand and give its path."
        )
