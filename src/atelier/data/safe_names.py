"""Safe file names: printable, limited in length, without hidden and system files."""

import hashlib
import re

MAX_LENGTH = 255
"""Number of characters above which a name is shortened."""

# Control characters, line separators, changes of writing direction, and surrogates (which
# represent bytes that are not UTF-8).
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def sanitize_name(name: str) -> str:
    r"""Return a name with unprintable characters escaped as in Python (``\n``, ``\udcff``).

    Letters of all scripts are unchanged. A name longer than :data:`MAX_LENGTH` is shortened to
    its start, a hash of the whole name, and its end.
    """
    escaped = _UNPRINTABLE.sub(
        lambda match: match.group().encode("unicode_escape").decode("ascii"), name
    )
    if len(escaped) <= MAX_LENGTH:
        return escaped
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:16]
    return f"{escaped[:150]}~{digest}~{escaped[-80:]}"


# Lower-case names of folders and files that operating systems and programs create. Names that
# start with a dot are hidden in any case, so .DS_Store, .git and ._1.jpg need no entry.
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
    """Return the first hidden or system name in the path of a file.

    Args:
        path: parts separated by ``/``.

    Returns:
        The path down to that name and the reason to skip it, or two empty strings.
    """
    parts = path.split("/")
    for count, name in enumerate(parts, 1):
        reason = hidden_reason(name, is_folder=count < len(parts))
        if reason:
            return "/".join(parts[:count]), reason
    return "", ""
