"""Program on a pseudo-terminal, which prints what it prints for a user."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_on_terminal(*command: str, folder: Path, columns: int) -> list[str]:
    """Run a command to its end on a terminal of this width; return its lines without colors."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**inherited, "PATH": path, "TERM": "xterm", "DVC_PAGER": "cat"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    ) as program:
        os.close(terminal)
        output = b""
        with suppress(OSError):  # the end of the output
            while block := os.read(controller, 2**16):
                output += block
    os.close(controller)
    text = _ESCAPE.sub("", output.decode("utf-8"))
    assert program.returncode == 0, text
    return text.splitlines()
