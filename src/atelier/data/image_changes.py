"""Differences between two versions of the list of images."""

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from atelier.data.image_list import ImageEntry
from atelier.data.safe_names import sanitize_name

File = tuple[ImageEntry, ...]
"""The entries of one raw file, at least one."""
Pair = tuple[File, File]
"""A file before and after."""


@dataclass(frozen=True)
class ImageChanges:
    """Raw files that differ between two versions, sorted by name.

    An archive can have several files of one name. Each of them counts.

    Attributes:
        added: files whose name and content are new.
        removed: files whose name and content are gone.
        changed: files with one name and other content, before and after.
        renamed: files with one content and another name, before and after.
        unchanged: number of all other files.
    """

    added: tuple[File, ...]
    removed: tuple[File, ...]
    changed: tuple[Pair, ...]
    renamed: tuple[Pair, ...]
    unchanged: int

    def counts(self) -> dict[str, int]:
        """Return the number of files of each kind."""
        return {
            "added": len(self.added),
            "removed": len(self.removed),
            "changed": len(self.changed),
            "renamed": len(self.renamed),
            "unchanged": self.unchanged,
        }

    def as_json(self) -> dict[str, Any]:
        """Return values for JSON: counts first, then every file that differs."""
        pairs = {"changed": self.changed, "renamed": self.renamed}
        return {
            "counts": self.counts(),
            "added": [_file_values(file) for file in self.added],
            "removed": [_file_values(file) for file in self.removed],
            **{
                kind: [
                    {"before": _file_values(before), "after": _file_values(after)}
                    for before, after in files
                ]
                for kind, files in pairs.items()
            },
        }


def file_name(file: File) -> str:
    """Return the name of a file without control characters."""
    return sanitize_name(file[0].file)


def file_state(file: File) -> str:
    """Return the size of a file, or why it is not used."""
    first = file[0]
    if first.reason:
        return f"rejected: {sanitize_name(first.reason)}"
    size = f"{first.width}x{first.height}"
    return (
        f"{size}, dropped near-duplicate" if all(entry.set == "dropped" for entry in file) else size
    )


def _file_values(file: File) -> dict[str, Any]:
    first = file[0]
    return {
        "file": first.file,
        "sha256": first.sha256,
        "width": first.width,
        "height": first.height,
        "reason": first.reason,
        "rows": [{"name": entry.name, "set": entry.set} for entry in file if entry.name],
    }


def compare_image_lists(before: Iterable[ImageEntry], after: Iterable[ImageEntry]) -> ImageChanges:
    """Compare two versions of the list of images by names and hashes of the raw files."""
    old, new = _files(before), _files(after)
    unchanged, old, new = _match(old, new, lambda file: (_name(file), _content(file)))
    changed, old, new = _match(old, new, _name)
    renamed, old, new = _match(old, new, _content)
    return ImageChanges(
        added=tuple(new),
        removed=tuple(old),
        changed=tuple(changed),
        renamed=tuple(renamed),
        unchanged=len(unchanged),
    )


def _files(entries: Iterable[ImageEntry]) -> list[File]:
    """Return the files sorted by name; those of one name stay in the list's order."""
    return sorted(_consecutive_files(entries), key=_name)


def _consecutive_files(entries: Iterable[ImageEntry]) -> Iterator[File]:
    """Yield the entries of each file, which follow one another in a list.

    If a file's row or rejection is repeated, the archive has the same file twice.
    """
    file: dict[str, ImageEntry] = {}
    previous = None
    for entry in entries:
        current = (entry.file, entry.sha256)
        if file and (current != previous or entry.name in file):
            yield tuple(file.values())
            file = {}
        file[entry.name] = entry
        previous = current
    if file:
        yield tuple(file.values())


def _match(
    before: list[File], after: list[File], key: Callable[[File], Hashable]
) -> tuple[list[Pair], list[File], list[File]]:
    """Return pairs of files with equal keys, and the other files before and after, in order.

    A file with an empty key has no partner: the content of a file that was not read is unknown.
    """
    partners: dict[Hashable, deque[int]] = defaultdict(deque)
    for index, file in enumerate(after):
        partners[key(file)].append(index)
    partners[""].clear()
    pairs, alone, paired = [], [], set()
    for file in before:
        indices = partners[key(file)]
        if indices:
            paired.add(indices[0])
            pairs.append((file, after[indices.popleft()]))
        else:
            alone.append(file)
    return pairs, alone, [file for index, file in enumerate(after) if index not in paired]


def _name(file: File) -> str:
    return file[0].file


def _content(file: File) -> str:
    return file[0].sha256
