"""Content hashes that git refers to, and garbage collection by MLflow and DVC."""

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from atelier.core.errors import AtelierError
from atelier.tracking.environment import git
from atelier.tracking.programs import git_output, program_output

if TYPE_CHECKING:
    from dvc_data.hashfile.db import HashFileDB

# Not parsed as YAML: a commit may contain conflict markers, and still refers to its files.
_HASH = re.compile(r"\bmd5: ['\"]?([0-9a-f]{32}(?:\.dir)?)\b")
# DVC's files in any folder, because the project may have been moved within its repository.
_RECORDS = (":(top,glob)**/dvc.lock", ":(top,glob)**/*.dvc")
_DVC_FOLDERS = ":(top,glob)**/.dvc/config"
_EXPERIMENT = re.compile("refs/exps/[0-9a-f]{2}/")
# References to commits that may be on no branch.
_PSEUDO_REFS = ("HEAD", "ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD")


def named_by_git(root: Path) -> set[str]:
    """Return the hashes in every ``dvc.lock`` of the repository.

    This includes all branches, tags, stashes, experiments, queued tasks, commits that are only in a
    reflog, and the present files of all worktrees and temporary copies.

    Raises:
        AtelierError: the history is incomplete, e.g. in a shallow clone, or git fails.
    """
    if _has_no_git(root):
        return _hashes(root / "dvc.lock")
    git_output(root, "rev-list", "--all", "--max-count=1")
    _reject_shallow(root)
    worktrees = _worktrees(root)
    commits = _stashed(root)
    for worktree in worktrees:
        commits += [*_heads(worktree), *_reflog(worktree)]
    objects = _blobs(root, commits)
    objects += [blob for worktree in worktrees for blob in _staged(worktree)]
    return _hashes_of_objects(root, objects) | _hashes_in_worktrees(root, worktrees)


def _hashes_in_worktrees(root: Path, worktrees: Iterable[Path]) -> set[str]:
    """Return the hashes in the present files of worktrees and temporary copies."""
    files = {root / "dvc.lock"}
    prefix = git_output(root, "rev-parse", "--show-prefix").removesuffix("\n")
    command = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--")
    for worktree in worktrees:
        names = git_output(worktree, *command, *_RECORDS, _DVC_FOLDERS).split("\0")
        found = {worktree / name for name in names if name}
        folders = {file.parent for file in found if file.parent.name == ".dvc"}
        copies = (copy for folder in folders for copy in (folder / "tmp/exps").rglob("dvc.lock"))
        files |= {worktree / prefix / "dvc.lock", *found, *copies}
    return set[str]().union(*map(_hashes, files))


def _has_no_git(root: Path) -> bool:
    """Return True if the project has no git repository and DVC is configured so."""
    folders = (root.resolve(), *root.resolve().parents)
    if "GIT_DIR" in os.environ or any(os.path.lexists(folder / ".git") for folder in folders):
        return False
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with suppress(DvcException):
        return bool(Config(Repo.find_dvc_dir(str(root)))["core"].get("no_scm"))
    return False


def _reject_shallow(root: Path) -> None:
    """Raise if the repository lacks a part of its history."""
    if git_output(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        raise AtelierError(
            "this is a shallow clone, so older commits, which may name files that would be removed,"
            " are missing; fetch them with `git fetch --unshallow`."
        )


def _worktrees(root: Path) -> list[Path]:
    """Return the folders of all worktrees.

    Raises:
        AtelierError: one cannot be read.
    """
    entries = git_output(root, "worktree", "list", "--porcelain", "-z").split("\0\0")
    found = []
    for entry in filter(None, entries):
        lines = entry.strip("\0").split("\0")
        if "bare" in lines:
            continue
        folder = Path(lines[0].removeprefix("worktree "))
        if not os.access(folder, os.R_OK | os.X_OK):
            raise AtelierError(
                f"the worktree {folder} of this repository cannot be read, and its dvc.lock may"
                " name files that would be removed; make it readable, or type `git worktree prune`"
                " if it no longer exists."
            )
        found.append(folder)
    return found


def _stashed(root: Path) -> list[str]:
    """Return the commits of stashes and queued tasks; all but the newest are only in a reflog."""
    refs = git_output(root, "for-each-ref", "--format=%(refname)").split()
    with_log = [ref for ref in refs if ref == "refs/stash" or _is_queue(ref)]
    logs = (git_output(root, "reflog", "show", "--format=%H", ref, "--") for ref in with_log)
    return [commit for log in logs for commit in log.split()]


def _is_queue(ref: str) -> bool:
    return ref.startswith("refs/exps/") and not _EXPERIMENT.match(ref)


def _heads(worktree: Path) -> list[str]:
    """Return the commits of a worktree's pseudo references, e.g. ``ORIG_HEAD``."""
    found = (git("rev-parse", "--verify", "--quiet", name, cwd=worktree) for name in _PSEUDO_REFS)
    return [commit.strip() for commit in found if commit]


def _reflog(worktree: Path) -> list[str]:
    """Return the commits of a worktree's references and reflogs.

    Some references, e.g. those of a bisection, exist in one worktree only.
    """
    return git_output(worktree, "rev-list", "--all", "--reflog", "--no-walk").split()


def _staged(worktree: Path) -> list[str]:
    """Return the blobs of DVC's files in a worktree's index, also of both sides of a conflict."""
    entries = git_output(worktree, "ls-files", "--stage", "-z", "--", *_RECORDS).split("\0")
    return [entry.split()[1] for entry in entries if entry]


def _blobs(root: Path, commits: Iterable[str]) -> list[str]:
    """Return the blobs of DVC's files in these commits, all references and their ancestors."""
    # Full history: by default git skips merged branches whose file the merge discarded.
    walk = ("rev-list", "--all", "--full-history", "--stdin", "--", *_RECORDS)
    found = git_output(root, *walk, stdin="\n".join(commits))
    changes = ("diff-tree", "--stdin", "--root", "-r", "-m", "--no-renames", "--", *_RECORDS)
    # E.g. ":100644 100644 OLD NEW M<tab>dvc.lock"; a line with the commit's hash precedes them.
    lines = git_output(root, *changes, stdin=found).splitlines()
    return [line.split()[3] for line in lines if line.startswith(":")]


def _hashes_of_objects(root: Path, objects: Iterable[str]) -> set[str]:
    """Return the hashes in blobs of git.

    Raises:
        AtelierError: the repository lacks a blob, e.g. in a partial clone.
    """
    names = sorted({name for name in objects if name.strip("0")})  # zeros: the file was deleted
    content = git_output(root, "cat-file", "--batch", stdin="\n".join(names))
    if any(f"{name} missing" in content for name in names):
        raise AtelierError(
            "this clone lacks objects of its history, which may name files that would be removed;"
            " fetch them with `git fetch --refetch --no-filter`."
        )
    return set(_HASH.findall(content))


def _hashes(file: Path) -> set[str]:
    """Return the hashes in a file of DVC; empty if there is no such file.

    Raises:
        AtelierError: the file exists, but cannot be read.
    """
    try:
        return set(_HASH.findall(file.read_text("utf-8", "replace")))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return set()
    except OSError as error:
        raise AtelierError(
            f"{file} cannot be read ({error.strerror}), and it may name files that would be"
            " removed; make it readable."
        ) from None


def collect_runs(
    root: Path, address: str, runs: Iterable[str], models: Iterable[str], folders: Iterable[Path]
) -> None:
    """Remove deleted runs and models permanently, and folders that become empty.

    Args:
        root: the project.
        address: address of MLflow's store.
        runs: ids of runs.
        models: ids of models.
        folders: folders of their artifacts.
    """
    store = (f"--tracking-uri={address}", f"--backend-store-uri={address}")
    program_output(
        root,
        "mlflow",
        "gc",
        *store,
        f"--run-ids={','.join(runs)}",
        f"--logged-model-ids={','.join(models)}",
    )
    for folder in folders:
        with suppress(OSError):  # it is not empty, or does not exist
            folder.parent.rmdir()


def collect_cache(root: Path, keep: Iterable[str], dry: bool = False) -> list[Path]:
    """Remove files from DVC's cache that neither the repository nor ``keep`` refers to.

    Args:
        root: the project.
        keep: content hashes.
        dry: only return the files.

    Returns:
        The files that are removed, or with ``dry`` would be removed.

    Raises:
        AtelierError: DVC or git fails.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    for library in ("dvc", "dvc_data"):  # no messages and no progress bars
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        with Repo(str(root)) as repo:
            cache = Path(repo.cache.local_cache_dir)
            if root.resolve() not in cache.resolve().parents:  # other projects may use it
                return []
            with lock_repo(repo):
                # The records of a project without git; raises if one is damaged.
                outputs = {out.hash_info.value for out in repo.index.outs if out.hash_info}
                databases = (repo.cache.local, repo.cache.legacy)
                used = _with_files(databases, {*keep, *outputs, *named_by_git(root)})
                return [path for one in databases for path in _remove_unused(one, used, dry)]
    except (DvcException, OSError) as error:
        raise AtelierError(f"DVC's cache cannot be read: {error}") from None


def _with_files(databases: Iterable["HashFileDB"], hashes: set[str]) -> set[str]:
    """Return hashes of files and folders, with those of the files in the folders.

    Raises:
        AtelierError: the list of a folder's files is damaged.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    found = set(hashes)
    for database in databases:
        for folder in hashes:
            if not folder.endswith(".dir") or not database.exists(folder):
                continue
            try:
                tree = Tree.load(database, HashInfo(database.hash_name, folder))
            except ObjectFormatError:
                raise AtelierError(
                    f"{database.oid_to_path(folder)} in DVC's cache is damaged, so it is unknown"
                    " which files it lists; delete it, or get it back with `dvc fetch`, and run"
                    " again."
                ) from None
            found |= {info.value for _, _, info in tree}
    return found


def _remove_unused(database: "HashFileDB", used: Iterable[str], dry: bool) -> list[Path]:
    """Remove files other than ``used`` from one of DVC's databases; return them."""
    from dvc_data.hashfile.gc import gc
    from dvc_data.hashfile.hash_info import HashInfo

    used = set(used)
    unused = [file for file in _files(database) if f"{file.parent.name}{file.name}" not in used]
    if unused and not dry:
        gc(database, {HashInfo(database.hash_name, md5) for md5 in used})
    return unused


def _files(database: "HashFileDB") -> list[Path]:
    """Return all files of a database; ``database.all()`` takes ten times as long."""
    folder = Path(database.path)
    prefixes = [path for path in folder.iterdir() if len(path.name) == 2] if folder.exists() else []
    return [
        Path(entry.path)
        for prefix in prefixes
        if prefix.is_dir()
        for entry in os.scandir(prefix)
        if not entry.is_dir()
    ]
