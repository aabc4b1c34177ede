"""Differences between two versions of the list of images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from atelier.data.image_list import ImageEntry
from atelier.data.safe_names import sanitize_name

File = tuple[ImageEntry, ...]
"""The entries of one raw file, at least one."""


@dataclass(frozen=True)
class ImageChanges:
    """Raw files that differ between two versions, sorted by name.

    Attributes:
        added: files whose name and content are new.
        removed: files whose name and content are gone.
        changed: files with one name and other content, before and after.
        renamed: files with one content and another name, before and after.
        unchanged: number of all other files.
    """

    added: tuple[File, ...]
    removed: tuple[File, ...]
    changed: tuple[tuple[File, File], ...]
    renamed: tuple[tuple[File, File], ...]
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
    old, new = _by_file(before), _by_file(after)
    common = [name for name in old if name in new]
    different = [name for name in common if _content(old[name]) != _content(new[name])]
    renamed = _renamed(
        {name: file for name, file in old.items() if name not in new},
        {name: file for name, file in new.items() if name not in old},
    )
    new_names = set(renamed.values())
    return ImageChanges(
        added=tuple(new[name] for name in sorted(new.keys() - old.keys() - new_names)),
        removed=tuple(old[name] for name in sorted(old.keys() - new.keys() - renamed.keys())),
        changed=tuple((old[name], new[name]) for name in sorted(different)),
        renamed=tuple((old[name], new[renamed[name]]) for name in sorted(renamed)),
        unchanged=len(common) - len(different),
    )


def _by_file(entries: Iterable[ImageEntry]) -> dict[str, File]:
    files: dict[str, list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        files[entry.file].append(entry)
    return {name: tuple(entries) for name, entries in files.items()}


def _content(file: File) -> str:
    return file[0].sha256


def _renamed(removed: Mapping[str, File], added: Mapping[str, File]) -> dict[str, str]:
    """Return the new name of each removed file whose content was added; copies pair in order."""
    names: dict[str, list[str]] = defaultdict(list)
    for name in sorted(added, reverse=True):
        names[_content(added[name])].append(name)
    found = {}
    for name in sorted(removed):
        content = _content(removed[name])
        if content and names[content]:
            found[name] = names[content].pop()
    return found
