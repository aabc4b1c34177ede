"""Running a stage script: settings in, work done, run logged, faults told in a sentence."""

import errno
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import psutil

from atelier import settings as settings_module
from atelier.errors import AtelierError
from atelier.settings import Settings
from atelier.tracking.journal import Journal, problem
from atelier.tracking.restore import restore_outputs
from atelier.tracking.run import Run, flat
from atelier.tracking.workspace import (
    Process,
    dvc_process,
    experiment_tags,
    git_tags,
    private_folder,
    repository_root,
)

_INTERRUPTED = 130


def run_stage(name: str, main: Callable[[Settings, Run], None], logged: bool = True) -> NoReturn:
    """Run a stage's ``main`` with checked settings and a run to log to; then exit.

    A user's mistake, a full disk and an interruption end in one sentence and an exit code
    other than 0; a fault of the program keeps its traceback. In each case the outputs that
    were there before are put back.
    """
    try:
        settings = settings_module.load()
        with _run(name, settings, logged and settings.tracking.enabled) as run:
            main(settings, run)
    except BaseException as error:  # every way to fail puts the outputs back
        restore_outputs(name)
        code, sentence = _verdict(error)
        print(sentence, file=sys.stderr)
        sys.exit(code)
    sys.exit(0)


def _verdict(error: BaseException) -> tuple[int, str]:
    """The exit code for a failure, and what to tell the user."""
    if isinstance(error, AtelierError):
        return 1, f"ERROR: {error}"
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, "Interrupted; what was there before is still there."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 1, "ERROR: the disk is full; free some space (`dvc gc --workspace`) and run again."
    return 1, "".join(traceback.format_exception(error))


@contextmanager
def _run(name: str, settings: Settings, logged: bool) -> Iterator[Run]:
    """Open a run, end it with the outcome, and wait a while for its delivery."""
    if not logged:
        yield Run(None)
        return
    root = repository_root()
    owner = Process.of(psutil.Process())
    pipeline = dvc_process()
    journal = Journal(private_folder(root), pipeline or owner, name)
    journal.write(
        "start",
        stage=name,
        owner=asdict(owner),
        experiment=settings.tracking.experiment,
        pipeline=_pipeline_name() if pipeline else "",
        parameters={key: str(value) for key, value in flat(settings.model_dump()).items()},
        tags=git_tags() | experiment_tags() | {"mlflow.source.name": f"stages/{name}.py"},
    )
    _start_deliverer(root, pipeline or owner)
    status = "FAILED"
    try:
        yield Run(journal)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        journal.write("end", status=status)
        journal.close()
        if pipeline:
            _wait(journal.folder, settings.tracking.wait_seconds)


def _pipeline_name() -> str:
    return os.environ.get("DVC_EXP_NAME") or f"repro {datetime.now():%Y-%m-%d %H:%M:%S}"


def _start_deliverer(root: Path, process: Process) -> None:
    """Start a deliverer beside the work; it leaves at once where one serves already."""
    # A session of its own: Ctrl-C in the terminal must not keep it from its work.
    subprocess.Popen(  # noqa: S603 - this very program, no shell
        [
            sys.executable,
            "-m",
            "atelier.tracking.deliver",
            *(str(part) for part in (root, process.host, process.pid, process.started)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def _wait(journal: Path, seconds: float) -> None:
    """Wait until a journal is delivered, meets a problem or takes too long."""
    end = time.monotonic() + seconds
    while journal.exists() and time.monotonic() < end:
        if problem(journal):
            break
        time.sleep(0.05)
    if journal.exists():
        reason = problem(journal) or f"not done after {seconds:g} s"
        print(
            f"MLflow has not taken everything yet ({reason}); the rest is kept in .atelier/ and"
            " delivered by the next run or by `atelier sync`.",
            file=sys.stderr,
        )
