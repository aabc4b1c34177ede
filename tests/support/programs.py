"""Python programs that run in this process, which saves the start of an interpreter."""

import io
import logging
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def run_here(command: Sequence[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python -m dvc`` in this process, and other commands by ``subprocess.run``."""
    if list(command[:3]) != [sys.executable, "-m", "dvc"]:
        return subprocess.run(command, cwd=cwd, **options)
    from dvc.cli import main

    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as without pytest
        for handler in logging.getLogger("dvc").handlers:
            # They have the streams from the time when DVC was imported.
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(err if handler.level >= logging.WARNING else out)
        code = main(list(command[3:]))
    if code:
        raise subprocess.CalledProcessError(code, list(command), out.getvalue(), err.getvalue())
    return subprocess.CompletedProcess(list(command), code, out.getvalue(), err.getvalue())
