"""Git's part of pruning: the hashes that any state of the repository names."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.tracking.references import named_by_git


def git(folder: Path, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always")
    answer = subprocess.run(
        ["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()


class Repository:
    """A git repository with a project in one of its folders."""

    def __init__(self, top: Path, below: str = "") -> None:
        self.top, self.root = top, top / below
        self.root.mkdir(parents=True)
        self._numbers: Iterator[int] = count(1)
        git(top, "init", "--quiet", "-b", "main")

    def lock(self, place: Path | None = None) -> str:
        """Write a dvc.lock with a new hash, and return the hash."""
        md5 = f"{next(self._numbers):032x}"
        file = (place or self.root) / "dvc.lock"
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


def test_every_stash_and_queued_task_counts(repository: Repository) -> None:
    kept = {repository.commit()}
    for _ in range(3):
        kept.add(repository.lock())
        git(repository.top, "stash")
    # DVC keeps queued and failed tasks in logs of references of its own, as a stash.
    for ref in ("refs/exps/celery/stash", "refs/exps/celery/failed", "refs/exps/stash"):
        for _ in range(2):
            kept.add(repository.lock())
            commit = git(repository.top, "stash", "create")
            git(repository.top, "update-ref", "--create-reflog", "-m", "queued", ref, commit)
            git(repository.top, "checkout", "--quiet", ".")
    assert named_by_git(repository.root) == kept


def test_present_files_of_every_worktree_count(repository: Repository, tmp_path: Path) -> None:
    kept = {repository.commit()}
    below = repository.root.relative_to(repository.top)
    for name in ("detached", "edited", "staged"):
        git(repository.top, "worktree", "add", "--quiet", "--detach", str(tmp_path / name))
    git(tmp_path / "detached", "checkout", "--quiet", "--detach")
    kept.add(repository.lock(tmp_path / "detached" / below))
    git(tmp_path / "detached", "commit", "--quiet", "-am", "on no branch")
    kept.add(repository.lock(tmp_path / "edited" / below))
    kept.add(repository.lock(tmp_path / "staged" / below))
    git(tmp_path / "staged", "add", "-A")
    kept.add(repository.lock(tmp_path / "staged" / below))
    for root in (repository.root, tmp_path / "edited" / below):
        assert named_by_git(root) == kept


def test_commits_in_reflog_or_bisection_count(repository: Repository, tmp_path: Path) -> None:
    kept = {repository.commit()}
    below = repository.root.relative_to(repository.top)
    git(repository.top, "worktree", "add", "--quiet", "--detach", str(tmp_path / "tree"))
    for place in (repository.top, tmp_path / "tree"):
        for name in ("reset", "bisected"):
            kept.add(repository.lock(place / below))
            git(place, "add", "-A")
            git(place, "commit", "--quiet", "-m", name)
            if name == "bisected":
                git(place, "update-ref", "refs/bisect/bad", "HEAD")
            git(place, "reset", "--quiet", "--hard", "HEAD~")
            git(place, "update-ref", "-d", "ORIG_HEAD")
    for root in (repository.root, tmp_path / "tree" / below):
        assert named_by_git(root) == kept
    git(repository.top, "reflog", "expire", "--expire=now", "--all")
    assert len(named_by_git(repository.root)) == 3, "the first and both of the bisections"


def test_unreadable_worktree_is_an_error(repository: Repository, tmp_path: Path) -> None:
    repository.commit()
    git(repository.top, "worktree", "add", "--quiet", str(tmp_path / "disk"))
    shutil.move(tmp_path / "disk", tmp_path / "elsewhere")
    with pytest.raises(AtelierError, match=r"worktree .*disk .* cannot be read"):
        named_by_git(repository.root)
    git(repository.top, "worktree", "prune")
    assert len(named_by_git(repository.root)) == 1


def test_moved_lock_or_that_of_another_project_counts(
    repository: Repository,
) -> None:
    kept = {repository.commit()}
    other = repository.top / "moved"
    git(repository.top, "mv", str(repository.root / "dvc.lock"), "moved.lock")
    git(repository.top, "commit", "--quiet", "-m", "moved")
    kept.add(repository.lock(other))
    git(repository.top, "add", "-A")
    git(repository.top, "commit", "--quiet", "-m", "elsewhere")
    kept.add(repository.lock(repository.top / "untracked"))
    tracked = repository.top / "copy.dvc"
    tracked.write_text(f"outs:\n- md5: {'a' * 32}\n  path: copy\n")
    assert named_by_git(repository.root) == kept | {"a" * 32}


def test_a_running_temporary_copy_counts(repository: Repository) -> None:
    (repository.top / ".dvc").mkdir()
    (repository.top / ".dvc" / "config").touch()
    (repository.top / ".dvc" / ".gitignore").write_text("/tmp\n")
    kept = {repository.commit()}
    below = repository.root.relative_to(repository.top)
    kept.add(repository.lock(repository.top / ".dvc/tmp/exps/standalone/tmpabc" / below))
    assert named_by_git(repository.root) == kept


def test_incomplete_history_is_an_error(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {repository.commit(), repository.commit()}
    git(repository.top, "config", "uploadpack.allowFilter", "true")
    below, url = repository.root.relative_to(repository.top), repository.top.as_uri()
    git(tmp_path, "clone", "--quiet", "--depth", "1", url, "shallow")
    with pytest.raises(AtelierError, match="git fetch --unshallow"):
        named_by_git(tmp_path / "shallow" / below)
    git(tmp_path / "shallow", "fetch", "--quiet", "--unshallow")
    assert named_by_git(tmp_path / "shallow" / below) == kept
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", url, "partial")
    shutil.move(repository.top, tmp_path / "offline")
    with pytest.raises(AtelierError, match="git"):
        named_by_git(tmp_path / "partial" / below)
    # A repository that git will not open.
    (tmp_path / "offline" / ".git" / "HEAD").write_text("nonsense")
    with pytest.raises(AtelierError, match="`git rev-list` failed: fatal"):
        named_by_git(tmp_path / "offline" / below)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_unreadable_lock_is_an_error(repository: Repository) -> None:
    repository.commit()
    (repository.root / "dvc.lock").chmod(0)
    with pytest.raises(AtelierError, match=r"dvc\.lock cannot be read"):
        named_by_git(repository.root)
