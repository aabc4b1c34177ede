"""Preflight check: conditions under which DVC would fail after a stage are errors before it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.core.yaml_files import read_yaml
from atelier.tracking import preflight

from ..support.project import ROOT, Project

# A user without a name who may read all files: the environment can be in root's home.
NAMELESS = (
    "setpriv --reuid 54321 --regid 54321 --clear-groups"
    " --inh-caps +dac_override --ambient-caps +dac_override"
)

# Imports as root, because other users may not read the environment; checks as another user.
AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from atelier.tracking import preflight
os.setgroups([])
os.setgid(54321)
os.setuid(54321)
try:
    preflight.check(Path(sys.argv[1]))
except preflight.AtelierError as error:
    print(error)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Folder with the directories of DVC and git, without outputs."""
    folder = tmp_path / "project"
    for path in (".git", ".dvc/tmp", ".dvc/cache/files/md5", *preflight.PARENTS):
        (folder / path).mkdir(parents=True)
    (folder / "dvc.lock").touch()
    return folder


def outputs() -> set[str]:
    """Return all outputs in dvc.yaml."""
    paths = set()
    for stage in read_yaml(ROOT / "dvc.yaml")["stages"].values():
        stage = stage.get("do", stage)
        for entry in (*stage.get("outs", ()), *stage.get("metrics", ())):
            paths.add(entry if isinstance(entry, str) else next(iter(entry)))
    return paths


def test_all_outputs_of_the_pipeline_are_checked() -> None:
    parents = {str(Path(output).parent) for output in outputs()} - {"."}
    assert parents <= set(preflight.PARENTS)
    assert {output for output in outputs() if not Path(output).suffix} == set(preflight.OUTPUTS)


def test_usual_project_passes(project: Path, tmp_path: Path) -> None:
    preflight.check(project)
    shutil.rmtree(project / ".dvc/cache")  # DVC creates it
    (project / "dvc.lock").unlink()
    for path in ("data/images.npz", "models/generator.safetensors"):
        (project / path).parent.mkdir(exist_ok=True)
        (project / path).symlink_to(tmp_path / "cached")  # as with cache.type symlink
    (tmp_path / "link").symlink_to(project)
    preflight.check(tmp_path / "link")


@pytest.mark.parametrize("name", preflight.PARENTS)
def test_linked_folder_of_outputs_is_rejected(project: Path, tmp_path: Path, name: str) -> None:
    folder = project / name
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "disk")
    with pytest.raises(AtelierError, match="is not a folder; remove the link"):
        preflight.check(project)
    (tmp_path / "disk").mkdir()
    with pytest.raises(AtelierError, match=rf"{name} leads to .*/disk, but .* `dvc cache dir`"):
        preflight.check(project)
    folder.unlink()
    (project / "store").mkdir()
    folder.symlink_to(project / "store")  # DVC follows links inside the repository
    preflight.check(project)


@pytest.mark.parametrize("name", preflight.OUTPUTS)
def test_linked_output_folder_is_rejected(project: Path, tmp_path: Path, name: str) -> None:
    (project / name).symlink_to(tmp_path)
    with pytest.raises(AtelierError, match=rf"{name} leads to .* as a whole; .* `dvc cache dir`"):
        preflight.check(project)


@pytest.mark.parametrize("path", [".dvc", ".dvc/tmp", ".dvc/cache", ".dvc/cache/files/md5", "disk"])
@pytest.mark.parametrize("config", ["config", "config.local"])
def test_read_only_folder_of_dvc_is_rejected(
    project: Path, freeze: Callable[[Path], None], path: str, config: str
) -> None:
    frozen = project.parent / "disk" if path == "disk" else project / path
    frozen.mkdir(exist_ok=True)
    if path == "disk":
        (project / ".dvc" / config).write_text(
            "['remote \"a\"']\n    url = %\n[cache]\n    dir = ../../disk\n"
        )
    freeze(frozen)
    with pytest.raises(AtelierError, match="cannot be written, but DVC records results in"):
        preflight.check(project)


def test_read_only_dvc_lock_is_rejected(project: Path, freeze: Callable[[Path], None]) -> None:
    freeze(project / "dvc.lock")
    with pytest.raises(AtelierError, match=r"dvc\.lock cannot be written"):
        preflight.check(project)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("closed", [".dvc/cache", ".dvc", "data", "disk"])
def test_inaccessible_folder_is_one_error_sentence(closed: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # other users cannot read pytest's folders
        project = Path(name, "project")
        for path in (".git", ".dvc/tmp", ".dvc/cache/files/md5", "disk/below", *preflight.PARENTS):
            (project / path).mkdir(parents=True, exist_ok=True)
        (project / ".dvc/config").write_text(
            "[cache]\n    dir = ../disk/below\n" * (closed == "disk")
        )
        for existing in (Path(name), *Path(name).rglob("*")):
            existing.chmod(0o777)
        (project / closed).chmod(0o600)
        output = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(project)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "USER": "me"}
            | {"HOME": str(project)},
            capture_output=True,
            text=True,
            check=True,
            cwd="/",
        ).stdout
    assert output.count("\n") == 1
    assert re.search(rf"/{closed}\S* cannot be (reached \(Permission denied\)|written)", output), (
        output
    )


@pytest.mark.slow
def test_first_stage_rejects_linked_data(fresh: Project, tmp_path: Path) -> None:
    (fresh.folder / "data").rename(tmp_path / "disk")
    (fresh.folder / "data").symlink_to(tmp_path / "disk")
    output = fresh.run("dvc", "repro", ok=False)
    assert f"ERROR: data leads to {tmp_path}/disk, but DVC keeps no outputs outside" in output
    assert "Traceback" not in output
    assert not (tmp_path / "disk/raw").exists()


@pytest.mark.slow
def test_user_without_a_name_gets_the_missing_variables(project: Path) -> None:
    check = [*NAMELESS.split(), sys.executable, "-m", "atelier.tracking.preflight"]
    if subprocess.run([*NAMELESS.split(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can run a program as another user")
    shutil.rmtree(project / ".git")
    for command_line in ("git init -q", "dvc init -q -f"):
        subprocess.run(command_line.split(), cwd=project, check=True)
    dvc = [*NAMELESS.split(), sys.executable, "-m", "dvc", "status"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}

    def run(command: list[str], **names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=project,
            env=environment | names,
            capture_output=True,
            text=True,
            check=False,
        )

    for names in ({"HOME": "/tmp"}, {"USER": "me"}, {}):
        rejected = run(check, **names)
        assert rejected.returncode == 1
        assert rejected.stderr.startswith("ERROR: user 54321 has no ")
        assert "`export USER=me HOME=/tmp`" in rejected.stderr
        assert run(dvc, **names).returncode != 0, "DVC needs neither any more"
    for names in ({"USER": "me", "HOME": "/tmp"}, {"LOGNAME": "me", "HOME": "/tmp"}):
        assert run(check, **names).returncode == 0
        assert run(dvc, **names).returncode == 0
