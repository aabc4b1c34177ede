"""A file that has arrived in part, and how a server is asked for the rest (RFC 9110, 14.2)."""

import json
import re
from pathlib import Path
from typing import Any

import requests

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", re.ASCII)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)


class Partial:
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
