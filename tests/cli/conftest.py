"""Typing commands."""

import sys

import pytest

from atelier.cli.app import main


class Typed:
    """Types a command; says how it ended and what it said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, said: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.said = monkeypatch, said

    def __call__(self, command: str, *words: object, code: int = 0) -> str:
        typed = [*command.split(), *map(str, words)]
        self.monkeypatch.setattr(sys, "argv", ["atelier", *typed])
        with pytest.raises(SystemExit) as ended:
            main()
        told = self.said.readouterr()
        assert ended.value.code == code, told
        return told.err if code else told.out


@pytest.fixture
def atelier(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(monkeypatch, capsys)
