"""``atelier migrate`` on files of earlier versions in ``old_params``."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from atelier.cli.app import app
from atelier.core import settings
from atelier.core.errors import AtelierError
from atelier.core.migration import migrate
from atelier.core.renamed_settings import RENAMED_KEYS, RENAMED_VALUES
from atelier.core.yaml_files import parse_yaml, read_yaml

OLD = Path(__file__).parent / "old_params"
FILES = sorted(OLD.glob("*.yaml"))
MAPPINGS = ("folders", "start_from", "style_layers", "content_layers")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key; mappings of layers are values."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and key not in MAPPINGS:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def renamed(old: dict[str, Any]) -> dict[str, Any]:
    """Return the values of an old file by their current keys."""
    found: dict[str, Any] = {}
    for dotted, value in flat(old).items():
        section, key = dotted.split(".", 1)
        for new in RENAMED_KEYS.get(section, {}).get(key, (key,)):
            values = RENAMED_VALUES.get((section, new), {})
            found[f"{section}.{new}"] = values.get(value, value) if values else value
    return found


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def params(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copy(request.param, tmp_path / "params.yaml")
    return tmp_path / "params.yaml"


def test_values_are_unchanged_and_missing_ones_are_those_of_base(params: Path, root: Path) -> None:
    old = renamed(read_yaml(params))
    with pytest.raises(AtelierError, match="run `atelier migrate`"):
        settings.load(params)
    migrate(params, root / "presets")
    settings.load(params)
    new = flat(read_yaml(params))
    assert {key: new[key] for key in old} == old
    base = flat(read_yaml(root / "presets/base.yaml")["values"])
    base |= {"runtime.cudnn_benchmark": False}  # no preset sets it
    added = set(new) - set(old)
    assert {key: new[key] for key in added} == {key: base[key] for key in added}


def test_order_comments_and_blank_lines_are_preserved(params: Path, root: Path) -> None:
    before, old = params.read_text("utf-8"), list(renamed(read_yaml(params)))
    migrate(params, root / "presets")
    after, new = params.read_text("utf-8"), list(flat(read_yaml(params)))
    assert [key for key in new if key in old] == old
    assert comments(after) == comments(before)
    added = len(new) - len(flat(parse_yaml(before)))
    new_sections = set(read_yaml(params)) - set(parse_yaml(before))
    lines = len(before.splitlines()) + added + 2 * len(new_sections)
    assert len(after.splitlines()) == lines, "a new section has a title and a blank line"
    sections = [f"\n\n{section}:" for section in read_yaml(params)]
    assert all(section in after for section in sections), "a blank line before each section"


def comments(text: str) -> list[str]:
    return [line.partition("# ")[2] for line in text.splitlines() if "#" in line]


def test_command_lists_changes_and_then_has_nothing_to_do(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "presets", tmp_path / "presets")
    shutil.copy(OLD / "with_held_out.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    first = CliRunner().invoke(app, ["migrate"])
    assert first.exit_code == 0
    lines = first.output.splitlines()
    assert "convert.held_out -> convert.test_fraction" in lines
    assert 'stylize.pairing: "all" -> "product"' in lines
    assert 'evaluate.reference: added with "test"' in lines
    assert lines[-1] == "Now type: dvc repro"
    migrated = (tmp_path / "params.yaml").read_bytes()
    second = CliRunner().invoke(app, ["migrate"])
    assert second.output == "params.yaml is up to date already.\n"
    assert (tmp_path / "params.yaml").read_bytes() == migrated


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  lr: 0.001", "  lr: fast", r"^params\.yaml: train\.lr is 'fast', but"),
        ("  fps: 4", "  fsp: 4", r"^params\.yaml: render\.fsp is not a setting; did you mean"),
        ("  workers: 0 ", "", r"^params\.yaml: runtime\.workers is missing; no preset sets it"),
        ("  clip: 0.0", "  clip: 0.0\n  grad_clip: 1.0", "the file has both; remove one of the"),
        ("train:", "train: 3\nx:", r"^params\.yaml: train is 3, but it should be"),
    ],
)
def test_invalid_result_changes_nothing(
    root: Path, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    text = (OLD / "before_renaming.yaml").read_text("utf-8")
    assert old in text
    params = tmp_path / "params.yaml"
    params.write_text(text.replace(old, new, 1), "utf-8")
    before = params.read_bytes()
    with pytest.raises(AtelierError, match=sentence):
        migrate(params, root / "presets")
    assert params.read_bytes() == before


def test_missing_sections_and_last_keys_are_added(root: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (root / "params.yaml").read_text("utf-8")
    start, end = text.index("render:"), text.index("stylize:")
    lines = (text[:start] + text[end:]).splitlines(keepends=True)
    seed = next(n for n, line in enumerate(lines) if line.startswith("evaluate:")) - 2
    assert lines[seed].startswith("  seed:")
    params.write_text("".join(lines[:seed] + lines[seed + 1 :]), "utf-8")
    changes = migrate(params, root / "presets")
    assert "train.seed: added with 1" in changes
    assert "render.fps: added with 4" in changes
    after = params.read_text("utf-8")
    assert "later stages use\n  seed: 1\n\nevaluate:" in after
    assert comments(after) == comments("".join(lines))
    assert settings.load(params).render.columns == 8


def test_settings_that_no_preset_sets_are_added(root: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    text = (root / "params.yaml").read_text("utf-8")
    line = next(line for line in text.splitlines() if "cudnn_benchmark" in line)
    params.write_text(text.replace(f"{line}\n", ""), "utf-8")
    assert not settings.load(params).runtime.cudnn_benchmark
    assert migrate(params, root / "presets") == ["runtime.cudnn_benchmark: added with false"]
    assert read_yaml(params) == read_yaml(root / "params.yaml")


@pytest.mark.parametrize(
    ("value", "line", "change"),
    [
        (
            "models:/celeba@champion",
            "  start_from: {start: models:/celeba@champion} # e.g.",
            '"models:/celeba@champion" -> {"start": "models:/celeba@champion"}',
        ),
        ("", "  start_from: {}", "null -> {}"),
    ],
)
def test_start_without_a_name_becomes_a_mapping(
    root: Path, tmp_path: Path, value: str, line: str, change: str
) -> None:
    params = tmp_path / "params.yaml"
    text = (root / "params.yaml").read_text("utf-8")
    params.write_text(text.replace("  start_from: {}", f"  start_from: {value}", 1), "utf-8")
    assert migrate(params, root / "presets") == [f"train.start_from: {change}"]
    after = params.read_text("utf-8")
    assert line in after
    assert comments(after) == comments(text)
    expected = {"start": value} if value else {}
    assert settings.load(params).train.start_from == expected
