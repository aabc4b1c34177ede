"""Atomic writes of files and folders, and safe reads of regular files."""

import csv
import io
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from atelier.core.errors import AtelierError


@contextmanager
def atomic_write(target: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success rename it to ``target``.

    The temporary file is flushed to disk before it is renamed, so that a power failure leaves
    either the old file or the complete new one. If the body raises, the temporary file is removed
    and ``target`` is unchanged. The temporary path has the target's extension, because some
    writers choose the format by it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".atelier-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        # mkstemp creates private files, but an output needs the usual permissions.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_replace_dir(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success rename it to ``target``.

    If the body raises, the new folder is removed and ``target`` is unchanged. A kill between
    the two renames leaves the old folder under a temporary name; the next call restores it first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".atelier-old-{target.name}")
    prefix = f".atelier-new-{target.name}-"
    abandoned = list(target.parent.glob(f"{prefix}*"))
    if old.exists() and not target.exists() and abandoned:
        os.replace(old, target)
    for folder in (old, *abandoned):
        shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        if target.exists():
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_merge_dir(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success move its files into ``target``.

    Files of the same name are replaced, each atomically. If the body raises, ``target`` is
    unchanged, and not created if it did not exist.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".atelier-add-{target.name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
        yield Path(temporary)
        target.mkdir(exist_ok=True)
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, target / file.name)
        _flush(target)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target`` as UTF-8, atomically."""
    with atomic_write(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` to ``target`` as indented JSON, atomically.

    Raises:
        ValueError: the value holds a NaN or an infinity, which JSON lacks.
    """
    write_text(target, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_metrics(
    target: Path, metrics: Mapping[str, float], details: Mapping[str, Any]
) -> dict[str, float]:
    """Write the metrics that runs are compared by, and all details to another file.

    Metrics have four significant digits: more make DVC's tables wide, and are noise.

    Args:
        target: the file of metrics. The details are written to :func:`details_path`.
        metrics: numbers by name, most important first.
        details: numbers of any precision, and texts.

    Returns:
        The rounded metrics.

    Raises:
        ValueError: a value is a NaN or an infinity, which JSON lacks.
    """
    rounded = {name: _round(value) for name, value in metrics.items()}
    write_json(details_path(target), details)
    write_json(target, rounded)
    return rounded


def details_path(metrics: Path) -> Path:
    """Return the path of the details that belong to a file of metrics."""
    return metrics.parent / "details" / metrics.name


def _round(value: float) -> float:
    """Round to four significant digits; keep counts, and drop the decimals of large numbers."""
    if isinstance(value, int) or not math.isfinite(value):
        return value
    rounded = float(f"{value:.4g}")
    return int(rounded) if abs(rounded) >= 1000 else rounded


def write_csv(target: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows to ``target`` as CSV, atomically."""
    with (
        atomic_write(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        quoting = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in chain([header], rows):
            # Before Python 3.13, a carriage return alone is not quoted, and cannot be read.
            has_return = any(isinstance(value, str) and "\r" in value for value in row)
            (quoting if has_return else writer).writerow(row)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegularError(AtelierError):
    """Raised if a path is a folder, pipe, socket or device, or an empty file.

    Attributes:
        reason: a clause that describes the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read ({reason}); name a regular file.")
        self.reason = reason


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading without blocking.

    A file of 0 bytes is rejected: files of the operating system (``/proc``) have this size, and
    may be endless or block until an event.

    Raises:
        NotRegularError: the path is not a regular file, or the file is empty.
        OSError: there is no such file, or it cannot be opened.
    """
    _check(path, os.stat(path))
    # Check the open file again: the path may have been replaced, for example by a pipe.
    handle = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def check_regular(path: Path) -> None:
    """Check a file that will be opened by its path later; an empty file is accepted.

    Raises:
        NotRegularError: the path is not a regular file.
        OSError: there is no such file, or it cannot be opened.
    """
    state = os.stat(path)
    if state.st_size > 0:
        return open_regular(path).close()
    _check_kind(path, state)
    with suppress(OSError), open(os.open(path, _FLAGS), "rb", buffering=0) as file:
        # An error of the disk is reported when the file is read.
        if file.read(4096):
            raise NotRegularError(path, "its size is unknown, as of the system's own files")
    return None


def _check(path: Path, state: os.stat_result) -> None:
    _check_kind(path, state)
    if state.st_size == 0:
        raise NotRegularError(path, "it is empty")


def _check_kind(path: Path, state: os.stat_result) -> None:
    kind = stat.S_IFMT(state.st_mode)
    if kind != stat.S_IFREG:
        raise NotRegularError(path, f"it is {_KINDS.get(kind, 'no file')}, not a regular file")
