"""Starting one stage as several processes, with torchrun."""

import logging
import os
import signal
import sys
from pathlib import Path

from atelier import settings
from atelier.errors import AtelierError


def rank() -> int:
    """Which of the processes of a training this is; 0 where it is the only one."""
    return int(os.environ.get("RANK", "0"))


def launch(script: Path) -> None:
    """Run ``script`` as ``runtime.launcher`` says, and exit; return where nothing is to start.

    With ``torchrun`` the script starts again in each process, where this function returns.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    try:
        program, *options = settings.load().runtime.launcher.split()
    except AtelierError:
        return  # the stage itself will say so
    if program == "torchrun":
        sys.exit(_torchrun([*options, str(script)]))


def _torchrun(arguments: list[str]) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # Of a process that ended it logs pages; its first process says what matters.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        how = f"was ended by signal {-failure.exitcode}" if failure.exitcode < 0 else "failed"
        print(f"ERROR: process {number} of the training {how}.", file=sys.stderr, flush=True)
        return 1
    except SignalException as error:
        return 128 + int(signal.Signals(error.sigval))
    return 0
