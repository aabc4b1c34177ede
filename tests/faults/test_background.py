"""Tests that run in the background with ignored signals, as after ``nohup`` or ``&``."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ..support.project import ROOT

TESTS = """
import signal, subprocess, sys

def test_that_fails():
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    program = subprocess.Popen(
        [sys.executable, "-c", nested], start_new_session=True, stdin=subprocess.PIPE
    )
    print("program", program.pid)
    assert False

def test_that_programs_have_default_handlers():
    code = "import signal; print(signal.getsignal(1) == 0, signal.getsignal(2) != signal.SIG_IGN)"
    code += "; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout
    assert output.split() == ["True", "True", "set()"]
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGINT)
"""


def ignore_signals() -> None:
    """Ignore and block signals, as some service managers do before they start a program."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def run_tests(*arguments: object) -> str:
    """Run pytest with ignored signals; return its output."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")},
        preexec_fn=ignore_signals,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    ).stdout


def running(session: int) -> list[int]:
    """Return the running processes of a session."""
    numbers = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # the process has exited
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                numbers.append(process.pid)
    return numbers


@pytest.mark.slow
def test_programs_of_tests_have_default_signals_and_are_killed_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "test_copied.py").write_text(TESTS)
    output = run_tests("-p", "tests.conftest", "--rootdir", tmp_path, tmp_path)
    assert "1 failed, 1 passed" in output, output
    match = re.search(r"^program (\d+)$", output, re.MULTILINE)
    assert match
    assert running(int(match[1])) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "tests",
    ["test_interruption.py", "test_resume.py::test_signal_saves_a_checkpoint_and_ends_the_stage"],
)
def test_interruption_tests_pass_in_the_background(tests: str) -> None:
    output = run_tests("-m", "slow or not slow", ROOT / "tests/faults" / tests)
    assert " passed" in output, output
    assert "failed" not in output, output
