"""DVC experiments without results: the settings of a training that was stopped.

``dvc exp run`` records an experiment only if all its stages succeed. A stopped training is recorded
here, so that ``dvc exp show`` lists its settings, and ``dvc exp apply NAME`` with ``dvc repro``
resumes it. The commit contains the settings, and a ``dvc.lock`` without the stages that did not
finish.
"""

import io
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atelier.core.errors import AtelierError
from atelier.core.yaml_files import document_text, read_document, set_value
from atelier.tracking.dvc_lock import StageRecord, read_lock

PARAMS, LOCK = "params.yaml", "dvc.lock"


def record_settings(root: Path, name: str, changes: Mapping[str, Any], stage: str) -> str:
    """Record an experiment of the commit that is checked out; return its commit.

    Args:
        root: the project.
        name: of the experiment; an existing one of the same commit is replaced.
        changes: settings by dotted key.
        stage: the stage that did not finish.

    Raises:
        AtelierError: git does not accept it.
    """
    from dvc.repo.experiments.refs import ExpRefInfo

    baseline = _git(root, "rev-parse", "HEAD")
    files = {PARAMS: changed_settings(root, changes)}
    if (root / LOCK).is_file():
        files[LOCK] = lock_without((root / LOCK).read_text("utf-8"), stage)
    tree = _tree(root, files)
    message = f"Settings of the stopped training {name}"
    identity = ("-c", "user.name=atelier", "-c", "user.email=atelier@localhost")
    commit = _git(root, *identity, "commit-tree", tree, "-p", baseline, "-m", message)
    _git(root, "update-ref", str(ExpRefInfo(baseline, name)), commit)
    return commit


def changed_settings(root: Path, changes: Mapping[str, Any]) -> str:
    """Return the text of ``params.yaml`` with other values, and its comments."""
    document = read_document(root / PARAMS)
    for key, value in changes.items():
        section = document
        *path, last = key.split(".")
        for part in path:
            section = section[part]
        set_value(section, last, value)
    return document_text(document)


def lock_without(text: str, stage: str) -> str:
    """Return a ``dvc.lock`` without a stage and those that use its outputs."""
    records = read_lock(text)
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 4096
    document = yaml.load(text)
    for name in _with_dependents(records, stage):
        document["stages"].pop(name, None)
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _with_dependents(records: Mapping[str, StageRecord], stage: str) -> list[str]:
    """Return a stage and, as their order allows, those that depend on it."""
    stale: list[str] = []
    outputs: set[str] = set()
    for name, record in records.items():
        if name == stage or any(_is_inside(path, outputs) for path in record.inputs):
            stale.append(name)
            outputs |= set(record.outputs)
    return stale


def _is_inside(path: str, outputs: set[str]) -> bool:
    return any(path == output or path.startswith(f"{output}/") for output in outputs)


def _tree(root: Path, files: Mapping[str, str]) -> str:
    """Return a tree of git: that of the present commit with other files."""
    prefix = _git(root, "rev-parse", "--show-prefix")
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", "HEAD", **index)
        for name, text in files.items():
            blob = _git(root, "hash-object", "-w", "--stdin", text=text)
            _git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{prefix}{name}",
                 **index)  # fmt: skip
        return _git(root, "write-tree", **index)


def _git(root: Path, *arguments: str, text: str | None = None, **environment: str) -> str:
    """Return the output of git.

    Raises:
        AtelierError: it fails.
    """
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        ["git", *arguments],  # noqa: S607 - the user's own git
        cwd=root,
        env=os.environ | environment,
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise AtelierError(f"git {arguments[0]} failed: {lines[-1]}.")
    return done.stdout.strip()
