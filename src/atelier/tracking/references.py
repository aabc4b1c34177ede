"""Garbage collection, by MLflow's and DVC's own programs; here is said what they must keep."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from atelier.core.errors import AtelierError
from atelier.tracking.environment import git

# Not read as YAML: a commit may hold the marks of a conflict, and names its files all the same.
_HASH = re.compile(r"\bmd5: ['\"]?([0-9a-f]{32}(?:\.dir)?)\b")
# The records of DVC in any folder: the project may have been moved within its repository.
_RECORDS = (":(top,glob)**/dvc.lock", ":(top,glob)**/*.dvc")
_DVC_FOLDERS = ":(top,glob)**/.dvc/config"
_EXPERIMENT = re.compile("refs/exps/[0-9a-f]{2}/")
# Commits that git is at work with, and that need be on no branch.
_AT_WORK = ("HEAD", "ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD")


def named_by_git(root: Path) -> set[str]:
    """Return the hashes in every dvc.lock that the repository holds.

    These are the records of all branches, tags, stashes, experiments, queued tasks, of what only
    a log of git names, and of all worktrees and temporary copies as they are now.

    Raises:
        AtelierError: git cannot tell, for example in a shallow clone.
    """
    if _has_no_git(root):
        return _hashes(root / "dvc.lock")
    _program(root, "git", "rev-list", "--all", "--max-count=1")
    _refuse_shallow(root)
    worktrees = _worktrees(root)
    commits = _stashed(root)
    for place in worktrees:
        commits += [*_heads(place), *_logged(place)]
    objects = _recorded(root, commits)
    objects += [blob for place in worktrees for blob in _staged(place)]
    return _hashes_of_objects(root, objects) | _hashes_in_worktrees(root, worktrees)


def _hashes_in_worktrees(root: Path, worktrees: Iterable[Path]) -> set[str]:
    """Return the hashes in the records of worktrees and temporary copies, as they are now."""
    files = {root / "dvc.lock"}
    prefix = _program(root, "git", "rev-parse", "--show-prefix").removesuffix("\n")
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--")
    for place in worktrees:
        names = _program(place, "git", *words, *_RECORDS, _DVC_FOLDERS).split("\0")
        found = {place / name for name in names if name}
        folders = {file.parent for file in found if file.parent.name == ".dvc"}
        copies = (copy for folder in folders for copy in (folder / "tmp/exps").rglob("dvc.lock"))
        files |= {place / prefix / "dvc.lock", *found, *copies}
    return set[str]().union(*map(_hashes, files))


def _has_no_git(root: Path) -> bool:
    """Whether the project is kept without git; DVC must have been told so."""
    places = (root.resolve(), *root.resolve().parents)
    if "GIT_DIR" in os.environ or any(os.path.lexists(place / ".git") for place in places):
        return False
    with suppress(AtelierError):
        return _program(root, "dvc", "config", "core.no_scm").strip().lower() == "true"
    return False


def _refuse_shallow(root: Path) -> None:
    """Raise if the repository lacks some of its history."""
    if _program(root, "git", "rev-parse", "--is-shallow-repository").strip() == "true":
        raise AtelierError(
            "this is a shallow clone, so that older commits, which may name what would be removed,"
            " are not here; fetch them by `git fetch --unshallow`."
        )


def _worktrees(root: Path) -> list[Path]:
    """Return the folders of all worktrees.

    Raises:
        AtelierError: one cannot be read.
    """
    entries = _program(root, "git", "worktree", "list", "--porcelain", "-z").split("\0\0")
    found = []
    for entry in filter(None, entries):
        lines = entry.strip("\0").split("\0")
        if "bare" in lines:
            continue
        place = Path(lines[0].removeprefix("worktree "))
        if not os.access(place, os.R_OK | os.X_OK):
            raise AtelierError(
                f"the worktree {place} of this repository cannot be read, and its dvc.lock may name"
                " what would be removed; make it readable, or type `git worktree prune` if it is"
                " gone for good."
            )
        found.append(place)
    return found


def _stashed(root: Path) -> list[str]:
    """Return the commits of stashes and queued tasks: all but the newest are in a log only."""
    refs = _program(root, "git", "for-each-ref", "--format=%(refname)").split()
    logs = [ref for ref in refs if ref == "refs/stash" or _is_log(ref)]
    told = (_program(root, "git", "reflog", "show", "--format=%H", ref, "--") for ref in logs)
    return [commit for lines in told for commit in lines.split()]


def _is_log(ref: str) -> bool:
    return ref.startswith("refs/exps/") and not _EXPERIMENT.match(ref)


def _heads(worktree: Path) -> list[str]:
    """Return the commits that git is at work with in a worktree."""
    found = (git("rev-parse", "--verify", "--quiet", name, cwd=worktree) for name in _AT_WORK)
    return [commit.strip() for commit in found if commit]


def _logged(worktree: Path) -> list[str]:
    """Return the commits of a worktree's references and of git's logs, by which one goes back.

    A bisection's references, for example, belong to one worktree.
    """
    return _program(worktree, "git", "rev-list", "--all", "--reflog", "--no-walk").split()


def _staged(worktree: Path) -> list[str]:
    """Return the records in a worktree's index, also of both sides of a conflict."""
    entries = _program(worktree, "git", "ls-files", "--stage", "-z", "--", *_RECORDS).split("\0")
    return [entry.split()[1] for entry in entries if entry]


def _recorded(root: Path, commits: Iterable[str]) -> list[str]:
    """Return every record that these commits, all references and what came before them hold."""
    # In full: git leaves out merged branches whose file the merge did not take.
    walk = ("rev-list", "--all", "--full-history", "--stdin", "--", *_RECORDS)
    found = _program(root, "git", *walk, told="\n".join(commits))
    changes = ("diff-tree", "--stdin", "--root", "-r", "-m", "--no-renames", "--", *_RECORDS)
    # Such as ":100644 100644 OLD NEW M<tab>dvc.lock"; a commit's own name comes before its lines.
    lines = _program(root, "git", *changes, told=found).splitlines()
    return [line.split()[3] for line in lines if line.startswith(":")]


def _hashes_of_objects(root: Path, objects: Iterable[str]) -> set[str]:
    """Return the hashes in objects of git.

    Raises:
        AtelierError: the repository lacks one, as a partial clone does.
    """
    wanted = sorted({name for name in objects if name.strip("0")})  # zeros: it was removed
    records = _program(root, "git", "cat-file", "--batch", told="\n".join(wanted))
    if any(f"{name} missing" in records for name in wanted):
        raise AtelierError(
            "this clone lacks objects of its history, which may name what would be removed; fetch"
            " them by `git fetch --refetch --no-filter`."
        )
    return set(_HASH.findall(records))


def _hashes(record: Path) -> set[str]:
    """Return the hashes in a record that may not be there.

    Raises:
        AtelierError: it is there, but cannot be read.
    """
    try:
        return set(_HASH.findall(record.read_text("utf-8", "replace")))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return set()
    except OSError as error:
        raise AtelierError(
            f"{record} cannot be read ({error.strerror}), and it may name what would be removed;"
            " make it readable."
        ) from None


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
    """Remove from DVC's cache what nothing of the repository and nothing of ``kept`` names.

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
    used_here = _cached(cache, {*kept, *named_by_git(root)})
    entries = [{"md5": md5, "hash": "md5", "path": md5} for md5 in sorted(used_here)]
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


def _cached(cache: Path, hashes: Iterable[str]) -> set[str]:
    """Return those of the hashes that DVC's cache has; of others it would print warnings."""
    return {h for h in hashes if (cache / "files" / "md5" / h[:2] / h[2:]).exists()}


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
