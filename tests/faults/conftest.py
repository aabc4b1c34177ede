"""Fixture that makes files and folders read-only."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def freeze() -> Iterator[Callable[[Path], None]]:
    """Return a function that makes a path read-only for all users, root too, by a bind mount."""
    frozen: list[Path] = []

    def mount(path: Path) -> None:
        for options in (["--bind", str(path)], ["-o", "remount,bind,ro"]):
            command = ["mount", *options, str(path)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("only root can mount a path read-only")
            frozen.append(path)

    yield mount
    for path in dict.fromkeys(frozen):
        thaw(path)


def thaw(path: Path) -> None:
    """Unmount a read-only path, so that it can be written again."""
    subprocess.run(["umount", "--lazy", str(path)], capture_output=True, check=False)
