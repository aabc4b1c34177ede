"""DVC experiments without results: the settings of a training that was stopped.

``dvc exp run`` records an experiment only if all its stages succeed. A stopped training is recorded
here, so that ``dvc exp show`` lists its settings, and ``dvc exp apply NAME`` with ``dvc repro``
resumes it. The commit contains the settings, and a ``dvc.lock`` without the stages that did not
finish.
"""

import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atelier.core.yaml_files import document_text, parse_document, set_value
from atelier.tracking.dvc_lock import StageRecord, read_lock
from atelier.tracking.experiments import experiment_reference
from atelier.tracking.programs import git_output

_IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "atelier"), ("EMAIL", "atelier@localhost"))
}
PARAMS, LOCK = "params.yaml", "dvc.lock"


def record_settings(
    root: Path, name: str, changes: Mapping[str, Any], stage: str, baseline: str
) -> str:
    """Record an experiment; return its commit.

    Args:
        root: the project.
        name: of the experiment; an existing one of the same baseline is replaced.
        changes: settings by dotted key.
        stage: the stage that did not finish.
        baseline: commit that the experiment started from.

    Raises:
        AtelierError: git does not accept it.
    """
    prefix = _git(root, "rev-parse", "--show-prefix")
    params = _git(root, "show", f"{baseline}:{prefix}{PARAMS}")
    files = {f"{prefix}{PARAMS}": changed_settings(params + "\n", changes)}
    if _git(root, "ls-tree", "--name-only", baseline, LOCK):
        lock = _git(root, "show", f"{baseline}:{prefix}{LOCK}")
        files[f"{prefix}{LOCK}"] = lock_without(lock + "\n", stage)
    tree = _tree(root, files, baseline)
    message = f"Settings of the stopped training {name}"
    commit = _git(root, "commit-tree", tree, "-p", baseline, "-m", message, **_IDENTITY)
    _git(root, "update-ref", experiment_reference(name, baseline), commit)
    return commit


def changed_settings(text: str, changes: Mapping[str, Any]) -> str:
    """Return the text of ``params.yaml`` with other values, and its comments."""
    document = parse_document(text)
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


def _tree(root: Path, files: Mapping[str, str], baseline: str) -> str:
    """Return a tree of git: that of a commit with other files."""
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        _git(root, "read-tree", baseline, **index)
        for name, text in files.items():
            blob = _git(root, "hash-object", "-w", "--stdin", text=text)
            _git(root, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", **index)
        return _git(root, "write-tree", **index)


def _git(root: Path, *arguments: str, text: str = "", **variables: str) -> str:
    """Return the output of git, without a final newline."""
    output = git_output(root, *arguments, stdin=text, variables=variables)
    return output.removesuffix("\n")
