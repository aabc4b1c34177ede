"""Process that runs an experiment and pushes it, also if the search that started it was killed.

python -m atelier.tracking.experiment_process GIT_REMOTE NAME COMMAND...
"""

import signal
import subprocess
import sys

from atelier.core.errors import AtelierError
from atelier.core.paths import project_root
from atelier.tracking.experiment_remote import push_experiment

NOT_PUSHED = 75  # exit code: the command succeeded, but the experiment is only on this machine


def main(arguments: list[str]) -> int:
    """Run a command, then push the experiment that it made.

    Args:
        arguments: git remote, name of the experiment, and the command.

    Returns:
        The command's exit code, or :data:`NOT_PUSHED`.
    """
    remote, name, *command = arguments
    # SIGINT stays ignored, because the search stops the stage, which must not get a second signal.
    signal.signal(signal.SIGTERM, _continue)
    # The command inherits the files that hold the claim on the trial.
    code = subprocess.run(command, close_fds=False).returncode  # noqa: S603 - no shell
    if code:
        return code if code > 0 else 128 - code
    try:
        push_experiment(project_root(), remote, name)
    except AtelierError as error:
        print(f"WARNING: {error}", file=sys.stderr)
        return NOT_PUSHED
    return 0


def _continue(number: int, frame: object) -> None:
    """Continue to wait."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
