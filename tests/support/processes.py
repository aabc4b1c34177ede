"""Signals and processes of tests: what a shell made pytest ignore, and what tests leave running."""

import os
import signal
from contextlib import suppress
from pathlib import Path

# In the environment of every process that a test starts, and of all that these start.
MARK = "ATELIER_TEST"
_PYTEST = os.getpid()
# Python ignores these itself, and restores them in the programs that it starts.
_PYTHONS = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)}


def reset_ignored_signals() -> None:
    """Let programs that tests start have the default signal handlers.

    Under nohup or in the background pytest starts with ignored signals, which programs inherit. A
    signal with a handler is not inherited, and one that does nothing keeps pytest itself as it was.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    for number in signal.valid_signals() - _PYTHONS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _ignore)
        elif number == signal.SIGTERM:
            # So that pytest ends what it started, as after Ctrl-C.
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt in pytest; end its forks, which have this handler too."""
    if os.getpid() == _PYTEST:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _ignore(number: int, frame: object) -> None:
    """Do nothing."""


def end_processes(mark: str) -> list[int]:
    """Kill every process of a mark but this one, in whatever session; return their numbers."""
    ended: list[int] = []
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        number = int(folder.name)
        with suppress(OSError):  # it has ended, or is another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0") and number != os.getpid():
                os.kill(number, signal.SIGKILL)
                ended.append(number)
    return ended
