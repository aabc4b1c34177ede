"""Launch of one stage as several processes, with torchrun."""

import logging
import os
import signal
import sys
from pathlib import Path


def runs_under_torchrun() -> bool:
    """Return whether torchrun started this process.

    ``RANK`` is not sufficient, because other launchers set it too.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Return the rank of this process; 0 without torchrun."""
    return int(os.environ["RANK"]) if runs_under_torchrun() else 0


def processes() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if runs_under_torchrun() else 1


def torchrun(options: list[str], script: Path) -> int:
    """Run ``script`` in several processes until all exit; return the exit code.

    Args:
        options: of torchrun, for example ``--nproc-per-node=2``.
        script: the path of the script that each process runs.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import determine_local_world_size, parse_args, run

    # It logs pages about a failed process; rank 0 reports the reason itself.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        arguments = parse_args([*options, str(script)])
        # torchrun's default is one thread per process, regardless of the number of cores.
        cores = (os.cpu_count() or 1) // determine_local_world_size(arguments.nproc_per_node)
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores)))
        run(arguments)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        reason = f"was ended by signal {-failure.exitcode}" if failure.exitcode < 0 else "failed"
        return _print_error(f"process {number} of the training {reason}.")
    except SignalException as error:
        return 128 + int(signal.Signals(error.sigval))
    except Exception as error:  # network errors, contradictory options
        reason = str(error).partition("\n")[0][:200]
        return _print_error(f"torchrun could not start the training ({reason}).")
    return 0


def _print_error(message: str) -> int:
    """Print an error and return the exit code of a failure."""
    print(f"ERROR: {message}", file=sys.stderr, flush=True)
    return 1
