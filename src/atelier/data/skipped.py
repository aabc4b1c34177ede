"""Summary of the files that a stage skipped."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from atelier.core.errors import count_text
from atelier.data.safe_names import sanitize_name

_MAX_REASONS = 4
# The size of one file, as in "92.4 megapixels, the limit is 80".
_OVER_LIMIT = re.compile(r"^\d[\d.,]* (\w+), the limit is ([\d.,]+)$")
_NOUN = re.compile(r"\b(file|folder|link|path|archive|image)\b")


def summarize_skipped(
    accepted: int, noun: str, reasons: Iterable[str], listed_in: Path, dropped: int = 0
) -> str:
    """Return one line for a terminal: numbers of accepted and skipped files, and the reasons.

    Args:
        accepted: number of files that were not skipped.
        noun: plural noun for these files, for example ``"images"``.
        reasons: the reason for each skipped file.
        listed_in: the file that lists them.
        dropped: number of near-duplicates that are not used.
    """
    reasons = list(reasons)
    start = f"{accepted:,} {noun}, "
    if dropped:
        start += f"{count_text(dropped, 'near-duplicate')} dropped, "
    if not reasons:
        end = f": {listed_in} lists them" if dropped else ""
        return f"{start}none skipped{end}"
    counts = count_reasons(reasons)
    return f"{start}{len(reasons):,} skipped ({counts}): {listed_in} lists them"


def reasons_without_names(reasons: Iterable[str]) -> list[dict[str, str | int]]:
    """Return each reason with its number of files, the most frequent first, for JSON."""
    counts = Counter(map(general_reason, reasons)).most_common()
    return [{"reason": sanitize_name(reason), "files": count} for reason, count in counts]


def general_reason(reason: str) -> str:
    """Return a reason without the size of one file, so that all files over a limit have the same.

    For example, ``92.4 megapixels, the limit is 80`` becomes ``larger than 80 megapixels``.
    """
    return _OVER_LIMIT.sub(r"larger than \2 \1", reason)


def count_reasons(reasons: Iterable[str]) -> str:
    """Return the number of each reason, for example ``9 hidden files, 1 link``.

    The four most frequent reasons are listed; the others are counted together if there are several.
    """
    counts = Counter(map(general_reason, reasons)).most_common()
    # A single remaining reason takes no more space than the words for it.
    listed = counts if len(counts) == _MAX_REASONS + 1 else counts[:_MAX_REASONS]
    parts = [_count_text(reason, count) for reason, count in listed]
    others = sum(count for _, count in counts[len(listed) :])
    return ", ".join([*parts, f"{others:,} for other reasons"] if others else parts)


def _count_text(reason: str, count: int) -> str:
    """Return a reason after its number: ``a link`` becomes ``5 links``."""
    phrase = reason.removeprefix("a ").removeprefix("an ")
    if count > 1 and phrase != reason:
        phrase = _NOUN.sub(r"\1s", phrase, count=1)
    # A decoder's message may quote bytes of the file.
    return f"{count:,} {sanitize_name(phrase)}"
