"""Metadata, workflow, hooks and documentation site of the project."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

import atelier

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(<?([^)>\s#]+)")


def read_yaml(name: str) -> Any:
    """Return the content of a YAML file of the repository."""
    return YAML(typ="safe", pure=True).load(ROOT / name)


def read_pyproject() -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def nav_pages(entry: Any) -> Iterator[str]:
    """Yield the pages of a part of mkdocs.yml's ``nav``."""
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from nav_pages(child)


def test_site_lists_every_page_once() -> None:
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert len(pages) > 10
    assert sorted(nav_pages(read_yaml("mkdocs.yml")["nav"])) == sorted(pages)


@pytest.mark.parametrize("name", ["changes.html", "data/report.html", "data/images.csv"])
def test_git_ignores_pages_and_lists_of_private_images(name: str) -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT)
    assert ignored.returncode == 0


def test_links_of_pages_are_files_of_the_site() -> None:
    """Other files of the repository are on GitHub, but not on the site."""
    dead = []
    for page in DOCS.rglob("*.md"):
        for link in LINK.findall(page.read_text("utf-8")):
            target = (page.parent / unquote(link)).resolve()
            if "://" not in link and not (target.is_file() and target.is_relative_to(DOCS)):
                dead.append((page.name, link))
    assert dead == []


def test_site_requests_no_font() -> None:
    assert read_yaml("mkdocs.yml")["theme"]["font"] is False


def test_pyproject_allows_the_pinned_site_generator() -> None:
    lock = (ROOT / "requirements-docs.lock").read_text("utf-8")
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", lock, re.MULTILINE))
    requirements = [Requirement(line) for line in read_pyproject()["dependency-groups"]["docs"]]
    assert {"mkdocs", "mkdocs-material"} == {requirement.name for requirement in requirements}
    assert all(pinned[requirement.name] in requirement.specifier for requirement in requirements)
    assert SpecifierSet("<2").contains(pinned["mkdocs"])


def test_citation_has_the_version_and_license_of_the_package() -> None:
    citation = read_yaml("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["title"].lower() == read_pyproject()["project"]["name"]
    assert citation["version"] == atelier.__version__
    assert citation["license"] == read_pyproject()["project"]["license"]
    assert citation["authors"]
    assert citation["message"]


def test_changelog_has_the_current_version_or_unreleased_changes() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[0] == "Unreleased" or headings[0] == atelier.__version__


def test_wheel_has_type_marker_template_and_license(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(
        ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    subprocess.run(
        [sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.name.startswith(f"atelier-{atelier.__version__}-")
    assert "atelier/py.typed" in names
    assert any(name.endswith(".html.j2") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_workflow_runs_ci_on_the_oldest_and_newest_python() -> None:
    supported = SpecifierSet(read_pyproject()["project"]["requires-python"])
    versions = [f"3.{minor}" for minor in range(100) if f"3.{minor}" in supported]
    workflow = read_yaml(".github/workflows/ci.yml")
    job = workflow["jobs"]["test"]
    assert job["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]
    setups = [step["with"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert [setup["python-version"] for setup in setups] == ["${{ matrix.python }}"]
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("program", ["ruff", "mypy"])
def test_hooks_run_the_pinned_programs(program: str) -> None:
    repositories = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert all(hook["language"] == "system" for hook in hooks)
    assert f".venv/bin/{program}" in {hook["entry"].split()[0] for hook in hooks}
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert re.search(rf"^{program}==", lock, re.MULTILINE)
