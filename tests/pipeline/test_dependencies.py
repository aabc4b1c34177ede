"""dvc.yaml lists every library file that a stage uses, and no other."""

import ast
from pathlib import Path
from typing import Any

import pytest

from atelier.core.settings import Settings, read_yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "atelier"
STAGES = ("download", "convert", "train", "evaluate", "render", "stylize")
# How a result is asked for, reported and put on disk; never what it is.
NO_RESULT = {
    *("__init__.py", "settings.py", "errors.py", "progress.py", "files.py", "checkpoints.py"),
    *("launch.py", "weights_files.py", "paths.py", "input_files.py"),
    *("regular_files.py", "array_headers.py"),
    "tracking",
}


def stage(name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")["stages"][name]
    return found


def module_file(module: str) -> Path | None:
    path = SOURCE.parent / Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(file: Path) -> set[Path]:
    """The project's files that ``file`` imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {f for name in names if name.startswith("atelier") and (f := module_file(name))}
    return found


def used_by(script: Path) -> set[str]:
    """Every library file that can shape a stage's result, relative to the root."""
    seen: set[Path] = set()
    waiting = [script]
    while waiting:
        for file in imported(waiting.pop()) - seen:
            seen.add(file)
            if not is_ground_floor(file):
                waiting.append(file)
    templates = {
        other for file in seen if file.name == "report.py" for other in file.parent.glob("*.j2")
    }
    return {str(f.relative_to(ROOT)) for f in seen | templates if not is_ground_floor(f)}


def is_ground_floor(file: Path) -> bool:
    return file.relative_to(SOURCE).parts[0] in NO_RESULT or file.name == "__init__.py"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_its_script_its_section_and_the_files_it_uses(name: str) -> None:
    listed = stage(name)["deps"]
    library = {path for path in listed if path.startswith("src/")}
    assert library == used_by(ROOT / "stages" / f"{name}.py")
    assert f"stages/{name}.py" in listed
    assert stage(name)["params"][0] == name
    assert listed == sorted(listed), "sorted lists are easier to read and to compare"
    assert stage(name)["cmd"] == f"PYTHONPATH=src python stages/{name}.py"


def test_an_edit_reruns_what_it_touches_and_nothing_else() -> None:
    def reruns(file: str) -> set[str]:
        return {name for name in STAGES if file in stage(name)["deps"]}

    assert reruns("src/atelier/figures/report.py") == {"render"}
    assert reruns("src/atelier/figures/gif.py") == {"render", "stylize"}
    assert reruns("src/atelier/gan/step.py") == {"train"}
    assert reruns("src/atelier/gan/diagnostics.py") == {"train", "render"}
    assert "train" in reruns("src/atelier/gan/networks.py")
    assert "train" not in reruns("src/atelier/style/transfer.py")
    assert reruns("src/atelier/core/pretrained.py") == {"train", "evaluate", "stylize"}
    assert not any(section in str(stage(s)["params"]) for s in STAGES for section in ("runtime",))


@pytest.mark.parametrize("name", [n for n in Settings.model_fields if n in STAGES])
def test_every_section_belongs_to_a_stage(name: str) -> None:
    assert name in stage(name)["params"]


def test_the_house_has_two_arrows_only() -> None:
    """Only stages and the command import tracking; packages do not import one another."""
    ground = {"settings", "errors", "progress", "files", "checkpoints", "hardware", "launch"}
    ground |= {"weights_files", "paths", "input_files", "regular_files", "array_headers"}
    ground |= {"vgg19_caffe", "streams", "sample_faces"}
    for file in SOURCE.rglob("*.py"):
        home = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        if home in {"cli", "presets"}:
            continue
        for other in imported(file):
            place = other.relative_to(SOURCE).parts[0].removesuffix(".py")
            assert place in ground | {home, "__init__"}, f"{file} imports {other}"


def test_stage_scripts_are_read_in_a_minute() -> None:
    lines = {script.name: len(script.read_text("utf-8").splitlines())
             for script in (ROOT / "stages").glob("*.py")}  # fmt: skip
    assert {name: count for name, count in lines.items() if count >= 60} == {}


@pytest.mark.parametrize("package", ["cli", "style", "sample_faces"])
def test_functions_are_short_enough_to_see_whole(package: str) -> None:
    long = {}
    for file in (SOURCE / package).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                long[f"{file.name}: {node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: lines for name, lines in long.items() if lines > 60} == {}
