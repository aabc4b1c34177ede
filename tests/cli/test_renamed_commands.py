"""Commands and options under their former names."""

import shutil
from pathlib import Path

import pytest

from .conftest import CommandRunner


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder with settings."""
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("where", "results"),
        ("which models/generator.safetensors", "lineage"),
        ("which --json", "lineage"),
        ("prune --yes", "gc"),
    ],
)
def test_renamed_command_names_its_successor(atelier: CommandRunner, old: str, new: str) -> None:
    name = old.split()[0]
    message = f"ERROR: `atelier {name}` is named `atelier {new}` now; use that name.\n"
    assert atelier(old, code=1) == message


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("generate --from models:/faces/1", "--from", "--model"),
        ("generate --from=models:/faces/1", "--from", "--model"),
        ("export --from x faces.onnx", "--from", "--model"),
        ("generate --film walk.gif", "--film", "--gif"),
        ("generate --tile 32", "--tile", "--tile-pixels"),
        ("generate --files", "--files", "--separate-files"),
        ("stylize me.jpg --style drawn --film", "--film", "--gif"),
        ("stylize me.jpg --style drawn wave --mix 2,1", "--mix", "--style-weights"),
        ("stylize me.jpg --style drawn wave --mask a b", "--mask", "--style-mask"),
        ("stylize me.jpg --style drawn --keep-colors none", "--keep-colors", "--preserve-color"),
    ],
)
def test_renamed_option_names_its_successor(
    atelier: CommandRunner, command: str, old: str, new: str
) -> None:
    assert atelier(command, code=1) == f"ERROR: {old} is named {new} now; use that name.\n"


def test_new_commands_are_listed(atelier: CommandRunner) -> None:
    output = atelier("--help")
    for name in ("results", "lineage", "gc"):
        assert f" {name} " in output
