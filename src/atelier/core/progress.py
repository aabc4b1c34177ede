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
    """Work done so far.

    Attributes:
        done: number of units.
        total: number of units of the whole work; ``None`` if it is not known.
        note: a short text right of the bar.
        initial: units that an earlier attempt has done. They are part of ``done``, but not of the
            speed.
    """

    done: int
    total: int | None = None
    note: str = ""
    initial: int = 0


ProgressCallback = Callable[[Progress], None]
ProgressObserver = Callable[[str, Progress], None]

_observers: list[ProgressObserver] = []


def silent(progress: Progress) -> None:
    """Discard a progress report."""


@contextmanager
def observed_progress(observer: ProgressObserver) -> Iterator[None]:
    """Call ``observer`` with the unit and the report of every bar while the body runs.

    Bars that are not shown are observed, too.
    """
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def print_above_bars(*lines: str) -> None:
    """Print lines to standard output; progress bars in the terminal continue below them."""
    tqdm.write("\n".join(lines))
    sys.stdout.flush()


def duration_text(seconds: float) -> str:
    """Return a duration in words, rounded, for example ``6 minutes`` or ``2.5 hours``."""
    if seconds < 3:
        return "a few seconds"
    if seconds < 90:
        return f"{seconds:.0f} seconds" if seconds < 10 else f"{5 * round(seconds / 5)} seconds"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} minutes" if minutes < 30 else f"{5 * round(minutes / 5)} minutes"
    hours = minutes / 60
    if hours < 48:
        halves = round(2 * hours) / 2
        return f"{halves:g} hours" if hours < 10 else f"{hours:.0f} hours"
    return f"{hours / 24:.0f} days"


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show what a command does while the body runs; yield a function that replaces the text.

    The line is on standard error, only in a terminal, and disappears at the end.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with tqdm(bar_format="{desc}", leave=False) as line:
        yield lambda text: line.set_description_str(f"{text} ...")


@contextmanager
def progress_bar(
    title: str, unit: str = "", shown: bool = True, delay: float = 0.0
) -> Iterator[ProgressCallback]:
    """Show a progress bar on standard error while the body runs; yield its ``report``.

    The report also calls the observers of :func:`observed_progress`.

    Args:
        title: text left of the bar.
        unit: the counted unit, for example ``"images"``.
        shown: if false, no bar is displayed.
        delay: seconds before the bar appears; shorter work shows none.
    """

    def notify(progress: Progress) -> None:
        for observer in _observers:
            observer(unit, progress)

    if not shown:
        yield notify
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
            if bar.initial != progress.initial:
                # As if tqdm were called with this value of `initial`, which the first report has.
                bar.initial = bar.n = bar.last_print_n = progress.initial
            if progress.note:
                bar.set_postfix_str(progress.note, refresh=False)
            bar.update(progress.done - bar.n)
            notify(progress)

        yield report
        if not delay:
            bar.refresh()
