"""Dependencies of stages and packages."""

import ast
from pathlib import Path
from typing import Any

import pytest

from atelier.core.settings import Settings
from atelier.core.yaml_files import read_yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "atelier"
STAGES = ("download", "convert", "data_report", "train", "evaluate", "render", "stylize", "report")
# Modules of `core` that affect results. The others read settings, report or write files.
RESULT_SHAPING = {
    *("arrays.py", "device.py", "presets.py", "pretrained.py", "random_streams.py", "resizing.py"),
}
# A package may import those to its left.
ORDER = (
    "core",
    "sample_faces",
    "data",
    "style",
    "metrics",
    "gan",
    "latents",
    "figures",
    "pages",
    "data_report",
    "report",
    "tracking",
    "search",
    "web",
    "cli",
)


def stage(name: str) -> dict[str, Any]:
    definition: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")["stages"][name]
    return definition


def module_file(module: str) -> Path | None:
    path = SOURCE.parent / Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(file: Path) -> set[Path]:
    """Return the project's files that ``file`` imports, also within functions."""
    files = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        files |= {f for name in names if name.startswith("atelier") and (f := module_file(name))}
    return files


def used_by(script: Path) -> set[Path]:
    """Return the modules that can affect a stage's result."""
    used: set[Path] = set()
    pending = [script]
    while pending:
        new = imported(pending.pop()) - used
        used |= new
        pending += [file for file in new if shapes_results(file)]
    return {file for file in used if shapes_results(file)}


def shapes_results(file: Path) -> bool:
    package = file.relative_to(SOURCE).parts[0]
    if package == "core":
        return file.name in RESULT_SHAPING
    return package != "tracking" and file.name != "__init__.py"


@pytest.mark.parametrize("name", STAGES)
def test_stage_depends_on_its_script_its_section_and_the_code_it_uses(name: str) -> None:
    dependencies = stage(name)["deps"]
    code = [ROOT / path for path in dependencies if path.startswith("src/")]
    used = used_by(ROOT / "stages" / f"{name}.py")
    missing = {file for file in used if not any(file.is_relative_to(path) for path in code)}
    unused = {path for path in code if not any(file.is_relative_to(path) for file in used)}
    assert (missing, unused) == (set(), set())
    assert f"stages/{name}.py" in dependencies
    assert stage(name)["params"][0] == (name if name in Settings.model_fields else "download")
    assert dependencies == sorted(dependencies), "sorted lists are easier to read and to compare"
    assert stage(name)["cmd"] == f"PYTHONPATH=src python stages/{name}.py"


@pytest.mark.parametrize(
    ("file", "reruns"),
    [
        ("core/errors.py", set()),
        ("core/settings.py", set()),
        ("tracking/run.py", set()),
        ("data/sources/http.py", {"download"}),
        ("data/sources/sample.py", {"download"}),
        ("data/near_duplicates.py", {"convert"}),
        ("figures/montage.py", {"data_report", "evaluate", "render", "stylize", "report"}),
        ("pages/images.py", {"data_report", "report"}),
        ("data_report/findings.py", {"data_report"}),
        ("report/page.py", {"report"}),
        ("core/presets.py", {"report"}),
        ("style/transfer.py", {"stylize"}),
        ("metrics/distances.py", {"data_report", "train", "evaluate"}),
        ("core/pretrained.py", {"data_report", "train", "evaluate", "stylize"}),
    ],
)
def test_edit_reruns_the_stages_that_use_the_module(file: str, reruns: set[str]) -> None:
    path = SOURCE / file
    assert path.is_file()
    depending = {
        name
        for name in STAGES
        for dependency in stage(name)["deps"]
        if path.is_relative_to(ROOT / dependency)
    }
    assert depending == reruns


def test_no_stage_depends_on_settings_that_do_not_affect_results() -> None:
    for name in STAGES:
        assert not {"runtime", "tracking"} & set(stage(name)["params"])


@pytest.mark.parametrize("name", [n for n in Settings.model_fields if n in STAGES])
def test_every_section_belongs_to_a_stage(name: str) -> None:
    assert name in stage(name)["params"]


def test_packages_import_only_packages_to_their_left() -> None:
    wrong = []
    for file in SOURCE.rglob("*.py"):
        package = file.relative_to(SOURCE).parts[0]
        if package == "__init__.py":
            continue
        left = {"__init__.py", *ORDER[: ORDER.index(package) + 1]}
        for other in imported(file):
            if other.relative_to(SOURCE).parts[0] not in left:
                wrong.append(f"{file.relative_to(SOURCE)} imports {other.relative_to(SOURCE)}")
    assert wrong == []


def test_no_module_is_longer_than_450_lines() -> None:
    lengths = {file: len(file.read_text("utf-8").splitlines()) for file in SOURCE.rglob("*.py")}
    assert {str(file): length for file, length in lengths.items() if length > 450} == {}


def test_stage_scripts_are_short() -> None:
    lines = {script.name: len(script.read_text("utf-8").splitlines())
             for script in (ROOT / "stages").glob("*.py")}  # fmt: skip
    assert {name: count for name, count in lines.items() if count >= 60} == {}


@pytest.mark.parametrize("package", ["cli", "style"])
def test_functions_are_short(package: str) -> None:
    long = {}
    for file in (SOURCE / package).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                long[f"{file.name}: {node.name}"] = node.end_lineno - node.lineno + 1
    assert {name: lines for name, lines in long.items() if lines > 60} == {}
