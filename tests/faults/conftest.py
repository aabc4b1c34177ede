"""What tests of faults share: places that nobody may write to."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def freeze() -> Iterator[Callable[[Path], None]]:
    """Make places read-only for everybody, root too, by mounting them over themselves."""
    frozen: list[Path] = []

    def mount(place: Path) -> None:
        for options in (["--bind", str(place)], ["-o", "remount,bind,ro"]):
            command = ["mount", *options, str(place)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("a place can be mounted read-only by root only")
            frozen.append(place)

    yield mount
    for place in dict.fromkeys(frozen):
        thaw(place)


def thaw(place: Path) -> None:
    """Let a frozen place be written to again."""
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, check=False)
