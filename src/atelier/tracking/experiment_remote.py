"""Experiments on a git remote and in DVC's remote, which several machines share."""

import subprocess
import sys
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.tracking.environment import git
from atelier.tracking.experiments import experiment_reference
from atelier.tracking.redact import redact


def require_remotes(root: Path, remote: str) -> None:
    """Raise unless experiments can be pushed.

    Args:
        root: the project.
        remote: name of a git remote.

    Raises:
        AtelierError: git has no such remote, or DVC has no default remote.
    """
    from dvc.config import Config
    from dvc.repo import Repo

    names = (git("remote", cwd=root) or "").split()
    if remote not in names:
        there = f"it has {', '.join(names)}" if names else "it has none"
        raise AtelierError(
            f"git has no remote {remote}, which git_remote in search.yaml names; {there}. Type: git"
            f" remote add {remote} URL"
        )
    config = Config(Repo.find_dvc_dir(str(root)))
    if config["core"].get("remote") not in config["remote"]:
        raise AtelierError(
            "DVC has no default remote, which trials of several machines need for their outputs;"
            " type: dvc remote add -d NAME URL"
        )


def push_experiment(root: Path, remote: str, name: str) -> None:
    """Push an experiment to a git remote, and its outputs to DVC's remote.

    An experiment of the same name and commit on the remote is replaced.

    Raises:
        AtelierError: it fails.
    """
    reason = _dvc(root, "exp", "push", "--force", remote, name)
    if reason:
        raise AtelierError(
            f"{name} cannot be pushed to {remote} ({reason}); later, type: dvc exp push --force"
            f" {remote} {name}"
        )


def pull_experiment(root: Path, remote: str, name: str, baseline: str) -> bool:
    """Pull an experiment of a commit that is not here; return True if that succeeds.

    Without its outputs, the experiment is not left here either.
    """
    reference = experiment_reference(name, baseline)
    if not (git("ls-remote", remote, reference, cwd=root) or "").strip():
        return False
    if _dvc(root, "exp", "pull", remote, name):
        git("update-ref", "-d", reference, cwd=root)
        return False
    return True


def _dvc(root: Path, *arguments: str) -> str:
    """Run a command of DVC; return why it failed, or an empty string."""
    done = subprocess.run(  # noqa: S603 - no shell; names are checked
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    text = lines[-1].removeprefix("ERROR:").strip() if lines else "no message"
    return redact(text.removeprefix("unexpected error - ").rstrip("."))
