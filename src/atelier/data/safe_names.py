"""Names of strangers' files, made safe to store, print and compare."""

import hashlib
import re

MAX_LENGTH = 255
"""Characters of the longest name kept whole: an endless one would fill manifest and tables."""

# Control characters, line separators, changes of writing direction, halves of UTF-16 pairs
# (which stand for bytes that are not UTF-8): none of them can be printed or encoded as it is.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def sanitize_name(name: str) -> str:
    r"""Escape what cannot be printed or encoded, as Python does (``\n``, ``\udcff``).

    Any script stays as it is. A name longer than :data:`MAX_LENGTH` keeps its two ends, with a
    hash of the whole between them. A printable name comes back unchanged.
    """
    escaped = _UNPRINTABLE.sub(
        lambda found: found.group().encode("unicode_escape").decode("ascii"), name
    )
    if len(escaped) <= MAX_LENGTH:
        return escaped
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:16]
    return f"{escaped[:150]}~{digest}~{escaped[-80:]}"


# Names in lower case that systems and programs give to their own folders and files. Names that
# begin with a dot are hidden everywhere, so .DS_Store, .git and ._1.jpg need no entry.
_SYSTEM_NAMES = {
    "__macosx", "icon\r", "lost+found",
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "$recycle.bin", "recycler", "system volume information",
    "@eadir", "@tmp", "#recycle", "#snapshot",
}  # fmt: skip


def hidden_reason(name: str, is_folder: bool) -> str:
    """Return why a single name in a folder is skipped, or an empty string if it is not."""
    kind = "folder" if is_folder else "file"
    if name.startswith(".") and name not in (".", ".."):
        return f"a hidden {kind}"
    return f"a system {kind}" if name.lower() in _SYSTEM_NAMES else ""


def hidden_part(path: str) -> tuple[str, str]:
    """Find the first hidden or system name of the file ``path``, ``/`` between its parts.

    Returns:
        The path down to that name and the reason to skip it; two empty strings if there is none.
    """
    parts = path.split("/")
    for count, name in enumerate(parts, 1):
        reason = hidden_reason(name, is_folder=count < len(parts))
        if reason:
            return "/".join(parts[:count]), reason
    return "", ""
