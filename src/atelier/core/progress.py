"""How work in progress is reported, and the bar that shows it.

Library functions take a ``report`` argument and call it with a :class:`Progress`;
they never print. A stage passes a bar, a test passes a list's ``append``.
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
    """Report to nobody."""


@contextmanager
def progress_bar(
    title: str, unit: str = "", shown: bool = True, delay: float = 0.0
) -> Iterator[ProgressCallback]:
    """Show a progress bar on standard error while the body runs; yield its ``report``.

    Args:
        title: what is being done, shown left of the bar.
        unit: what is counted, such as ``"pictures"``.
        shown: ``False`` shows nothing.
        delay: seconds after which it appears, for work that is often done before.
    """
    if not shown:
        yield silent
        return
    # A terminal shows every change; a log file is better off with a line now and then.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm(
        desc=title,
        unit=f" {unit}" if unit else "it",
        dynamic_ncols=True,
        mininterval=interval,
        delay=delay,
    ) as shown_bar:

        def report(progress: Progress) -> None:
            if shown_bar.total != progress.total:
                shown_bar.total = progress.total
            if progress.note:
                shown_bar.set_postfix_str(progress.note, refresh=False)
            shown_bar.update(progress.done - shown_bar.n)

        yield report
        if not delay:
            shown_bar.refresh()
