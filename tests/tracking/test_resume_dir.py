"""Signals that stop a stage."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.tracking.run_state import ResumeDir


@pytest.fixture
def under_nohup() -> Iterator[None]:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.usefixtures("under_nohup")
def test_signals_ignored_by_nohup_do_not_stop_a_stage(tmp_path: Path) -> None:
    work = ResumeDir(tmp_path, "train", None, "cpu", None)
    with work.checkpoints("journal"):
        os.kill(os.getpid(), signal.SIGHUP)
        assert not work.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert work.stop_requested()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
