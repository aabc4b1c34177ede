"""Errors that a user can fix, and helpers that word their messages."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Phrases of torch and OpenCV (CPU and GPU memory) and of the operating system (memory maps).
_OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "Insufficient memory")

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FAILED = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOLCK}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


class AtelierError(Exception):
    """An error that a user can fix, described in one sentence.

    The sentence names what was wrong, what was found and what to do. It is printed without a
    traceback, and the program exits with code 1. Bugs raise other exceptions and keep their
    traceback.
    """


class PeerLostError(AtelierError):
    """Raised if another process of the same job exited; that process reports the cause."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that main memory or GPU memory is exhausted."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def os_errors_as_sentences(target: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the body, which writes ``target``, to an ``AtelierError``.

    Raises:
        AtelierError: the disk is full, a file may not be read or written, or a disk or network
            folder fails.
        OSError: any other reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise AtelierError(
                f"there is no room to write {target} ({error.strerror}); free some space and"
                " run again, what was there before is untouched."
            ) from None
        if error.errno in _NOT_ALLOWED:
            raise AtelierError(
                f"{error.filename or target} cannot be read or written ({error.strerror}); change"
                " its permissions and run again."
            ) from None
        if error.errno in _DISK_FAILED:
            raise AtelierError(
                f"a disk failed while {error.filename or target} was read or written"
                f" ({error.strerror}); check the disks and network folders in use and run again,"
                " what was there before is untouched."
            ) from None
        raise


def printable(value: object, max_length: int = 60) -> str:
    """Return a value as text on one line, shortened to ``max_length`` characters."""
    text = str(value)
    return shorten(text if text and text.isprintable() else repr(text), max_length)


def shorten(text: str, max_length: int) -> str:
    """Cut a text to ``max_length`` characters; the last three are dots if it is longer."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X`` for the most similar known word, or an empty string."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}" if found else ""
