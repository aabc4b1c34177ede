"""Progress reports and the progress bar.

Library functions take a ``report`` argument and call it with a :class:`Progress`; they never
print. A stage passes a bar, a test passes a list's ``append``.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm import tqdm


@dataclass(frozen=True)
class Progress:
    """Work done so far: ``done`` of ``total`` units (``None``: not known), and a short note."""

    done: int
    total: int | None = None
    note: str = ""


ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Discard a progress report."""


@contextmanager
def progress_bar(
    title: str, unit: str = "", shown: bool = True, delay: float = 0.0
) -> Iterator[ProgressCallback]:
    """Show a progress bar on standard error while the body runs; yield its ``report``.

    Args:
        title: text left of the bar.
        unit: the counted unit, for example ``"images"``.
        shown: if false, no bar is displayed.
        delay: seconds before the bar appears; shorter work shows none.
    """
    if not shown:
        yield silent
        return
    # Update often on a terminal, but write few lines to a log file.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(
        desc=title,
        unit=f" {unit}" if unit else "it",
        dynamic_ncols=True,
        mininterval=interval,
        delay=delay,
    ) as bar:

        def report(progress: Progress) -> None:
            if bar.total != progress.total:
                bar.total = progress.total
            if progress.note:
                bar.set_postfix_str(progress.note, refresh=False)
            bar.update(progress.done - bar.n)

        yield report
        if not delay:
            bar.refresh()
