"""Worktrees of git in which experiments start that run while the user works.

``dvc exp run`` changes ``params.yaml`` in its workspace for a moment, and resets all tracked files,
also with ``--temp``. In the user's own workspace this would lose an edit that is made then, and a
kill at that moment would leave the changed file. Besides, DVC runs one experiment of a workspace at
a time. The worktrees use DVC's cache, the store of MLflow and ``.atelier/`` of the main project.
"""

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier.core.paths import MAIN_PROJECT
from atelier.tracking.environment import git, private_folder
from atelier.tracking.programs import git_output, program_output

_FOLDER = "worktrees"
_DIGITS = 12
# A hook of the user, such as that of `dvc install`, must not run before DVC's cache is set.
_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")


@contextmanager
def open_worktree(root: Path, commit: str) -> Iterator[tuple[Path, int]]:
    """Yield the project's folder in a worktree that no other process uses, and its lock.

    Args:
        root: the main project.
        commit: all digits of its id.

    Yields:
        The folder, and the open lock file for the programs that work there to inherit: the
        worktree is in use until they have ended, too.

    Raises:
        AtelierError: git or DVC cannot create it.
    """
    folders = private_folder(root) / _FOLDER
    folders.mkdir(exist_ok=True)
    for number in itertools.count():
        folder = folders / f"{commit[:_DIGITS]}-{number}"
        descriptor = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield _prepare(root, folder, commit), descriptor
        finally:
            os.close(descriptor)
        return


def worktree_environment(root: Path) -> dict[str, str]:
    """Return the environment of programs in a worktree: stages use the main project's store."""
    return {MAIN_PROJECT: str(root)}


def _prepare(root: Path, folder: Path, commit: str) -> Path:
    """Create a worktree, or restore the tracked files of an existing one; return its project."""
    if not _is_worktree(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _git(root, "worktree", "prune")
        _git(root, "worktree", "add", "--detach", "--force", str(folder), commit)
    administration = Path(_git(folder, "rev-parse", "--absolute-git-dir"))
    (administration / "index.lock").unlink(missing_ok=True)  # of a git that was killed
    _git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    project = folder / _git(root, "rev-parse", "--show-prefix")
    for copies in folder.glob("**/.dvc/tmp/exps/standalone"):  # of a dvc that was killed
        shutil.rmtree(copies, ignore_errors=True)
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        cache = repo.cache.local_cache_dir
    program_output(project, "dvc", "cache", "dir", "--quiet", "--local", cache)
    return project


def _is_worktree(folder: Path) -> bool:
    """Return True if git's files in a folder are complete; in its parent is another worktree."""
    if not folder.is_dir():
        return False
    top = git("rev-parse", "--show-toplevel", cwd=folder)
    return top is not None and Path(top.rstrip("\n")) == folder.resolve()


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of git, without a final newline."""
    return git_output(folder, *arguments, options=_NO_HOOKS).removesuffix("\n")
