"""Fixture that runs a command in this process."""

import sys

import pytest

from atelier.cli.app import main


class CommandRunner:
    """Runs a command, asserts its exit code, and returns its output."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, command: str, *options: object, code: int = 0) -> str:
        arguments = [*command.split(), *map(str, options)]
        self.monkeypatch.setattr(sys, "argv", ["atelier", *arguments])
        with pytest.raises(SystemExit) as exit_error:
            main()
        captured = self.capsys.readouterr()
        assert exit_error.value.code == code, captured
        return captured.err if code else captured.out


@pytest.fixture
def atelier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandRunner:
    return CommandRunner(monkeypatch, capsys)
