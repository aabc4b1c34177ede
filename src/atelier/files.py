"""Writing files so that nobody ever reads half of one."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it becomes ``target``.

    The temporary file is flushed to disk before it takes the target's name, so that
    a power cut leaves either the old file or the whole new one. When the body raises,
    the temporary file is removed and ``target`` is untouched. The temporary path has
    the target's ending, because some writers choose a format by it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".atelier-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush(temporary)
        # mkstemp makes private files; an output is as readable as any other file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success it becomes ``target``.

    When the body raises, the new folder is removed and ``target`` is untouched. A kill between
    the two renames leaves the old one under another name; the next call brings it back first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".atelier-old-{target.name}")
    started = f".atelier-new-{target.name}-"
    abandoned = list(target.parent.glob(f"{started}*"))
    if old.exists() and not target.exists() and abandoned:
        os.replace(old, target)
    for folder in (old, *abandoned):
        shutil.rmtree(folder, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=started, dir=target.parent))
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
def adding_to(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; on success its files join those of ``target``.

    Files of the same names are replaced, each at once. When the body raises, ``target`` is
    untouched, and not made where it was not.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    started = f".atelier-add-{target.name}-"
    with tempfile.TemporaryDirectory(prefix=started, dir=target.parent) as temporary:
        yield Path(temporary)
        target.mkdir(exist_ok=True)
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, target / file.name)
        _flush(target)


def write_text(target: Path, text: str) -> None:
    """Write ``text`` to ``target`` as UTF-8, whole or not at all."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` to ``target`` as indented JSON, whole or not at all.

    Raises:
        ValueError: the value holds a NaN or an infinity, which JSON does not know.
    """
    write_text(target, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(target: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a header and rows to ``target`` as CSV, whole or not at all."""
    with (
        replacing(target) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    # There is no way to read the umask but to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
