"""Worktree of git in which experiments start that run while the user works.

``dvc exp run`` changes ``params.yaml`` in its workspace for a moment, and resets all tracked files,
also with ``--temp``. In the user's own workspace this would lose an edit that is made then, and a
kill at that moment would leave the changed file. The worktree uses DVC's cache, the store of MLflow
and ``.atelier/`` of the main project.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.core.paths import MAIN_PROJECT
from atelier.tracking.environment import git, private_folder
from atelier.tracking.store import locked

_FOLDER = "worktrees"
_DIGITS = 12


@contextmanager
def open_worktree(root: Path, commit: str) -> Iterator[tuple[Path, int]]:
    """Yield the project's folder in a worktree of a commit, and the lock that marks its use.

    Several processes can use it. Files that a killed process has changed are restored if no
    process uses it.

    Args:
        root: the main project.
        commit: all digits of its id.

    Yields:
        The folder, and an open file for the programs that work there to inherit.

    Raises:
        AtelierError: git or DVC cannot create it.
    """
    folders = private_folder(root) / _FOLDER
    folder, use = folders / commit[:_DIGITS], folders / f"{commit[:_DIGITS]}.use"
    prefix = _run(root, "git", "rev-parse", "--show-prefix")
    with locked(folders / ".lock"):
        descriptor = os.open(use, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _is_unused(descriptor):
                _prepare(root, folder, commit, folder / prefix)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except BaseException:
            os.close(descriptor)
            raise
    try:
        yield folder / prefix, descriptor
    finally:
        os.close(descriptor)


def worktree_environment(root: Path) -> dict[str, str]:
    """Return the environment of programs in the worktree: stages use the main project's store."""
    return {MAIN_PROJECT: str(root)}


def _is_unused(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _prepare(root: Path, folder: Path, commit: str, project: Path) -> None:
    """Create a worktree, or restore the tracked files of an existing one."""
    if (git("rev-parse", "HEAD", cwd=folder) if folder.is_dir() else None) is None:
        shutil.rmtree(folder, ignore_errors=True)
        _run(root, "git", "worktree", "prune")
        _run(root, "git", "worktree", "add", "--detach", "--force", str(folder), commit)
    _run(folder, "git", "checkout", "--quiet", "--force", "--detach", commit)
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        cache = repo.cache.local_cache_dir
    _run(project, sys.executable, "-m", "dvc", "cache", "dir", "--quiet", "--local", cache)


def _run(cwd: Path, *command: str) -> str:
    """Return the output of a program.

    Raises:
        AtelierError: it fails.
    """
    done = subprocess.run(  # noqa: S603 - no shell
        command, cwd=cwd, capture_output=True, encoding="utf-8", errors="replace"
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        name = " ".join(command[:3]) if command[0] == "git" else "dvc"
        raise AtelierError(f"the worktree of experiments cannot be made: {name}: {lines[-1]}")
    return done.stdout.strip()
