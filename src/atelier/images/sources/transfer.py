"""Moving bytes to where they are wanted, in pieces that are reported."""

import os
from pathlib import Path

from atelier.progress import Progress, Report

PIECE = 2**20
"""Bytes that are moved at a time."""


def copy(source: Path, target: Path, report: Report) -> None:
    """Copy a file's content, and nothing of its dates and rights."""
    with source.open("rb") as given, target.open("wb") as taken:
        size, done = os.fstat(given.fileno()).st_size, 0
        while piece := given.read(PIECE):
            taken.write(piece)
            done += len(piece)
            report(transferred(done, size))


def transferred(done: int, total: int | None) -> Progress:
    """Report ``done`` bytes of ``total``, with a note that a person can read: megabytes."""
    whole = "" if total is None else f" of {total / 1e6:,.1f}"
    return Progress(done, total, f"{done / 1e6:,.1f}{whole} MB")
