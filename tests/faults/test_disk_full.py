"""A disk that fills up while a stage writes: one sentence, and the old results stay."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.project import Project

# What DVC needs to note that old outputs are linked back; no stage's own files fit into it.
LEFT = 32 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Fill a file system but for some bytes."""
    free = shutil.disk_usage(folder).free - leave
    assert free > 0
    with (folder / "ballast").open("wb") as file:
        file.write(bytes(free))


@pytest.fixture
def project(_ready: Project, small_disk: Path) -> Project:
    """A finished project on a disk that is soon full."""
    project = Project(small_disk / "project")
    shutil.copytree(
        _ready.folder,
        project.folder,
        symlinks=True,
        # Checkpoints of finished stages go when the next one starts, which would make room.
        ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "unfinished"),
    )
    return project


OUTPUTS = [
    ("download", ["data/raw"]),
    ("convert", ["data/images.npz", "metrics/convert.json"]),
    ("train", ["models", "samples", "plots/losses.csv", "metrics/train.json"]),
    ("render", ["renders"]),
    ("stylize", ["styled", "metrics/stylize.json", "plots/style_losses.csv"]),
]


@pytest.mark.parametrize(("stage", "outputs"), OUTPUTS)
def test_a_stage_on_a_full_disk_leaves_the_old_results(
    project: Project, small_disk: Path, stage: str, outputs: list[str]
) -> None:
    """In this process, with the old results still in place."""
    before = project.bytes(*outputs)
    fill(small_disk, leave=0)
    told = project.stage(stage, ok=False)
    assert "Traceback" not in told
    (sentence,) = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    assert "disk is full" in sentence or "no room" in sentence
    assert project.bytes(*outputs) == before


@pytest.mark.parametrize(
    ("stage", "outputs"),
    [pytest.param(*of, marks=[pytest.mark.slow] * (of[0] != "convert")) for of in OUTPUTS],
)
def test_a_full_disk_leaves_the_old_results(
    project: Project, small_disk: Path, stage: str, outputs: list[str]
) -> None:
    # Outputs are links into DVC's cache, as always: removing them makes no room.
    project.run("dvc", "checkout", "--relink", "--force")
    before = project.bytes(*outputs)
    fill(small_disk, leave=LEFT)
    told = project.run("dvc", "repro", "--single-item", "--force", stage, ok=False)
    (ours, _) = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    assert "disk is full" in ours or "no room" in ours
    assert "Traceback" not in told
    assert project.bytes(*outputs) == before
    os.unlink(small_disk / "ballast")
    assert project.repro("--single-item", "--force", stage) == [stage]
    assert project.bytes(*outputs) == before
