"""Installation by ``make`` in a small project with a package index on disk."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CPU_BUILDS = ("torch-1.0+cpu", "torchvision-1.0+cpu")
PACKAGES = {
    "torch-1.0": ["nvidia-cublas==1.0", "triton"],
    "torchvision-1.0": ["torch==1.0"],
    "nvidia-cublas-1.0": [],
    "triton-1.0": [],
    "nvidia-ml-py-1.0": [],
}
BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        info = "tiny-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
        tag = "Root-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\\nGenerator: x\\n{tag}")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1.0"
"""


def add_wheel(index: Path, package: str, requires: list[str]) -> str:
    """Add a package without content to an index; return its wheel's SHA-256."""
    name, version = package.rsplit("-", 1)
    escaped = name.replace("-", "_")
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{escaped}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {other}\n" for other in requires)
    with zipfile.ZipFile(file, "w") as wheel:
        info = f"{escaped}-{version}.dist-info"
        wheel.writestr(f"{escaped}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    links = [f'<a href="{wheel.name}">{wheel.name}</a>' for wheel in folder.glob("*.whl")]
    (folder / "index.html").write_text("<!DOCTYPE html>\n" + "<br>\n".join(links))
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Folder with the Makefile and a small lock file; the index is in its grandparent."""
    folder = tmp_path / "My Disk" / "ätelier"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "scripts/install.py", folder / "scripts")
    lock = ""
    for package, requires in PACKAGES.items():
        digest = add_wheel(tmp_path / "index", package, requires)
        lock += "{}=={} \\\n    --hash=sha256:{}\n".format(*package.rsplit("-", 1), digest)
    (folder / "requirements.lock").write_text(lock)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    return folder


def make(folder: Path, *arguments: str, ok: bool = True, **environment: str) -> str:
    """Run ``make .venv/ready``; return its output."""
    index = next(parent / "index" for parent in folder.parents if (parent / "index").is_dir())
    process = subprocess.run(
        ["make", ".venv/ready", f"PYTHON={sys.executable}", *arguments],
        cwd=folder,
        env={**os.environ, "PIP_INDEX_URL": index.as_uri(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert (process.returncode == 0) == ok, process.stdout
    return process.stdout


def installed(folder: Path) -> set[str]:
    """Return the packages in the environment, except pip, setuptools and wheel."""
    listed = subprocess.run(
        [".venv/bin/python", "-E", "-m", "pip", "list", "--format=freeze"],
        cwd=folder,
        env={**os.environ, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return {
        line.replace("==", "-") for line in listed if not re.match("pip|setuptools|wheel", line)
    }


@pytest.mark.slow
def test_pip_settings_of_the_user_do_not_change_the_packages(project: Path, tmp_path: Path) -> None:
    """Only the index of the configuration is used."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/pip.py").write_text("raise SystemExit('the wrong pip')")
    configuration = tmp_path / "pip.conf"
    configuration.write_text(
        f"[global]\nuser = yes\ntarget = {tmp_path}/target\nquiet = 3\nno-deps = no\n"
        f"[install]\nindex-url = {(tmp_path / 'index').as_uri()}\nprefix = {tmp_path}/prefix\n"
    )
    (tmp_path / "constraint.txt").write_text("torch==0.1\n")
    output = make(
        project,
        PIP_INDEX_URL="",
        PIP_CONFIG_FILE=str(configuration),
        PIP_USER="1",
        PIP_TARGET=str(tmp_path / "target"),
        PIP_PREFIX=str(tmp_path / "prefix"),
        PIP_ROOT=str(tmp_path / "root"),
        PIP_PYTHON="/nonexistent/python",
        PIP_QUIET="3",
        PIP_DRY_RUN="1",
        PIP_CONSTRAINT=str(tmp_path / "constraint.txt"),
        PIP_REQUIREMENT=str(tmp_path / "constraint.txt"),
        PIP_NO_BINARY=":all:",
        PIP_REQUIRE_VIRTUALENV="1",
        PIP_LOG=str(tmp_path / "log"),
        PYTHONPATH=str(tmp_path / "shadow"),
        PYTHONUSERBASE=str(tmp_path / "userbase"),
        PYTHONNOUSERSITE="",
        PYTHONWARNINGS="error",
        VIRTUAL_ENV="/nonexistent",
    )
    assert installed(project) == {*PACKAGES, "tiny-1.0"}
    assert re.search(r"^ +\d+  torch 1\.0", output, re.MULTILINE), "no progress is shown"
    names = {path.name for path in tmp_path.iterdir()}
    assert not names & {"target", "prefix", "root", "userbase", "log"}
    assert "is up to date" in make(project), "a complete installation is not repeated"


@pytest.mark.slow
def test_moved_or_interrupted_installations_are_repeated(project: Path, tmp_path: Path) -> None:
    make(project)
    moved = project.rename(tmp_path / "moved")
    output = make(moved)
    assert f".venv was installed in {project}; installing it again here.\n" in output
    assert str(moved) in (moved / ".venv/bin/pip").read_text()
    assert "is up to date" in make(moved)
    lock = moved / "requirements.lock"
    content = lock.read_text()
    lock.write_text(re.sub("sha256:.{8}", "sha256:00000000", content))
    output = make(moved, ok=False)
    assert "ERROR: pip could not install the pinned packages" in output
    assert "Traceback" not in output
    assert not (moved / ".venv/ready").exists()
    lock.write_text(content)
    make(moved)
    assert installed(moved) == {*PACKAGES, "tiny-1.0"}


@pytest.mark.slow
def test_make_option_selects_the_cpu_build_of_torch(project: Path, tmp_path: Path) -> None:
    output = make(project, "TORCH=cpu")
    assert "no torch==1.0+cpu and torchvision==1.0+cpu" in output
    assert installed(project) == {*PACKAGES, "tiny-1.0"}, "the CUDA build is installed instead"
    for package in CPU_BUILDS:
        add_wheel(tmp_path / "cpu builds", package, PACKAGES.get(package[:-4], [])[:0])
    shutil.rmtree(project / ".venv")
    make(project, "TORCH=cpu", f"TORCH_INDEX={(tmp_path / 'cpu builds').as_uri()}")
    expected = {*CPU_BUILDS, "nvidia-ml-py-1.0", "tiny-1.0"}
    assert installed(project) == expected
    assert "is up to date" in make(project), "without the setting the choice stays"
    lock = project / "requirements.lock"
    lock.write_text(re.sub("(ml-py.*\n.*sha256:).{8}", r"\g<1>00000000", lock.read_text()))
    output = make(
        project, f"TORCH_INDEX={(tmp_path / 'cpu builds').as_uri()}", ok=False, PIP_INDEX_URL=""
    )
    assert "without CUDA" in output, "an update keeps the choice"
    assert "ERROR: pip could not install the pinned packages" in output


def write_python(folder: Path, version: tuple[int, ...]) -> Path:
    """Write a Python script that reports another version."""
    python = folder / "python"
    number = ".".join(map(str, version))
    python.write_text(
        f"#!{sys.executable}\nimport sys\nsys.version_info = {version}\n"
        "if '-c' in sys.argv:\n    exec(sys.argv[sys.argv.index('-c') + 1])\n"
        f"else:\n    print('Python {number}' if '--version' in sys.argv else 'installing')\n"
    )
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    "version", [(2, 7, 18), (3, 6, 15), (3, 10, 13), (3, 11, 0), (3, 14, 2), (3, 15, 0), (4, 0, 0)]
)
def test_makefile_accepts_only_the_versions_in_pyproject(
    project: Path, tmp_path: Path, version: tuple[int, ...]
) -> None:
    accepted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    number = ".".join(map(str, version))
    ok = SpecifierSet(accepted).contains(number)
    output = make(project, f"PYTHON={write_python(tmp_path, version)}", ok=ok)
    assert ("installing" in output) == ok
    assert (f"is: Python {number}; name another" in output) != ok
    assert not (project / ".venv").exists()


def test_missing_python_is_named(project: Path) -> None:
    output = make(project, "PYTHON=python3.99", ok=False)
    assert "ERROR: Atelier needs CPython 3.11 to 3.14" in output
    assert "python3.99" in output


def closure(cuda: bool) -> set[str]:
    """Return the dependencies of torch, with or without those for CUDA."""
    todo: list[tuple[str, str]] = [("torch", "")]
    seen = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in importlib.metadata.requires(name) or []:
            requirement = Requirement(line)
            marker = str(requirement.marker or "")
            if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                continue
            if cuda or name != "torch" or "platform_system" not in marker:
                other = canonicalize_name(requirement.name)
                todo += [(other, "")] + [(other, extra) for extra in requirement.extras]
    return {name for name, _ in seen}


def test_cpu_installation_omits_exactly_the_packages_for_cuda() -> None:
    scope: dict[str, object] = {}
    text = (ROOT / "scripts/install.py").read_text()
    match = re.search(r"^CUDA = re\.compile\((.*)\)$", text, re.MULTILINE)
    assert match
    pattern = re.compile(eval(match[1], scope))
    lock = (ROOT / "requirements.lock").read_text()
    names = re.findall(r"^([a-z0-9._-]+)==", lock, re.MULTILINE)
    omitted = {name for name in names if pattern.match(name)}
    assert {"torch", "nvidia-ml-py"} & omitted == set()
    try:
        assert omitted == closure(cuda=True) - closure(cuda=False)
    except importlib.metadata.PackageNotFoundError as missing:
        pytest.skip(f"this environment has a build without CUDA: {missing} is not installed")


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-docs.lock"])
def test_lock_names_no_registry(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=)", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_lock_resolves_with_wheels_for_every_version(version: str, tmp_path: Path) -> None:
    """Two packages without compiled code have no wheels."""
    uv = Path(sys.executable).with_name("uv")
    command = "pip install --dry-run --require-hashes --only-binary :all:"
    pure = "--no-binary imutils --no-binary antlr4-python3-runtime"
    process = subprocess.run(
        [
            *(str(uv), *command.split(), *pure.split(), "--target", str(tmp_path / "target")),
            *("--python-version", version, "--python-platform", "x86_64-manylinux_2_28"),
            *("-r", str(ROOT / "requirements.lock")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Failed to fetch" in process.stderr or "error sending request" in process.stderr:
        pytest.skip("no package index can be reached")
    assert process.returncode == 0, process.stderr
