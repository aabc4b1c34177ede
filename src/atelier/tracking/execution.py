"""How a pipeline execution ended: what DVC recorded, also of the stages that did not run.

Skipped stages start no process, so that nobody speaks for them. When the ``dvc`` that runs a
pipeline has ended, :func:`write_outcome` reads what it recorded and writes it to a journal
of the pipeline's own: every stage's hashes, the numbers of all, and the key pictures.
"""

import hashlib
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.core.errors import AtelierError
from atelier.core.paths import LISTS
from atelier.tracking.dvc_lock import StageRecord, current, is_logged, read_lock
from atelier.tracking.environment import Process, git, private_folder
from atelier.tracking.outbox import Outbox, remove
from atelier.tracking.redact import numbers

_PATIENCE_SECONDS = 30.0


class NoTreeError(AtelierError):
    """Raised if there is nothing from which to read how an execution ended, perhaps not yet."""


class Tree(Protocol):
    """Files as an execution left them."""

    def read(self, path: str) -> bytes | None:
        """A file's content, or ``None`` where there is no such file."""

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""


class Workspace:
    """The working tree, for ``dvc repro`` and experiments that run in it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, path: str) -> bytes | None:
        """A file's content, or ``None`` where there is no such file."""
        with suppress(OSError):
            return (self._root / path).read_bytes()
        return None

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        with suppress(OSError):
            return sorted(file.name for file in (self._root / folder).iterdir())
        return []


class Commit:
    """The commit of an experiment that ran in a temporary copy, which is gone by now.

    What git does not have comes from DVC's cache. The project may lie anywhere in the repository.
    """

    def __init__(self, root: Path, revision: str) -> None:
        from dvc.repo import Repo

        self._root = root
        self._revision = revision
        with Repo(str(root)) as repo:
            self._cache = Path(repo.cache.local.path)
        records = read_lock((self._tracked("dvc.lock") or b"").decode("utf-8", "replace"))
        self._hashes = {path: md5 for one in records.values() for path, md5 in one.outputs.items()}
        self._folders: dict[str, dict[str, str]] = {}

    def read(self, path: str) -> bytes | None:
        """A file's content, or ``None`` where there is no such file."""
        md5 = self._hash_of(path)
        if md5 is None:
            return self._tracked(path)
        return None if md5.endswith(".dir") else self._cached(md5)

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        files = [Path(output, file) for output in self._hashes for file in self._files(output)]
        below = [
            file for file in (*files, *map(Path, self._hashes)) if Path(folder) in file.parents
        ]
        return sorted({file.relative_to(folder).parts[0] for file in below})

    def _hash_of(self, path: str) -> str | None:
        if path in self._hashes:
            return self._hashes[path]
        for parent in PurePosixPath(path).parents:
            if str(parent) in self._hashes:
                return self._files(str(parent)).get(str(PurePosixPath(path).relative_to(parent)))
        return None

    def _files(self, folder: str) -> dict[str, str]:
        """The hashes of the files of a folder that is an output, by path below it."""
        md5 = self._hashes.get(folder, "")
        if folder not in self._folders:
            content = self._cached(md5) if md5.endswith(".dir") else None
            entries = json.loads(content) if content else []
            self._folders[folder] = {entry["relpath"]: entry["md5"] for entry in entries}
        return self._folders[folder]

    def _cached(self, md5: str) -> bytes | None:
        with suppress(OSError):
            return (self._cache / md5[:2] / md5[2:]).read_bytes()
        return None

    def _tracked(self, path: str) -> bytes | None:
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(  # noqa: S603 - fixed words, no shell
                ["git", "cat-file", "blob", f"{self._revision}:./{path}"],  # noqa: S607 - the user's own git
                cwd=self._root,
                capture_output=True,
                timeout=60,
                check=True,
            ).stdout
        return None


class LockFileSnapshot:
    """Remembers the ``dvc.lock`` of a temporary copy, which is gone when its experiment failed."""

    def __init__(self, start: Mapping[str, Any] | None) -> None:
        self._file = Path(start["workspace"], "dvc.lock") if start else None
        self._seen = 0
        self.text = b""

    def refresh(self) -> None:
        """Read the file again if it was written since."""
        with suppress(OSError):
            if self._file and self._file.stat().st_mtime_ns != self._seen:
                self._seen, self.text = self._file.stat().st_mtime_ns, self._file.read_bytes()

    def read(self, path: str) -> bytes | None:
        """The lock's content; nothing else is left."""
        return self.text if path == "dvc.lock" else None

    def names(self, folder: str) -> list[str]:
        """Nothing is left in any folder."""
        return []


def write_outcome(
    root: Path,
    process: Process,
    start: Mapping[str, Any],
    lock: LockFileSnapshot | None = None,
    patience: float = _PATIENCE_SECONDS,
) -> None:
    """Write the journal of how the execution that ``process`` ran ended, or none at all.

    Args:
        root: the main project.
        process: the ``dvc`` that has ended.
        start: how it was started, from one of its stages.
        lock: what was seen of ``dvc.lock`` meanwhile.
        patience: seconds to wait for an experiment's commit.

    Raises:
        NoTreeError: the experiment has no commit, and no ``dvc.lock`` was seen.
    """
    tree = _tree(root, start, patience) or lock
    if tree is None:
        raise NoTreeError("the experiment has no commit; its temporary copy is gone")
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))

    @cache
    def hash_of(path: str) -> str | None:
        content = tree.read(path)
        return None if content is None else hashlib.md5(content).hexdigest()  # noqa: S324

    # Nobody edits code in a temporary copy, and it is no more there to look at.
    stages = current(records, start["parameters"], None if tree is lock else hash_of)
    if not stages:
        return
    told = {
        name: _log_stage(name, record, tree) for name, record in stages.items() if is_logged(name)
    }
    made = {path for record in stages.values() for path in record.outputs}
    journal = Outbox(
        private_folder(root),
        process,
        "pipeline",
        kind="outcome",
        experiment=start["experiment"],
        parameters=start["parameters"],
        stages=told,
    )
    try:
        _copy_images(journal, tree, made)
        journal.write("end", status="FINISHED")
    except BaseException:  # another attempt writes a journal of its own
        remove(journal.folder)
        raise
    finally:
        with suppress(OSError):
            journal.close()


def _copy_images(journal: Outbox, tree: Tree, made: set[str]) -> None:
    """Write the pictures among the files that stages made to a journal."""
    with tempfile.TemporaryDirectory() as folder:
        for path in _pictures(tree):
            content = tree.read(path) if _is_in(path, made) else None
            if content is not None:
                file = Path(folder, Path(path).name)
                file.write_bytes(content)
                journal.write("artifact", file=journal.attach(file), folder="")


def _log_stage(name: str, record: StageRecord, tree: Tree) -> dict[str, Any]:
    """What the journal says of a stage; its numbers are those of its metrics file."""
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


def _pictures(tree: Tree) -> list[str]:
    """The pictures that ``dvc.yaml`` plots; of a folder the last one."""
    try:
        plots = YAML(typ="safe", pure=True).load(tree.read("dvc.yaml") or b"").get("plots", [])
    except (YAMLError, AttributeError):
        return []
    paths = [plot for plot in plots if isinstance(plot, str)]
    folders = {path: tree.names(path) for path in paths}
    return [f"{path}/{folders[path][-1]}" if folders[path] else path for path in paths]


def _is_in(path: str, made: set[str]) -> bool:
    return any(Path(path).is_relative_to(place) for place in made)


def _tree(root: Path, start: Mapping[str, Any], patience: float) -> Tree | None:
    """Where to read what the execution left: the working tree, or the experiment's commit."""
    if Path(start["workspace"]) == root.resolve():
        return Workspace(root)
    name, baseline = (start["tags"].get(f"dvc.{key}", "") for key in ("experiment", "baseline"))
    reference = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}"
    end = time.monotonic() + patience
    # DVC brings the commit over from the copy a little after the copy's dvc has ended.
    while name:
        commit = git("rev-parse", "--verify", reference, cwd=root)
        if commit:
            return Commit(root, commit.strip())
        if time.monotonic() >= end:
            break
        time.sleep(0.25)
    return None
