"""Outcome of a pipeline execution: DVC's records of all stages, also of those that did not run.

Skipped stages start no process and write no outbox. When the ``dvc`` that runs a pipeline has
exited, :func:`write_outcome` writes an outbox of the pipeline: hashes and metrics of every stage,
its results and the images that ``dvc.yaml`` plots.
"""

import hashlib
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.core.errors import AtelierError
from atelier.core.paths import LISTS
from atelier.tracking.dvc_lock import (
    StageRecord,
    content_hash,
    current,
    folder_hash,
    is_logged,
    read_lock,
)
from atelier.tracking.environment import Process, git, private_folder
from atelier.tracking.outbox import Outbox, remove
from atelier.tracking.redact import numbers

_REPORT = "report.html"
_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")


class NoTreeError(AtelierError):
    """Raised if the files of an execution do not exist, or not yet."""


class Tree(Protocol):
    """Files as they were at the end of an execution."""

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or ``None`` if there is no such file."""

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no such folder."""

    def hash_of(self, path: str) -> str | None:
        """Return the hash of a file or a folder of code, or ``None`` if it does not exist."""


class Workspace:
    """Working tree, for ``dvc repro`` and experiments that run in it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or ``None`` if there is no such file."""
        with suppress(OSError):
            return (self._root / path).read_bytes()
        return None

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no such folder."""
        with suppress(OSError):
            return sorted(file.name for file in (self._root / folder).iterdir())
        return []

    def hash_of(self, path: str) -> str | None:
        """Return the hash of a file or a folder of code, or ``None`` if it does not exist."""
        with suppress(OSError):
            found = content_hash(self._root / path)
            return None if found == "missing" else found
        return None


@dataclass(frozen=True)
class Commit:
    """Commit of an experiment that ran in a temporary copy, which was removed.

    Files that git does not track come from DVC's cache. The project may be in any folder of the
    repository.

    Attributes:
        root: the project.
        revision: the commit.
        cache: folder of the files in DVC's cache.
        hashes: hash of each output by path.
    """

    root: Path
    revision: str
    cache: Path
    hashes: dict[str, str]
    _folders: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, revision: str) -> "Commit":
        """Return the tree of a commit of a project."""
        from dvc.repo import Repo

        with Repo(str(root)) as repo:
            cache = Path(repo.cache.local.path)
        lock = cls(root, revision, cache, {}).read("dvc.lock") or b""
        records = read_lock(lock.decode("utf-8", "replace"))
        hashes = {path: md5 for one in records.values() for path, md5 in one.outputs.items()}
        return cls(root, revision, cache, hashes)

    def read(self, path: str) -> bytes | None:
        """Return a file's content, or ``None`` if there is no such file."""
        md5 = self._recorded_hash(path)
        if md5 is None:
            return self._tracked(path)
        return None if md5.endswith(".dir") else self._cached(md5)

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder, sorted; none if there is no such folder."""
        files = [Path(output, file) for output in self.hashes for file in self._files(output)]
        below = [file for file in (*files, *map(Path, self.hashes)) if Path(folder) in file.parents]
        return sorted({file.relative_to(folder).parts[0] for file in below})

    def hash_of(self, path: str) -> str | None:
        """Return the hash of a file or a folder of code, or ``None`` if it does not exist."""
        content = self.read(path)
        if content is not None:
            return _md5(content)
        listed = git("ls-tree", "-r", "-z", "--name-only", self.revision, path, cwd=self.root)
        names = [name for name in (listed or "").split("\0") if name]
        hashes = {
            PurePosixPath(name).relative_to(path).as_posix(): _md5(self._tracked(name) or b"")
            for name in names
        }
        return folder_hash(hashes) if hashes else None

    def _recorded_hash(self, path: str) -> str | None:
        if path in self.hashes:
            return self.hashes[path]
        for parent in PurePosixPath(path).parents:
            if str(parent) in self.hashes:
                return self._files(str(parent)).get(str(PurePosixPath(path).relative_to(parent)))
        return None

    def _files(self, folder: str) -> dict[str, str]:
        """Return the hashes of the files of an output folder, by path in it."""
        md5 = self.hashes.get(folder, "")
        if folder not in self._folders:
            content = self._cached(md5) if md5.endswith(".dir") else None
            try:
                entries = json.loads(content) if content else []
                files = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
            except (ValueError, KeyError, TypeError, RecursionError):  # the listing is damaged
                files = {}
            self._folders[folder] = files
        return self._folders[folder]

    def _cached(self, md5: str) -> bytes | None:
        # Another person's commit may have a path in place of a hash.
        if not _HASH.fullmatch(md5):
            return None
        with suppress(OSError):
            return (self.cache / md5[:2] / md5[2:]).read_bytes()
        return None

    def _tracked(self, path: str) -> bytes | None:
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(  # noqa: S603 - fixed arguments, no shell
                ["git", "cat-file", "blob", f"{self.revision}:./{path}"],  # noqa: S607 - the user's own git
                cwd=self.root,
                capture_output=True,
                timeout=60,
                check=True,
            ).stdout
        return None


class LockFileSnapshot:
    """Latest ``dvc.lock`` of a temporary copy, which is removed when its experiment fails."""

    def __init__(self, start: Mapping[str, Any] | None) -> None:
        self._file = Path(start["workspace"], "dvc.lock") if start else None
        self._modified = 0
        self.text = b""

    def refresh(self) -> None:
        """Read the file again if it was written since the last call."""
        with suppress(OSError):
            if self._file and self._file.stat().st_mtime_ns != self._modified:
                modified = self._file.stat().st_mtime_ns
                self._modified, self.text = modified, self._file.read_bytes()

    def read(self, path: str) -> bytes | None:
        """Return the content of ``dvc.lock``; ``None`` for any other file."""
        return self.text if path == "dvc.lock" else None

    def names(self, folder: str) -> list[str]:
        """Return an empty list: no folder is left."""
        return []

    def hash_of(self, path: str) -> str | None:
        """Return ``None``: no other file is left."""
        return None


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()  # noqa: S324 - as DVC does


def write_outcome(
    root: Path,
    process: Process,
    start: Mapping[str, Any],
    lock: LockFileSnapshot | None,
    patience: float,
) -> None:
    """Write the outbox with the outcome of an execution, unless DVC recorded no stage.

    Args:
        root: the main project.
        process: the ``dvc`` process, which has exited.
        start: the record of :func:`atelier.tracking.outbox.record_start`.
        lock: ``dvc.lock`` as it was while the process ran.
        patience: seconds to wait for an experiment's commit.

    Raises:
        NoTreeError: the experiment has no commit, and ``lock`` is ``None``.
    """
    tree = _tree(root, start, patience) or lock
    if tree is None:
        raise NoTreeError("the experiment has no commit; its temporary copy is gone")
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))

    # Code in a temporary copy does not change, and the copy does not exist any more.
    stages = current(records, start["parameters"], None if tree is lock else cache(tree.hash_of))
    if stages:
        _write_outbox(root, process, start, stages, tree)


def _write_outbox(
    root: Path,
    process: Process,
    start: Mapping[str, Any],
    stages: Mapping[str, StageRecord],
    tree: Tree,
) -> None:
    """Write a complete outbox with the records of these stages and the plotted images."""
    entries = {
        name: _stage_entry(name, record, tree) for name, record in stages.items() if is_logged(name)
    }
    outputs = {path for record in stages.values() for path in record.outputs}
    outbox = Outbox(
        private_folder(root),
        process,
        "pipeline",
        kind="outcome",
        experiment=start["experiment"],
        parameters=start["parameters"],
        title=start.get("title"),
        report=_REPORT in outputs,
        stages=entries,
    )
    try:
        _attach_results(outbox, tree, outputs)
        outbox.write("end", status="FINISHED")
    except BaseException:  # another attempt writes its own outbox
        remove(outbox.folder)
        raise
    finally:
        with suppress(OSError):
            outbox.close()


def _attach_results(outbox: Outbox, tree: Tree, outputs: set[str]) -> None:
    """Attach the results and the plotted images that are outputs of stages."""
    with tempfile.TemporaryDirectory() as folder:
        for path in dict.fromkeys([*_results(tree), *_plotted_images(tree)]):
            content = tree.read(path) if _is_in(path, outputs) else None
            if content is not None:
                file = Path(folder, Path(path).name)
                file.write_bytes(content)
                outbox.write("artifact", file=outbox.attach(file), folder="")


def _stage_entry(name: str, record: StageRecord, tree: Tree) -> dict[str, Any]:
    """Return hashes and metrics of a stage; the metrics are those of its metrics file."""
    values: Any = {}
    file = f"metrics/{name}.json"
    if file in record.outputs:
        with suppress(ValueError):
            values = json.loads(tree.read(file) or b"{}")
    return {
        "inputs": record.data | _listed(record, tree),
        "outputs": record.outputs,
        "metrics": numbers(values if isinstance(values, dict) else {}),
    }


def _listed(record: StageRecord, tree: Tree) -> dict[str, str]:
    """Return the hashes of the files that an input of the stage lists, by path."""
    lists = [path for path in record.inputs if Path(path).parent == LISTS]
    found: dict[str, str] = {}
    for path in lists:
        with suppress(ValueError, TypeError):
            found |= json.loads(tree.read(path) or b"{}")
    return found


def _results(tree: Tree) -> list[str]:
    """Return the paths of the report page, the sheet of paintings and the last montage."""
    montages = _last(tree.names("renders/montages"))
    return [_REPORT, "styled/sheet.png", *(f"renders/montages/{name}" for name in montages)]


def _last(names: list[str]) -> list[str]:
    """Return the last of numbered names, also if there are more than four digits."""
    return sorted(names, key=lambda name: (len(name), name))[-1:]


def _plotted_images(tree: Tree) -> list[str]:
    """Return the paths of images that ``dvc.yaml`` plots; of a folder its last image."""
    try:
        plots = YAML(typ="safe", pure=True).load(tree.read("dvc.yaml") or b"").get("plots", [])
    except (YAMLError, AttributeError):
        return []
    paths = [plot for plot in plots if isinstance(plot, str)]
    folders = {path: tree.names(path) for path in paths}
    return [f"{path}/{_last(folders[path])[0]}" if folders[path] else path for path in paths]


def _is_in(path: str, outputs: set[str]) -> bool:
    return any(Path(path).is_relative_to(output) for output in outputs)


def _tree(root: Path, start: Mapping[str, Any], patience: float) -> Tree | None:
    """Return the working tree, or the experiment's commit; ``None`` if there is no commit."""
    if Path(start["workspace"]) == root.resolve():
        return Workspace(root)
    name, baseline = (start["tags"].get(f"dvc.{key}", "") for key in ("experiment", "baseline"))
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    end = time.monotonic() + patience
    # DVC fetches the commit from the copy shortly after the copy's dvc has exited.
    while name:
        commit = git("rev-parse", "--verify", reference, cwd=root)
        if commit:
            return Commit.open(root, commit.strip())
        if time.monotonic() >= end:
            break
        time.sleep(0.25)
    return None
