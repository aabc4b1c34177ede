"""MLflow's program in this process, which saves the start of an interpreter."""

import io
import os
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock


def run_here(command: Sequence[str], cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run mlflow in this process, and other commands by ``subprocess.run``."""
    if list(command[:3]) != [sys.executable, "-m", "mlflow"]:
        return subprocess.run(command, cwd=cwd, **options)
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as without pytest
        code = _run_mlflow(list(command[3:]))
    if code:
        raise subprocess.CalledProcessError(code, list(command), out.getvalue(), err.getvalue())
    return subprocess.CompletedProcess(list(command), code, out.getvalue(), err.getvalue())


def _run_mlflow(arguments: list[str]) -> int:
    import mlflow
    from click import ClickException
    from mlflow.cli import cli

    with mock.patch.dict(os.environ):
        try:
            cli.main(arguments, standalone_mode=False)
        except ClickException as error:
            error.show()
            return error.exit_code
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # `mlflow gc` sets it
        return 0
