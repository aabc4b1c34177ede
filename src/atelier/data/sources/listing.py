"""Files of a folder and its subfolders, with sizes and times, also through links.

The watch stage runs this module at every ``dvc repro``, so it imports nothing slow.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.data.safe_names import hidden_reason, sanitize_name

# Links to folders that contain links to folders multiply: 40 folders with two links each are 2^40
# paths.
_MAX_LINKS = 100_000
# Each of those paths can lead to many files and folders.
_MAX_ENTRIES = 2_000_000
_BROKEN_LINK = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class FolderCycles:
    """Cycles in a graph of folders, that is, its strongly connected components.

    Components are computed on demand; every folder and every edge is visited once.
    """

    def __init__(self, next_folders: Callable[[str], Iterable[str]]) -> None:
        self._next_folders = next_folders
        # A folder's component is named by one of its folders: two folders are in a cycle if their
        # components are equal.
        self._component: dict[str, str] = {}

    def closes(self, parent: str, target: str) -> bool:
        """Return whether an edge from ``parent`` to ``target`` is part of a cycle."""
        if target not in self._component:
            self._explore(target)
        # A folder without a component cannot be reached from the target.
        return self._component.get(parent) == self._component[target]

    def _explore(self, start: str) -> None:
        """Find the components of all folders reachable from ``start`` (Gabow's algorithm).

        The algorithm is iterative, because paths can be deeper than Python's stack.
        """
        order = {start: 0}
        # Folders without a component, and those of them that may be the first of a component.
        pending, firsts = [start], [start]
        path = [(start, iter(self._next_folders(start)))]
        while path:
            folder, next_folders = path[-1]
            for other in next_folders:
                if other in self._component:
                    continue
                if other not in order:
                    order[other] = len(order)
                    pending.append(other)
                    firsts.append(other)
                    path.append((other, iter(self._next_folders(other))))
                    break
                while order[firsts[-1]] > order[other]:
                    firsts.pop()
            else:
                path.pop()
                if firsts[-1] == folder:
                    firsts.pop()
                    while folder not in self._component:
                        self._component[pending.pop()] = folder


@dataclass(frozen=True)
class FoundFile:
    """File below a folder, or a skipped link or folder.

    Attributes:
        relative: printable path relative to the folder, with ``/`` between its parts.
        path: path of the file, with links resolved.
        size: size of the file in bytes.
        mtime_ns: time of the last change of the file, in nanoseconds since 1970.
        skip_reason: reason to skip it, or an empty string.
    """

    relative: str
    path: Path
    size: int = 0
    mtime_ns: int = 0
    skip_reason: str = ""


def list_folder(path: Path) -> list[list[str | int]]:
    """Return ``[relative path, size, mtime_ns]`` of every regular file below ``path``, sorted.

    Raises:
        AtelierError: the folder is missing or cannot be read.
    """
    return [
        [found.relative, found.size, found.mtime_ns]
        for found in walk(path)
        if not found.skip_reason
    ]


def walk(folder: Path, links_out: bool = True) -> list[FoundFile]:
    """Return all files below ``folder``, also skipped ones, sorted by the bytes of their paths.

    Links to files and folders are followed. A link that closes a cycle of folders is skipped, so
    that no cycle returns a file twice. Hidden and system files, sockets, pipes and devices are
    skipped. A hidden folder is returned as one entry.

    Args:
        folder: the folder; it may be a link or hidden.
        links_out: also follow links to targets outside ``folder``.

    Raises:
        AtelierError: the folder is missing, cannot be read, or contains too many linked paths.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise AtelierError(f"{folder} is not a folder; give the path of a folder of images.")
    try:
        found = _Walk(str(folder.resolve()), links_out).run()
    except OSError as error:
        raise AtelierError(
            f"the folder {error.filename} cannot be read ({error.strerror}); make it readable."
        ) from None
    found.sort(key=lambda entry: os.fsencode(entry[0]))
    return [file for _, file in found]


@dataclass
class _Contents:
    """Names in a folder, by kind."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    folder_links: list[str] = field(default_factory=list)
    hidden: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _FolderLink:
    """Link to a folder: its relative path, the folder that contains it, and its target."""

    relative: str
    parent: str
    target: str


class _Walk:
    """Traversal of a folder. Folders are strings: their real paths, without links."""

    def __init__(self, root: str, links_out: bool) -> None:
        self._root = root
        self._links_out = links_out
        self._found: list[tuple[str, FoundFile]] = []
        self._contents: dict[str, _Contents] = {}
        self._files: dict[str, FoundFile] = {}
        self._targets: dict[str, str] = {}
        self._visited: set[str] = set()
        self._cycles = FolderCycles(self._next_folders)
        self._entries_through_links = 0

    def run(self) -> list[tuple[str, FoundFile]]:
        """Return every entry with its relative path, unsorted.

        Subfolders are visited before links. Thus a folder in a cycle gets its path without links,
        if there is one.
        """
        links = deque(self._visit(self._root, "", once=False))
        followed = 0
        while links:
            link = links.popleft()
            reason = self._link_skip_reason(link)
            in_cycle = not reason and self._cycles.closes(link.parent, link.target)
            if in_cycle and link.target in self._visited:
                reason = "a link to a folder that is already included"
            if reason:
                self._skip(link.relative, os.path.join(self._root, link.relative), reason)
                continue
            followed += 1
            if followed > _MAX_LINKS:
                raise self._too_many(_MAX_LINKS, "paths")
            links.extend(self._visit(link.target, f"{link.relative}/", once=in_cycle))
        return self._found

    def _visit(self, base: str, prefix: str, once: bool) -> list[_FolderLink]:
        """Add the files of ``base`` and its subfolders; return the links to folders, sorted.

        Args:
            base: the folder.
            prefix: its relative path with a final ``/``, or an empty string.
            once: omit folders that were visited before.
        """
        links: list[_FolderLink] = []
        pending = [(base, prefix)]
        while pending:
            folder, folder_prefix = pending.pop()
            if once and folder in self._visited:
                continue
            self._visited.add(folder)
            contents = self._read(folder)
            if prefix:
                self._count_through_links(contents)
            for name in contents.files:
                file = self._file(folder_prefix + name, os.path.join(folder, name))
                self._found.append((folder_prefix + name, file))
            for name, reason in contents.hidden:
                self._skip(folder_prefix + name, os.path.join(folder, name), reason)
            for name in contents.folder_links:
                target = self._target(os.path.join(folder, name))
                links.append(_FolderLink(folder_prefix + name, folder, target))
            pending += [(os.path.join(folder, n), f"{folder_prefix}{n}/") for n in contents.folders]
        return sorted(links, key=lambda link: os.fsencode(link.relative))

    def _link_skip_reason(self, link: _FolderLink) -> str:
        if not self._links_out and not _is_within(link.target, self._root):
            return "a link out of the folder"
        if _is_within(link.parent, link.target):
            return "a link to a folder that contains it"
        return ""

    def _count_through_links(self, contents: _Contents) -> None:
        """Count a folder that was found through links, and its entries except subfolders."""
        names = len(contents.files) + len(contents.hidden) + len(contents.folder_links)
        self._entries_through_links += 1 + names
        if self._entries_through_links > _MAX_ENTRIES:
            raise self._too_many(_MAX_ENTRIES, "files and folders")

    def _too_many(self, limit: int, noun: str) -> AtelierError:
        return AtelierError(
            f"{self._root} has more than {limit:,} {noun} through links to folders;"
            " name the targets of the links instead."
        )

    def _next_folders(self, folder: str) -> Iterator[str]:
        """Yield the subfolders of a folder and the targets of its links that are followed."""
        contents = self._read(folder)
        for name in contents.folders:
            yield os.path.join(folder, name)
        for name in contents.folder_links:
            target = self._target(os.path.join(folder, name))
            if not self._links_out and not _is_within(target, self._root):
                continue
            # The target may be a parent of the root, even a whole disk. Such a link is skipped.
            is_above_root = _is_within(folder, target) and _is_within(self._root, target)
            yield self._root if is_above_root else target

    def _target(self, link: str) -> str:
        if link not in self._targets:
            self._targets[link] = os.path.realpath(link)
        return self._targets[link]

    def _read(self, folder: str) -> _Contents:
        if folder not in self._contents:
            self._contents[folder] = _read_contents(folder)
        return self._contents[folder]

    def _skip(self, relative: str, path: str, reason: str) -> None:
        self._found.append(
            (relative, FoundFile(sanitize_name(relative), Path(path), skip_reason=reason))
        )

    def _file(self, relative: str, path: str) -> FoundFile:
        name = sanitize_name(relative)
        if path not in self._files:
            self._files[path] = self._examine(name, path)
        return replace(self._files[path], relative=name)

    def _examine(self, name: str, path: str) -> FoundFile:
        try:
            # The file is not opened: opening a pipe would block.
            state = os.stat(path)
        except OSError as error:
            is_broken = error.errno in _BROKEN_LINK and os.path.islink(path)
            reason = "a broken link" if is_broken else f"cannot be read: {error.strerror}"
            return FoundFile(name, Path(path), skip_reason=reason)
        target = self._target(path) if os.path.islink(path) else path
        if not self._links_out and not _is_within(target, self._root):
            return FoundFile(name, Path(path), skip_reason="a link out of the folder")
        if not stat.S_ISREG(state.st_mode):
            return FoundFile(name, Path(path), skip_reason="not a regular file")
        return FoundFile(name, Path(target), state.st_size, state.st_mtime_ns)


def _read_contents(folder: str) -> _Contents:
    contents = _Contents()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_link = entry.is_symlink()
                is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
                if reason := hidden_reason(entry.name, is_folder):
                    contents.hidden.append((entry.name, reason))
                elif not is_folder:
                    contents.files.append(entry.name)
                elif is_link:
                    contents.folder_links.append(entry.name)
                else:
                    contents.folders.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        # The folder was removed after its parent was read.
        return _Contents()
    return contents


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
