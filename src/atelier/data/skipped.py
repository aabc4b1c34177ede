"""Summary of the files that a stage skipped."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from atelier.data.safe_names import sanitize_name

_MOST_REASONS = 4
_NOUN = re.compile(r"\b(file|folder|link|path|archive)\b")


def summarize_skipped(taken: int, noun: str, reasons: Iterable[str], listed_in: Path) -> str:
    """Return one line for a terminal: how many files were taken, how many were skipped and why.

    Args:
        taken: number of files that were not skipped.
        noun: their name in the plural, for example ``"pictures"``.
        reasons: the reason for each skipped file.
        listed_in: the file that lists them.
    """
    reasons = list(reasons)
    if not reasons:
        return f"{taken:,} {noun}, none skipped"
    counts = count_reasons(reasons)
    return f"{taken:,} {noun}, {len(reasons):,} skipped ({counts}): {listed_in} lists them"


def count_reasons(reasons: Iterable[str]) -> str:
    """Count equal reasons, the most frequent first, for example ``9 hidden files, 1 link``."""
    counts = Counter(reasons).most_common()
    parts = [_counted(reason, count) for reason, count in counts[:_MOST_REASONS]]
    others = sum(count for _, count in counts[_MOST_REASONS:])
    return ", ".join([*parts, f"{others:,} for other reasons"] if others else parts)


def _counted(reason: str, count: int) -> str:
    """Write a reason after its number: ``a link to nowhere`` becomes ``5 links to nowhere``."""
    phrase = reason.removeprefix("a ").removeprefix("an ")
    if count > 1 and phrase != reason:
        phrase = _NOUN.sub(r"\1s", phrase, count=1)
    # A decoder's message may quote bytes of the file.
    return f"{count:,} {sanitize_name(phrase)}"
