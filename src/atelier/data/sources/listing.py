"""What files a folder holds: a cheap look that notices when one is added or changed.

Nothing heavy is imported here, because this runs at every ``dvc repro``.
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


class FolderCycles:
    """The strongly connected components of a graph of folders, found as they are asked for.

    Every folder and every edge is looked at once, however many questions are asked.
    """

    def __init__(self, next_folders: Callable[[str], Iterable[str]]) -> None:
        self._next_folders = next_folders
        # One folder stands for each component: two folders lead to each other if theirs is equal.
        self._component: dict[str, str] = {}

    def closes(self, holder: str, target: str) -> bool:
        """Return whether an edge from ``holder`` to ``target`` is part of a cycle."""
        if target not in self._component:
            self._explore(target)
        # A folder without a component was not reached from the target.
        return self._component.get(holder) == self._component[target]

    def _explore(self, start: str) -> None:
        """Give each folder that ``start`` leads to its component, by Gabow's algorithm.

        It is not recursive, because chains of folders can be longer than Python's stack.
        """
        order = {start: 0}
        # Folders without a component yet, and those of them that may be the first of theirs.
        pending, firsts = [start], [start]
        path = [(start, iter(self._next_folders(start)))]
        while path:
            folder, following = path[-1]
            for other in following:
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


# Links to folders that link to folders multiply: 40 folders with two links each are 2^40 paths.
_MOST_LINKS = 100_000
# Each of those paths can lead to many files and folders.
_MOST_ENTRIES = 2_000_000
_BROKEN_LINK = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True)
class FoundFile:
    """A file below a folder, or a link or folder that is skipped.

    Attributes:
        relative: its path below the folder, ``/`` between the parts, made printable.
        path: the file itself; the target if it was found through links.
        size: bytes of the target.
        mtime_ns: time of the target's last change, in nanoseconds since 1970.
        fault: the reason to skip it, or an empty string.
    """

    relative: str
    path: Path
    size: int = 0
    mtime_ns: int = 0
    fault: str = ""


def list_folder(path: Path) -> list[list[str | int]]:
    """List the regular files below ``path`` as ``[relative path, size, mtime_ns]``, sorted.

    Raises:
        AtelierError: there is no such folder, or it cannot be read.
    """
    return [[found.relative, found.size, found.mtime_ns] for found in walk(path) if not found.fault]


def walk(folder: Path, links_out: bool = True) -> list[FoundFile]:
    """Find all files below ``folder``, and what is skipped, sorted by the bytes of their paths.

    Links to files and folders are followed. A link that closes a cycle of folders is skipped, so
    that no cycle leads to a file twice. Hidden and system files are skipped; of a hidden folder
    only the folder itself is found. Sockets, pipes and devices are found with a fault.

    Args:
        folder: the folder; it may itself be a link or hidden.
        links_out: follow links to targets outside ``folder`` too.

    Raises:
        AtelierError: there is no such folder, it cannot be read, or its links multiply.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise AtelierError(f"{folder} is not a folder; give the path of a folder of pictures.")
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
    """Names in one folder, by kind."""

    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    folder_links: list[str] = field(default_factory=list)
    hidden: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class _FolderLink:
    """A link to a folder: its path as found, the folder that holds it, the folder it leads to."""

    relative: str
    holder: str
    target: str


class _Walk:
    """One traversal. Folders are strings: their real paths, without links."""

    def __init__(self, root: str, links_out: bool) -> None:
        self._root = root
        self._links_out = links_out
        self._found: list[tuple[str, FoundFile]] = []
        self._contents: dict[str, _Contents] = {}
        self._files: dict[str, FoundFile] = {}
        self._targets: dict[str, str] = {}
        self._taken: set[str] = set()
        self._cycles = FolderCycles(self._next_folders)
        self._entries_through_links = 0

    def run(self) -> list[tuple[str, FoundFile]]:
        """Return every entry with its relative path, unsorted.

        A folder's own subfolders come before any link, so that of two paths to a folder in a
        cycle the one without links is kept.
        """
        links = deque(self._take(self._root, "", once=False))
        followed = 0
        while links:
            link = links.popleft()
            fault = self._link_fault(link)
            in_cycle = not fault and self._cycles.closes(link.holder, link.target)
            if in_cycle and link.target in self._taken:
                fault = "a link to a folder that is taken already"
            if fault:
                self._skip(link.relative, os.path.join(self._root, link.relative), fault)
                continue
            followed += 1
            if followed > _MOST_LINKS:
                raise self._too_many(_MOST_LINKS, "paths")
            links.extend(self._take(link.target, f"{link.relative}/", once=in_cycle))
        return self._found

    def _take(self, base: str, prefix: str, once: bool) -> list[_FolderLink]:
        """Take the files of ``base`` and its subfolders; return the links to folders, sorted.

        Args:
            base: the folder.
            prefix: what precedes the names in it, as found.
            once: leave out subfolders that were taken before.
        """
        links: list[_FolderLink] = []
        waiting = [(base, prefix)]
        while waiting:
            folder, before = waiting.pop()
            if once and folder in self._taken:
                continue
            self._taken.add(folder)
            contents = self._read(folder)
            if prefix:
                self._count_through_links(contents)
            for name in contents.files:
                file = self._file(before + name, os.path.join(folder, name))
                self._found.append((before + name, file))
            for name, reason in contents.hidden:
                self._skip(before + name, os.path.join(folder, name), reason)
            for name in contents.folder_links:
                target = self._target(os.path.join(folder, name))
                links.append(_FolderLink(before + name, folder, target))
            waiting += [(os.path.join(folder, n), f"{before}{n}/") for n in contents.folders]
        return sorted(links, key=lambda link: os.fsencode(link.relative))

    def _link_fault(self, link: _FolderLink) -> str:
        if not self._links_out and not _is_within(link.target, self._root):
            return "a link out of the folder"
        if _is_within(link.holder, link.target):
            return "a link to a folder that holds it"
        return ""

    def _count_through_links(self, contents: _Contents) -> None:
        """Count a folder found through links, and what it holds besides folders."""
        names = len(contents.files) + len(contents.hidden) + len(contents.folder_links)
        self._entries_through_links += 1 + names
        if self._entries_through_links > _MOST_ENTRIES:
            raise self._too_many(_MOST_ENTRIES, "files and folders")

    def _too_many(self, most: int, what: str) -> AtelierError:
        return AtelierError(
            f"{self._root} has more than {most:,} {what} through links to folders;"
            " name the folders that they lead to instead."
        )

    def _next_folders(self, folder: str) -> Iterator[str]:
        contents = self._read(folder)
        for name in contents.folders:
            yield os.path.join(folder, name)
        for name in contents.folder_links:
            target = self._target(os.path.join(folder, name))
            if not self._links_out and not _is_within(target, self._root):
                continue
            # A link back to a folder above the root is skipped; that folder may be a whole disk.
            above = _is_within(folder, target) and _is_within(self._root, target)
            yield self._root if above else target

    def _target(self, link: str) -> str:
        if link not in self._targets:
            self._targets[link] = os.path.realpath(link)
        return self._targets[link]

    def _read(self, folder: str) -> _Contents:
        if folder not in self._contents:
            self._contents[folder] = _read_contents(folder)
        return self._contents[folder]

    def _skip(self, relative: str, path: str, reason: str) -> None:
        self._found.append((relative, FoundFile(sanitize_name(relative), Path(path), fault=reason)))

    def _file(self, relative: str, path: str) -> FoundFile:
        name = sanitize_name(relative)
        if path not in self._files:
            self._files[path] = self._look_at(name, path)
        return replace(self._files[path], relative=name)

    def _look_at(self, name: str, path: str) -> FoundFile:
        try:
            # Only the target's properties are read: opening a pipe would block.
            state = os.stat(path)
        except OSError as error:
            is_dead = error.errno in _BROKEN_LINK and os.path.islink(path)
            fault = "a link to nowhere" if is_dead else f"cannot be read: {error.strerror}"
            return FoundFile(name, Path(path), fault=fault)
        target = self._target(path) if os.path.islink(path) else path
        if not self._links_out and not _is_within(target, self._root):
            return FoundFile(name, Path(path), fault="a link out of the folder")
        if not stat.S_ISREG(state.st_mode):
            return FoundFile(name, Path(path), fault="not a regular file")
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
        # A folder that was removed since its parent was read holds nothing.
        return _Contents()
    return contents


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
