"""``dvc`` with a queue of its own for the experiment that it runs.

``dvc exp run --temp`` takes its experiment from a queue that all processes of a repository share,
and then also runs what others have put there meanwhile. In parallel, an experiment would run in
the process of another one, and its results would be reported as those of the other.

python -m atelier.tracking.private_dvc NAME ARGUMENTS-OF-DVC...
"""

import sys

import dvc.repo.experiments
from dvc.cli import main

from atelier.tracking.environment import git

_QUEUES = "refs/atelier/queues"


def run(name: str, arguments: list[str]) -> int:
    """Run a command of DVC.

    Args:
        name: of the experiment, and of its queue.
        arguments: of ``dvc``.

    Returns:
        The exit code.
    """
    queue = f"{_QUEUES}/{name}"
    git("update-ref", "-d", queue)  # of an attempt that was killed
    dvc.repo.experiments.WORKSPACE_STASH = queue
    try:
        return int(main(arguments))
    finally:
        git("update-ref", "-d", queue)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
