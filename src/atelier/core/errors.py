"""Errors that a user can fix, and helpers that word their messages."""

import difflib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Phrases of torch and OpenCV (CPU and GPU memory), of the operating system (memory maps), of
# oneDNN, which gives no reason, and of CUDA's libraries, which allocate memory of their own.
_OUT_OF_MEMORY = re.compile(
    "allocate memory|not enough memory|out of memory|Insufficient memory"
    "|could not create a primitive(?! descriptor)"  # of which the descriptor is not supported
    "|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
    "|unable to find an engine to execute this computation"
)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FAILED = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOLCK}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}


class AtelierError(Exception):
    """An error that a user can fix, described in one sentence.

    The sentence names what was wrong, what was found and what to do. It is printed without a
    traceback, and the program exits with code 1. Bugs raise other exceptions and keep their
    traceback.
    """


class SettingName(str):
    """Name of a setting in a message, for example ``stylize.weights``."""

    __slots__ = ()


class SettingError(AtelierError):
    """An error whose message names settings, which a command may replace by its options.

    Args:
        template: the message, in the syntax of ``str.format``.
        values: values of its fields; those of type ``SettingName`` can be replaced.
    """

    def __init__(self, template: str, **values: object) -> None:
        super().__init__(template.format(**values))
        self.template, self.values = template, values

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to pickle this error, which a worker process may raise."""
        return _restore, (type(self), self.template, self.values)

    def renamed(self, name: Callable[[SettingName], str]) -> str:
        """Return the message with the name that ``name`` returns for each setting."""
        return self.template.format(
            **{
                field: name(value) if isinstance(value, SettingName) else value
                for field, value in self.values.items()
            }
        )


def _restore(kind: type[SettingError], template: str, values: dict[str, object]) -> SettingError:
    return kind(template, **values)


class PeerLostError(AtelierError):
    """Raised if another process of the same job exited; that process reports the cause."""


class NotExtendableError(AtelierError):
    """Raised if a finished training cannot be extended; its message is a clause with the reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that main memory or GPU memory is exhausted."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def os_error_message(error: OSError, target: Path | None = None) -> str | None:
    """Describe an error of the operating system in one sentence.

    Args:
        error: raised while a file was read or written.
        target: the file or folder that was written; by default the one that the error names.

    Returns:
        A sentence if the disk is full, a file may not be read or written, or a disk or network
        folder fails; ``None`` for any other reason.
    """
    named = error.filename2 or error.filename
    file = Path(os.fsdecode(named)) if named else target
    # A temporary file is in the folder of the file that it will replace; name that folder.
    if file and file.name.startswith(".atelier-"):
        file = file.parent
    if error.errno in _DISK_FULL:
        return (
            f"there is no room to write {target or file or 'a file'} ({error.strerror}); free some"
            " space, for example with `dvc gc --workspace`, and run again, what was there before"
            " is untouched."
        )
    if file is None:
        return None
    if error.errno in _NOT_ALLOWED | _IN_THE_WAY:
        return (
            f"{file} cannot be read or written ({error.strerror}); change its permissions, or move"
            " what is in its place, and run again."
        )
    if error.errno in _DISK_FAILED:
        return (
            f"a disk failed while {file} was read or written ({error.strerror}); check the disks"
            " and network folders in use and run again, what was there before is untouched."
        )
    return None


@contextmanager
def os_errors_as_sentences(target: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the body, which writes ``target``, to an ``AtelierError``.

    Raises:
        AtelierError: with the sentence of :func:`os_error_message`.
        OSError: any other reason.
    """
    try:
        yield
    except OSError as error:
        message = os_error_message(error, target)
        if message is None:
            raise
        raise AtelierError(message) from None


def printable(value: object, max_length: int = 60) -> str:
    """Return a value as text on one line, shortened to ``max_length`` characters."""
    text = str(value)
    return shorten(text if text and text.isprintable() else repr(text), max_length)


def shorten(text: str, max_length: int) -> str:
    """Cut a text to ``max_length`` characters; the last three are dots if it is longer."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean X`` for the most similar known word, or an empty string.

    Without a close one, a key may be the initials of what was typed: ``train.lr`` for
    ``train.learning_rate``.
    """
    words = list(known)
    section, dot, name = word.rpartition(".")
    initials = section + dot + "".join(part[:1] for part in name.split("_"))
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.7)
    if not found and "_" in name and initials in words:
        found = [initials]
    found = found or difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean {found[0]}" if found else ""


def count_text(count: int, singular: str, plural: str = "") -> str:
    """Return a count with its noun, for example ``1 image``, ``2,000 images`` or ``2 entries``.

    Args:
        count: the number.
        singular: the noun for one.
        plural: the noun for any other number; ``singular`` with an s if empty.
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"
