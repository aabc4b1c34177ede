"""Garbage collection, by MLflow's and DVC's own programs; here is said what they must keep."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from atelier.errors import AtelierError
from atelier.tracking.workspace import git

# Not read as YAML: a commit may hold the marks of a conflict, and names its files all the same.
_HASH = re.compile(r"\bmd5: ['\"]?([0-9a-f]{32}(?:\.dir)?)\b")


def named_by_git(root: Path) -> set[str]:
    """The hashes in every dvc.lock that a branch, tag, experiment or the workspace holds."""
    if git("rev-parse", "--git-dir") is None:
        return _hashes(root)
    # In full: git leaves out merged branches whose file the merge did not take.
    history = ("rev-list", "--all", "--full-history", "--objects", "--", "dvc.lock")
    lines = _program(root, "git", *history).splitlines()
    blobs = [line.partition(" ")[0] for line in lines if line.endswith("dvc.lock")]
    locks = _program(root, "git", "cat-file", "--batch", told="\n".join(blobs))
    return set(_HASH.findall(locks)) | _hashes(root)


def _hashes(root: Path) -> set[str]:
    """The hashes in the working tree's dvc.lock."""
    with suppress(FileNotFoundError):
        return set(_HASH.findall((root / "dvc.lock").read_text("utf-8", "replace")))
    return set()


def collect_runs(
    root: Path, address: str, runs: Iterable[str], models: Iterable[str], folders: Iterable[Path]
) -> None:
    """Remove deleted runs and models for good, and the empty folders that this leaves.

    Args:
        root: the project.
        address: of MLflow's store.
        runs: ids.
        models: ids.
        folders: where their artifacts lay.
    """
    places = (f"--tracking-uri={address}", f"--backend-store-uri={address}")
    _program(
        root,
        "mlflow",
        "gc",
        *places,
        f"--run-ids={','.join(runs)}",
        f"--logged-model-ids={','.join(models)}",
    )
    for folder in folders:
        with suppress(OSError):  # it is not empty, or was never made
            folder.parent.rmdir()


def collect_cache(root: Path, kept: Iterable[str], *more: str) -> list[Path]:
    """Remove from DVC's cache what no commit, no experiment and nothing of ``kept`` names.

    Args:
        root: the project.
        kept: content hashes.
        more: further words to ``dvc gc``, such as ``--dry``.

    Returns:
        The files that would go, where it is ``--dry``.
    """
    cache = Path(_program(root, "dvc", "cache", "dir").strip())
    if root.resolve() not in cache.resolve().parents:  # other projects may use it
        return []
    entries = [{"md5": md5, "hash": "md5", "path": md5} for md5 in sorted(kept)]
    with TemporaryDirectory() as folder:
        # DVC keeps what commits name and what another project uses: here, what kept runs made.
        _program(root, "git", "init", "--quiet", folder)
        (Path(folder) / ".dvc").mkdir()
        (Path(folder) / ".dvc" / "cache").symlink_to(cache)
        (Path(folder) / "kept.dvc").write_text(json.dumps({"outs": entries}), "utf-8")
        used = ("--workspace", "--all-commits", "--all-experiments", f"--projects={folder}")
        told = _program(root, "dvc", "gc", "--force", *used, *more)
    lines = [line for line in told.splitlines() if line.startswith("Removing ")]
    return [Path(line.removeprefix("Removing ")) for line in lines]


def _program(root: Path, name: str, *words: str, told: str = "") -> str:
    """Run a program and return what it prints; its fault becomes one sentence."""
    program = [name] if name == "git" else [sys.executable, "-m", name]
    try:
        return subprocess.run(  # noqa: S603 - fixed words, no shell
            [*program, *words],
            cwd=root,
            input=told,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        fault = next((line for line in lines if line.startswith(("ERROR", "fatal"))), lines[-1])
        raise AtelierError(f"`{name} {words[0]}` failed: {fault}") from None
