"""Tests of worktrees for experiments, with the real git and dvc."""

import subprocess
from pathlib import Path

import pytest

from atelier.core.paths import MAIN_PROJECT, project_root
from atelier.tracking.experiment_worktree import open_worktree, worktree_environment


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Repository with a DVC project, one file and a failing hook, as after `dvc install`."""
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("", "utf-8")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n", "utf-8")
    (root / ".gitignore").write_text(".atelier\n", "utf-8")
    (root / "params.yaml").write_text("lr: 1\n", "utf-8")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    hook = root / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    hook.chmod(0o755)
    return root


def test_worktree_has_the_commit_and_the_cache_of_the_project(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    (project / "params.yaml").write_text("lr: 2\n", "utf-8")
    with open_worktree(project, commit) as (folder, _):
        assert (folder / "params.yaml").read_text("utf-8") == "lr: 1\n"
        assert str(project / ".dvc/cache") in (folder / ".dvc/config.local").read_text("utf-8")
        assert git(folder, "rev-parse", "HEAD") == commit
    assert (project / "params.yaml").read_text("utf-8") == "lr: 2\n"
    assert git(project, "symbolic-ref", "HEAD").startswith("refs/heads/")


def test_worktree_in_use_is_not_shared(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    with (
        open_worktree(project, commit) as (first, descriptor),
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor]) as child,
    ):
        with open_worktree(project, commit) as (second, _):
            assert second != first
        child.communicate(b"")
    with open_worktree(project, commit) as (third, _):
        assert third == first


def test_leftovers_of_a_kill_are_removed(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    with open_worktree(project, commit) as (folder, _):
        administration = Path(git(folder, "rev-parse", "--absolute-git-dir"))
    (folder / "params.yaml").write_text("lr: 3\n", "utf-8")
    (administration / "index.lock").touch()
    copies = folder / ".dvc/tmp/exps/standalone/x"
    copies.mkdir(parents=True)
    with open_worktree(project, commit) as (again, _):
        assert again == folder
        assert (folder / "params.yaml").read_text("utf-8") == "lr: 1\n"
        assert not copies.exists()


def test_folder_without_git_s_files_never_changes_the_user_s_workspace(project: Path) -> None:
    commit = git(project, "rev-parse", "HEAD")
    with open_worktree(project, commit) as (folder, _):
        pass
    (folder / ".git").unlink()
    (project / "params.yaml").write_text("lr: 2\n", "utf-8")
    with open_worktree(project, commit) as (again, _):
        assert (again / "params.yaml").read_text("utf-8") == "lr: 1\n"
    assert (project / "params.yaml").read_text("utf-8") == "lr: 2\n"
    assert git(project, "symbolic-ref", "HEAD").startswith("refs/heads/")


def test_stages_in_a_worktree_belong_to_the_main_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in worktree_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert worktree_environment(tmp_path) == {MAIN_PROJECT: str(tmp_path)}
    assert project_root() == tmp_path
