"""Reset of inherited signal handlers, and cleanup of processes that tests leave running."""

import os
import signal
from contextlib import suppress
from pathlib import Path

# Environment variable that all processes of a test inherit.
MARK = "ATELIER_TEST"
_PYTEST = os.getpid()
# Python ignores these signals, and resets them in the programs that it starts.
_PYTHONS = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)}


def reset_ignored_signals() -> None:
    """Let programs that tests start have the default signal handlers.

    Under nohup or in the background, pytest starts with ignored signals, which programs inherit.
    Handlers are not inherited, and a handler that does nothing still ignores the signal in pytest.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    for number in signal.valid_signals() - _PYTHONS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _ignore)
        elif number == signal.SIGTERM:
            # So that pytest kills the processes of its tests, as after Ctrl-C.
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    """Raise KeyboardInterrupt in pytest; end forks of pytest, which inherit this handler."""
    if os.getpid() == _PYTEST:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _ignore(number: int, frame: object) -> None:
    """Do nothing."""


def end_processes(mark: str) -> list[int]:
    """Kill all other processes with a mark, in any session; return their numbers."""
    ended: list[int] = []
    variable = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        number = int(folder.name)
        with suppress(OSError):  # it has exited, or belongs to another user
            if variable in (folder / "environ").read_bytes().split(b"\0") and number != os.getpid():
                os.kill(number, signal.SIGKILL)
                ended.append(number)
    return ended
