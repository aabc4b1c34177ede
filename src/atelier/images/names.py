"""Names of strangers' files, made safe to store, print and compare."""

import hashlib
import re

LONGEST = 255
"""Characters of the longest name kept whole: an endless one would fill manifest and tables."""

# Control characters, line separators, changes of writing direction, halves of UTF-16 pairs
# (which stand for bytes that are not UTF-8): none of them can be printed or encoded as it is.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: str) -> str:
    r"""Escape what cannot be printed or encoded, as Python does (``\n``, ``\udcff``).

    Any script stays as it is. A name longer than :data:`LONGEST` keeps its two ends, with a
    hash of the whole between them. A printable name comes back unchanged.
    """
    escaped = _UNPRINTABLE.sub(
        lambda found: found.group().encode("unicode_escape").decode("ascii"), name
    )
    if len(escaped) <= LONGEST:
        return escaped
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:16]
    return f"{escaped[:150]}~{digest}~{escaped[-80:]}"
