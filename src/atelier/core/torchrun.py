"""Starting one stage as several processes, with torchrun."""

import logging
import os
import signal
import sys
from pathlib import Path


def runs_under_torchrun() -> bool:
    """Whether torchrun started this process; other launchers set RANK as well."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Which of the processes of a training this is; 0 where it is the only one."""
    return int(os.environ["RANK"]) if runs_under_torchrun() else 0


def torchrun(options: list[str], script: Path) -> int:
    """Run ``script`` in several processes, to their end; return the exit code.

    Args:
        options: of torchrun, as ``--nproc-per-node=2``.
        script: starts anew in each process.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import determine_local_world_size, parse_args, run

    # Of a process that ended it logs pages; its first process says what matters.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        asked = parse_args([*options, str(script)])
        # It would give each process one thread, however many cores there are.
        cores = (os.cpu_count() or 1) // determine_local_world_size(asked.nproc_per_node)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
        run(asked)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        how = f"was ended by signal {-failure.exitcode}" if failure.exitcode < 0 else "failed"
        return _command(f"process {number} of the training {how}.", 1)
    except SignalException as error:
        return 128 + int(signal.Signals(error.sigval))
    except Exception as error:  # of the network, of options that contradict each other
        reason = str(error).partition("\n")[0][:200]
        return _command(f"torchrun could not start the training ({reason}).", 1)
    return 0


def _command(sentence: str, code: int) -> int:
    print(f"ERROR: {sentence}", file=sys.stderr, flush=True)
    return code
