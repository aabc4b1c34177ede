"""How a pipeline execution ended: what DVC recorded, also of the stages that did not run.

Skipped stages start no process, so that nobody speaks for them. When the ``dvc`` that runs a
pipeline has ended, :func:`write_outcome` reads what it recorded and writes it to a journal
of the pipeline's own: every stage's hashes, the numbers of all, and the key pictures.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.tracking.journal import Journal
from atelier.tracking.record import StageRecord, current, read_lock
from atelier.tracking.values import numbers
from atelier.tracking.workspace import Process, git, private_folder

_PATIENCE_SECONDS = 30.0


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

    What git does not have comes from DVC's cache.
    """

    def __init__(self, root: Path, revision: str) -> None:
        from dvc.api import DVCFileSystem

        self._files = DVCFileSystem(str(root), rev=revision)

    def read(self, path: str) -> bytes | None:
        """A file's content, or ``None`` where there is no such file."""
        with suppress(OSError):
            content: bytes = self._files.read_bytes(f"/{path}")
            return content
        return None

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where there is no such folder."""
        with suppress(OSError):
            if self._files.isdir(f"/{folder}"):  # ls of a file lists the file
                files = self._files.ls(f"/{folder}", detail=False)
                return sorted(Path(file).name for file in files)
        return []


class LockWatch:
    """Remembers the ``dvc.lock`` of a temporary copy, which is gone when its experiment failed."""

    def __init__(self, start: Mapping[str, Any] | None) -> None:
        self._file = Path(start["workspace"], "dvc.lock") if start else None
        self._seen = 0
        self.text = b""

    def look(self) -> None:
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
    root: Path, process: Process, start: Mapping[str, Any], lock: LockWatch | None = None
) -> None:
    """Write the journal of how the execution that ``process`` ran ended.

    Args:
        root: the main project.
        process: the ``dvc`` that has ended.
        start: how it was started, from one of its stages.
        lock: what was seen of ``dvc.lock`` meanwhile.
    """
    tree = _tree(root, start) or lock
    if tree is None:
        return
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))

    @cache
    def hash_of(path: str) -> str | None:
        content = tree.read(path)
        return None if content is None else hashlib.md5(content).hexdigest()  # noqa: S324

    # Nobody edits code in a temporary copy, and it is no more there to look at.
    stages = current(records, start["parameters"], None if tree is lock else hash_of)
    if not stages:
        return
    journal = Journal(
        private_folder(root),
        process,
        "pipeline",
        kind="outcome",
        experiment=start["experiment"],
        parameters=start["parameters"],
        stages={name: _told(name, record, tree) for name, record in stages.items()},
    )
    made = {path for record in stages.values() for path in record.outputs}
    with tempfile.TemporaryDirectory() as folder:
        for path in _pictures(tree):
            content = tree.read(path) if _is_in(path, made) else None
            if content is not None:
                file = Path(folder, Path(path).name)
                file.write_bytes(content)
                journal.write("artifact", file=journal.keep(file), folder="")
    journal.write("end", status="FINISHED")
    journal.close()


def _told(name: str, record: StageRecord, tree: Tree) -> dict[str, Any]:
    """What the journal says of a stage; its numbers are those of its metrics file."""
    values: Any = {}
    file = f"metrics/{name}.json"
    if file in record.outputs:
        with suppress(ValueError):
            values = json.loads(tree.read(file) or b"{}")
    return {
        "inputs": record.data,
        "outputs": record.outputs,
        "metrics": numbers(values if isinstance(values, dict) else {}),
    }


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


def _tree(root: Path, start: Mapping[str, Any]) -> Tree | None:
    """Where to read what the execution left: the working tree, or the experiment's commit."""
    if Path(start["workspace"]) == root.resolve():
        return Workspace(root)
    name, baseline = (start["tags"].get(f"dvc.{key}", "") for key in ("experiment", "baseline"))
    end = time.monotonic() + _PATIENCE_SECONDS
    # DVC brings the commit over from the copy a little after the copy's dvc has ended.
    while name and time.monotonic() < end:
        commit = git("rev-parse", "--verify", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}")
        if commit:
            return Commit(root, commit.strip())
        time.sleep(0.25)
    return None
