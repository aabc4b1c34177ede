"""Hashes in dvc.lock of all states of a git repository, which pruning keeps."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.tracking.references import named_by_git


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    result = subprocess.run(
        ["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


class Repository:
    """Git repository with a project in one of its folders."""

    def __init__(self, top: Path, subfolder: str = "") -> None:
        self.top, self.root = top, top / subfolder
        self.root.mkdir(parents=True)
        self._numbers: Iterator[int] = count(1)
        git(top, "init", "--quiet", "-b", "main")

    def lock(self, folder: Path | None = None) -> str:
        """Write a dvc.lock with a new hash and return the hash."""
        md5 = f"{next(self._numbers):032x}"
        file = (folder or self.root) / "dvc.lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"outs:\n- path: models\n  md5: {md5}\n")
        return md5

    def commit(self) -> str:
        md5 = self.lock()
        git(self.top, "add", "-A")
        git(self.top, "commit", "--quiet", "-m", md5)
        return md5


@pytest.fixture(params=["", "sub folder/gän %41#"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "my répo", request.param)


def test_hashes_of_stashes_and_queued_tasks_are_found(repository: Repository) -> None:
    expected = {repository.commit()}
    for _ in range(3):
        expected.add(repository.lock())
        git(repository.top, "stash")
    # DVC stores queued and failed tasks in reflogs of its own references, like a stash.
    for ref in ("refs/exps/celery/stash", "refs/exps/celery/failed", "refs/exps/stash"):
        for _ in range(2):
            expected.add(repository.lock())
            commit = git(repository.top, "stash", "create")
            git(repository.top, "update-ref", "--create-reflog", "-m", "queued", ref, commit)
            git(repository.top, "checkout", "--quiet", ".")
    assert named_by_git(repository.root) == expected


def test_hashes_of_all_worktrees_are_found(repository: Repository, tmp_path: Path) -> None:
    expected = {repository.commit()}
    subfolder = repository.root.relative_to(repository.top)
    for name in ("detached", "edited", "staged"):
        git(repository.top, "worktree", "add", "--quiet", "--detach", str(tmp_path / name))
    git(tmp_path / "detached", "checkout", "--quiet", "--detach")
    expected.add(repository.lock(tmp_path / "detached" / subfolder))
    git(tmp_path / "detached", "commit", "--quiet", "-am", "on no branch")
    expected.add(repository.lock(tmp_path / "edited" / subfolder))
    expected.add(repository.lock(tmp_path / "staged" / subfolder))
    git(tmp_path / "staged", "add", "-A")
    expected.add(repository.lock(tmp_path / "staged" / subfolder))
    for root in (repository.root, tmp_path / "edited" / subfolder):
        assert named_by_git(root) == expected


def test_hashes_in_reflog_and_bisection_are_found(repository: Repository, tmp_path: Path) -> None:
    expected = {repository.commit()}
    subfolder = repository.root.relative_to(repository.top)
    git(repository.top, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    for folder in (repository.top, tmp_path / "tree"):
        for name in ("reset", "bisected"):
            expected.add(repository.lock(folder / subfolder))
            git(folder, "add", "-A")
            git(folder, "commit", "--quiet", "-m", name)
            if name == "bisected":
                git(folder, "update-ref", "refs/bisect/bad", "HEAD")
            git(folder, "reset", "--quiet", "--hard", "HEAD~")
            git(folder, "update-ref", "-d", "ORIG_HEAD")
    for root in (repository.root, tmp_path / "tree" / subfolder):
        assert named_by_git(root) == expected
    git(repository.top, "reflog", "expire", "--expire=now", "--all")
    assert len(named_by_git(repository.root)) == 3, "the first commit and both bisections"


def test_unreadable_worktree_is_an_error(repository: Repository, tmp_path: Path) -> None:
    repository.commit()
    git(repository.top, "worktree", "add", "--quiet", str(tmp_path / "disk"))
    shutil.move(tmp_path / "disk", tmp_path / "elsewhere")
    with pytest.raises(AtelierError, match=r"worktree .*disk .* cannot be read"):
        named_by_git(repository.root)
    git(repository.top, "worktree", "prune")
    assert len(named_by_git(repository.root)) == 1


def test_hashes_of_moved_lock_and_other_projects_are_found(
    repository: Repository,
) -> None:
    expected = {repository.commit()}
    other = repository.top / "moved"
    git(repository.top, "mv", str(repository.root / "dvc.lock"), "moved.lock")
    git(repository.top, "commit", "--quiet", "-m", "moved")
    expected.add(repository.lock(other))
    git(repository.top, "add", "-A")
    git(repository.top, "commit", "--quiet", "-m", "elsewhere")
    expected.add(repository.lock(repository.top / "untracked"))
    tracked = repository.top / "copy.dvc"
    tracked.write_text(f"outs:\n- md5: {'a' * 32}\n  path: copy\n")
    assert named_by_git(repository.root) == expected | {"a" * 32}


def test_hashes_of_running_temporary_copy_are_found(repository: Repository) -> None:
    (repository.top / ".dvc").mkdir()
    (repository.top / ".dvc" / "config").touch()
    (repository.top / ".dvc" / ".gitignore").write_text("/tmp\n")
    expected = {repository.commit()}
    subfolder = repository.root.relative_to(repository.top)
    expected.add(repository.lock(repository.top / ".dvc/tmp/exps/standalone/tmpabc" / subfolder))
    assert named_by_git(repository.root) == expected


def test_incomplete_history_is_an_error(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {repository.commit(), repository.commit()}
    git(repository.top, "config", "uploadpack.allowFilter", "true")
    subfolder, url = repository.root.relative_to(repository.top), repository.top.as_uri()
    git(tmp_path, "clone", "--quiet", "--depth", "1", url, "shallow")
    with pytest.raises(AtelierError, match="git fetch --unshallow"):
        named_by_git(tmp_path / "shallow" / subfolder)
    git(tmp_path / "shallow", "fetch", "--quiet", "--unshallow")
    assert named_by_git(tmp_path / "shallow" / subfolder) == expected
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", url, "partial")
    shutil.move(repository.top, tmp_path / "offline")
    with pytest.raises(AtelierError, match="git"):
        named_by_git(tmp_path / "partial" / subfolder)
    # Git cannot open a repository without a valid HEAD.
    (tmp_path / "offline" / ".git" / "HEAD").write_text("nonsense")
    with pytest.raises(AtelierError, match="`git rev-list` failed: fatal"):
        named_by_git(tmp_path / "offline" / subfolder)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_unreadable_lock_is_an_error(repository: Repository) -> None:
    repository.commit()
    (repository.root / "dvc.lock").chmod(0)
    with pytest.raises(AtelierError, match=r"dvc\.lock cannot be read"):
        named_by_git(repository.root)
