"""Digest of the code that trains and evaluates, by which runs of one program are recognized."""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.tracking.dvc_lock import is_code
from atelier.tracking.environment import git

_STAGES = ("convert", "train", "evaluate")
_COMMIT = re.compile("[0-9a-f]{7,64}")
_CHANGE = re.compile("^diff --git a/", re.MULTILINE)
_LENGTH = 12  # digits of a digest


def code_digest(commit: str, patch: str | None) -> str:
    """Return a digest of the code of a commit with uncommitted changes.

    It depends only on the files that ``dvc.yaml`` names as dependencies of the stages that make a
    generator and measure it. So a change of other files, e.g. of a command, does not change it.

    Args:
        commit: full id of the commit.
        patch: uncommitted changes, as ``git diff`` prints them; ``None`` without changes.

    Returns:
        Hexadecimal digits; empty if the commit is not in this repository, or the patch has no
        changed file.
    """
    if patch is not None and not _CHANGE.search(patch):
        return ""
    paths = _code_paths(Path.cwd())
    if not _COMMIT.fullmatch(commit) or not paths:
        return ""
    tree = git("ls-tree", "-r", commit, "--", *paths)
    if not tree:
        return ""
    return hashlib.sha256(f"{tree}{_part(patch or '', paths)}".encode()).hexdigest()[:_LENGTH]


def _part(patch: str, paths: Sequence[str]) -> str:
    """Return the parts of a patch that change one of these files or folders."""
    parts = re.split("^(?=diff --git )", patch, flags=re.MULTILINE)
    return "".join(
        part for part in parts if any(part.startswith(f"diff --git a/{path}") for path in paths)
    )


@cache
def _code_paths(folder: Path) -> tuple[str, ...]:
    """Return the files and folders of code that the stages of a project depend on."""
    try:
        text = (folder / "dvc.yaml").read_text("utf-8")
        stages = YAML(typ="safe", pure=True).load(text)["stages"]
        paths = {path for stage in _STAGES for path in stages[stage]["deps"] if is_code(path)}
    except (OSError, YAMLError, KeyError, TypeError, ValueError):
        return ()
    return tuple(sorted(paths))
