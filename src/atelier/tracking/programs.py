"""Output of other programs: git, dvc and mlflow."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from atelier.core.errors import AtelierError

_ERROR_STARTS = ("ERROR", "fatal", "error")


def program_output(
    folder: Path | None,
    name: str,
    *arguments: str,
    options: Sequence[str] = (),
    stdin: str = "",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run a program and return its output.

    Args:
        folder: in which it runs; ``None`` for the present one.
        name: ``git``, or a Python package with a command of its name.
        arguments: of the program, first its command; no shell reads them.
        options: before its command.
        stdin: its standard input.
        variables: added to the environment.

    Raises:
        AtelierError: it fails or is not installed; the message has its first error.
    """
    program = [name] if name == "git" else [sys.executable, "-m", name]
    try:
        return subprocess.run(  # noqa: S603 - no shell
            [*program, *options, *arguments],
            cwd=folder,
            env=os.environ | dict(variables or {}),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        reason = next((line for line in lines if line.startswith(_ERROR_STARTS)), lines[-1])
        raise AtelierError(f"`{name} {arguments[0]}` failed: {reason}") from None


def git_output(
    folder: Path | None,
    *arguments: str,
    options: Sequence[str] = (),
    stdin: str = "",
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run git and return its output; see :func:`program_output`."""
    return program_output(
        folder, "git", *arguments, options=options, stdin=stdin, variables=variables
    )
