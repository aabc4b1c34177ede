"""YAML files: read values safely, and edit a file without losing its comments."""

import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from atelier.core.errors import AtelierError, printable

_END_OF_LINE = 2  # the position, in ruamel's list of a key's comments, of the one after its value


def read_yaml(path: Path) -> Any:
    """Read a YAML 1.2 file with the loader that DVC uses, so that both read the same values.

    Raises:
        AtelierError: the file is missing, is not UTF-8 or is not valid YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AtelierError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise AtelierError(f"{path} is not UTF-8 text; save it as UTF-8.") from None
    except Exception as error:  # wrongly tagged scalars make ruamel raise arbitrary exceptions
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        reason = printable(problem, 200)
        raise AtelierError(f"{path.name} is not valid YAML{line}: {reason}.") from None


def parse_yaml(text: str) -> Any:
    """Return the values of a YAML 1.2 text; only plain types are constructed."""
    return YAML(typ="safe", pure=True).load(text)


def read_document(path: Path) -> CommentedMap:
    """Read a YAML file for editing, with its comments aligned.

    Raises:
        AtelierError: as for :func:`read_yaml`, or the file does not hold a mapping.
    """
    if not isinstance(read_yaml(path), dict):
        raise AtelierError(f"{path.name} holds no settings; `git checkout {path.name}` does.")
    return parse_document(path.read_text("utf-8"))


def parse_document(text: str) -> CommentedMap:
    """Return a YAML text for editing, with its comments aligned."""
    document: CommentedMap = _round_trip().load(text)
    _align_comments(document)
    return document


def document_text(document: CommentedMap) -> str:
    """Return an edited document as YAML, with its comments."""
    buffer = io.StringIO()
    _round_trip().dump(document, buffer)
    return buffer.getvalue()


def set_value(section: CommentedMap, key: str, value: Any) -> None:
    """Set a value; lists and mappings are on one line, with the comment after them."""
    old = section.get(key)
    if isinstance(old, CommentedBase) and not old.fa.flow_style():
        _move_comments_to_one_line(section, key)
        old = None
    section[key] = _on_one_line(value, old)


def _move_comments_to_one_line(section: CommentedMap, key: str) -> None:
    """Keep the comment after a key whose items are on lines of their own, and the lines after them.

    ruamel stores the lines after the last item with the comment of that item. Comments between
    items are dropped, since the items are replaced.
    """
    value = section[key]
    comment = (section.ca.items.get(key) or [None] * 4)[_END_OF_LINE]
    text = comment.value.partition("\n")[0] if comment else ""
    column = comment.start_mark.column if comment else 0
    last = len(value) - 1 if isinstance(value, CommentedSeq) else next(reversed(value), None)
    tokens = value.ca.items.get(last) or [None]
    token = next((token for token in tokens if isinstance(token, CommentToken)), None)
    following = token.value.partition("\n")[2] if token else ""
    if text or following:
        moved = CommentToken(f"{text}\n{following}", CommentMark(column), None)
        section.ca.items[key] = [None, None, moved, None]
    else:
        section.ca.items.pop(key, None)


def rename_key(section: CommentedMap, old: str, new: str) -> None:
    """Rename a key; its position, its value and its comments stay."""
    position, comments = list(section).index(old), section.ca.items.pop(old, None)
    section.insert(position, new, section.pop(old))
    if comments is not None:
        section.ca.items[new] = comments


def insert_after(section: CommentedMap, previous: str, key: str, value: Any) -> None:
    """Insert a key after another one, or first if the section lacks ``previous``."""
    keys = list(section)
    position = keys.index(previous) + 1 if previous in section else 0
    section.insert(position, key, _on_one_line(value, None))
    if position and position == len(keys):
        _move_trailing_lines(section, previous, key)


def as_separate_section(section: CommentedMap) -> None:
    """Write a section with one line for each key, and a blank line after the last one."""
    section.fa.set_block_style()
    blank_line = CommentToken("\n\n", CommentMark(0), None)
    section.ca.items[list(section)[-1]] = [None, None, blank_line, None]


def _move_trailing_lines(section: CommentedMap, source: str, target: str) -> None:
    """Move the blank and comment lines after one key's line to another key.

    ruamel stores the lines between two sections with the comment of the last key before them.
    """
    token = (section.ca.items.get(source) or [None] * 4)[_END_OF_LINE]
    if token is None:
        return
    comment, _, following = token.value.partition("\n")
    if following:
        # Without a comment the end of the line itself belongs to the token.
        moved = CommentToken("\n" + following, CommentMark(0), None)
        section.ca.items[target] = [None, None, moved, None]
        if comment:
            token.value = comment + "\n"
        else:
            del section.ca.items[source]


def _round_trip() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _align_comments(document: CommentedMap) -> None:
    """Move comments that a long value pushed to the right back to the common column."""

    def tokens(section: CommentedMap) -> Iterator[Any]:
        for key, value in section.items():
            token = section.ca.items.get(key, [None] * 4)[_END_OF_LINE]
            if token is not None:
                yield token
            if isinstance(value, CommentedMap):
                yield from tokens(value)

    found = list(tokens(document))
    columns = Counter(token.start_mark.column for token in found)
    for token in found:
        token.start_mark.column = min(token.start_mark.column, columns.most_common(1)[0][0])


def _on_one_line(value: Any, old: Any) -> Any:
    if not isinstance(value, list | dict):
        return value
    inline = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    if isinstance(old, CommentedBase):
        old.copy_attributes(inline)
    inline.fa.set_flow_style()
    return inline
