"""A full disk is one error sentence, and the earlier outputs stay."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from atelier.tracking.outbox import entries, is_open
from atelier.tracking.run import Run

from ..support.journals import start
from ..support.project import Project

# Bytes that DVC needs to record restored links; no output of a stage fits into them.
LEFT = 32 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Separate file system of 32 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> None:
    """Fill a file system, except for ``leave`` bytes."""
    free = shutil.disk_usage(folder).free - leave
    assert free > 0
    with (folder / "ballast").open("wb") as file:
        file.write(bytes(free))


@pytest.fixture
def project(_ready: Project, small_disk: Path) -> Project:
    """Finished project on the small disk."""
    project = Project(small_disk / "project")
    shutil.copytree(
        _ready.folder,
        project.folder,
        symlinks=True,
        # Checkpoints are excluded: the next stage deletes them, which would free space.
        ignore=shutil.ignore_patterns("mlruns", "mlflow.db", "unfinished"),
    )
    return project


def test_outbox_on_full_disk_keeps_complete_entries(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = start(small_disk)
    run = Run(outbox)
    run.log_metrics(["loss"], {1: [0.5]})
    fill(small_disk, leave=0)
    values = [1 / step for step in range(1, 1001)]
    run.log_metrics(["loss"], {step: [value] for step, value in enumerate(values, 2)})
    run.log_metrics(["loss"], {1002: [0.25]})
    run.end("FINISHED")
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert "No space left on device" in warnings[0]
    os.unlink(small_disk / "ballast")
    found = [entry for entry, _ in entries(outbox.folder)]
    assert [entry["kind"] for entry in found] == ["start", "metrics"]
    assert [(step, value) for step, _, value in found[1]["rows"]] == [(1, [0.5])]
    assert not is_open(outbox.folder)


OUTPUTS = [
    ("download", ["data/raw"]),
    (
        "convert",
        [
            "data/images.csv",
            "data/images.npz",
            "metrics/convert.json",
            "metrics/details/convert.json",
        ],
    ),
    (
        "train",
        [
            "models",
            "samples",
            "plots/losses.csv",
            "metrics/train.json",
            "metrics/details/train.json",
        ],
    ),
    ("render", ["renders"]),
    (
        "stylize",
        [
            "styled",
            "metrics/stylize.json",
            "metrics/details/stylize.json",
            "plots/style_losses.csv",
        ],
    ),
]


@pytest.mark.parametrize(("stage", "outputs"), OUTPUTS)
def test_stage_on_full_disk_keeps_old_outputs(
    project: Project, small_disk: Path, stage: str, outputs: list[str]
) -> None:
    """Run the stage in this process; the earlier outputs are not removed before."""
    before = project.bytes(*outputs)
    fill(small_disk, leave=0)
    output = project.stage(stage, ok=False)
    assert "Traceback" not in output
    (sentence,) = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert "disk is full" in sentence or "no room" in sentence
    assert project.bytes(*outputs) == before


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "outputs"), OUTPUTS)
def test_dvc_repro_on_full_disk_keeps_old_outputs(
    project: Project, small_disk: Path, stage: str, outputs: list[str]
) -> None:
    # Outputs are links into DVC's cache: removing them frees no space.
    project.run("dvc", "checkout", "--relink", "--force")
    before = project.bytes(*outputs)
    fill(small_disk, leave=LEFT)
    output = project.run("dvc", "repro", "--single-item", "--force", stage, ok=False)
    (stage_error, _) = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert "disk is full" in stage_error or "no room" in stage_error
    assert "Traceback" not in output
    assert project.bytes(*outputs) == before
    os.unlink(small_disk / "ballast")
    assert project.repro("--single-item", "--force", stage) == [stage]
    assert project.bytes(*outputs) == before
