"""Version, completion and help of all commands."""

from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from atelier.cli.app import app

from .conftest import CommandRunner

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _outside_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_version_is_that_of_the_package(atelier: CommandRunner) -> None:
    assert atelier("--version") == f"atelier {version('atelier')}\n"
    assert "there is no params.yaml" in atelier("results", code=1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_shown(
    atelier: CommandRunner, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert "_ATELIER_COMPLETE" in atelier("--show-completion", shell)


@pytest.mark.parametrize(
    ("words", "completions"),
    [("atelier ge", {"generate"}), ("atelier generate --se", {"--seed", "--separate-files"})],
)
def test_shell_completes_commands_and_options(
    atelier: CommandRunner, monkeypatch: pytest.MonkeyPatch, words: str, completions: set[str]
) -> None:
    monkeypatch.setenv("_ATELIER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert set(atelier("").split()) == completions


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(
    root: Path, monkeypatch: pytest.MonkeyPatch, atelier: CommandRunner, command: str
) -> None:
    monkeypatch.chdir(root)
    assert f"Example: atelier {command}" in atelier(f"{command} --help")
