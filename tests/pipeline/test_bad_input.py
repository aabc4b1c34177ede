"""Invalid input is one error sentence and a nonzero exit code; the earlier outputs stay."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from atelier.core.yaml_files import read_yaml

from ..support.project import ROOT, Project


def error_of_command(project: Project, *command: str) -> str:
    """Run a dvc command that must fail; return the stage's error sentence."""
    output = project.run(*command, ok=False)
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 2, output  # of the stage and of dvc
    return errors[0]


def error_of_stage(project: Project, stage: str) -> str:
    """Run a stage in this process that must fail; return its error sentence."""
    project.remove_outputs(stage)
    output = project.stage(stage, ok=False)
    assert "Traceback" not in output
    (sentence,) = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    return sentence


OUTPUTS = {
    "train": (
        "models",
        "samples",
        "plots/losses.csv",
        "metrics/train.json",
        "metrics/details/train.json",
    ),
    "evaluate": ("plots/swd.csv", "metrics/evaluate.json", "metrics/details/evaluate.json"),
    "stylize": (
        "styled",
        "plots/style_losses.csv",
        "metrics/stylize.json",
        "metrics/details/stylize.json",
    ),
}


def test_failed_dvc_repro_keeps_old_outputs(ready: Project) -> None:
    before = ready.bytes(*OUTPUTS["stylize"])
    ready.set(**{"stylize.styles": ["none.jpg"]})
    assert "there is no data/pictures/none.jpg" in error_of_command(
        ready, "dvc", "repro", "stylize"
    )
    assert ready.bytes(*OUTPUTS["stylize"]) == before


@pytest.mark.parametrize(
    ("changes", "stage", "sentence"),
    [
        ({"train.epochs": "ten"}, "train", "train.epochs is 'ten'"),
        ({"convert.image_size": 20}, "train", "convert.image_size is 20, but it should be 16"),
        ({"train.lr": 1e20}, "train", "set train.lr below"),
        ({"evaluate.features": "resnet51"}, "evaluate", "did you mean resnet50"),
        ({"stylize.styles": ["none.jpg"]}, "stylize", "there is no data/pictures/none.jpg"),
    ],
)
def test_invalid_setting_keeps_old_outputs(
    ready: Project, changes: dict[str, Any], stage: str, sentence: str
) -> None:
    before = ready.bytes(*OUTPUTS[stage])
    ready.set(**changes)
    assert sentence in error_of_stage(ready, stage)
    assert ready.bytes(*OUTPUTS[stage]) == before


@pytest.mark.slow
def test_misspelled_setting_changes_no_output(ready: Project) -> None:
    before = ready.bytes("data", "models", "renders")
    params = ready.folder / "params.yaml"
    params.write_text(params.read_text().replace("  epochs:", "  epoch:"))
    assert "did you mean train.epochs" in error_of_command(ready, "dvc", "repro")
    assert ready.bytes("data", "models", "renders") == before


@pytest.mark.parametrize(
    ("fill", "stage", "sentence"),
    [
        (lambda folder: None, "download", "no file"),
        (
            lambda folder: (folder / "notes.txt").write_text("not a face"),
            "convert",
            "readable image",
        ),
    ],
)
def test_folder_without_images_keeps_old_data(
    ready: Project, tmp_path: Path, fill: Any, stage: str, sentence: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    fill(folder)
    before = ready.bytes("data/images.npz", "metrics/convert.json", "metrics/details/convert.json")
    ready.set(**{"download.source": "folder", "download.folders": {"mine": str(folder)}})
    ready.stage("watch", DVC_STAGE="watch@mine")
    if stage == "convert":
        ready.stage("download")
    assert sentence in error_of_stage(ready, stage)
    assert (
        ready.bytes("data/images.npz", "metrics/convert.json", "metrics/details/convert.json")
        == before
    )


@pytest.mark.slow
def test_invalid_archive_keeps_old_data(ready: Project, tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside.png", b"x")
        file.writestr("notes.txt", "x" * 5000)
    whole = archive.read_bytes()
    before = ready.bytes(
        "data/raw", "data/images.npz", "metrics/convert.json", "metrics/details/convert.json"
    )

    def use(content: bytes, sha256: str) -> None:
        archive.write_bytes(content)
        ready.set(
            **{
                "download.source": "archive",
                "download.archive.location": str(archive),
                "download.archive.sha256": sha256,
            }
        )

    def error(content: bytes, sha256: str) -> str:
        use(content, sha256)
        return error_of_stage(ready, "download")

    digest = hashlib.sha256(whole).hexdigest()
    assert digest in error(whole, "")
    assert "sha256" in error(whole, "0" * 64)
    assert "whole zip" in error(whole[:2000], hashlib.sha256(whole[:2000]).hexdigest())
    assert ready.bytes("data/raw") == {k: v for k, v in before.items() if "raw" in k}
    use(whole, digest)
    ready.stage("download")
    assert "readable image" in error_of_stage(ready, "convert")  # an intact archive without images
    assert not (ready.folder.parent / "outside.png").exists()
    after = ready.bytes("data/images.npz", "metrics/convert.json", "metrics/details/convert.json")
    assert after == {k: v for k, v in before.items() if "raw" not in k}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("repro --keep-going", marks=pytest.mark.slow),
        pytest.param("repro --force", marks=pytest.mark.slow),
        "checkout",
        pytest.param("exp run", marks=pytest.mark.slow),
    ],
)
def test_paths_as_folder_names_change_no_file(fresh: Project, tmp_path: Path, command: str) -> None:
    folders = [tmp_path / "outside", tmp_path, fresh.folder, fresh.folder / "data"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "precious.json").write_text("{}")
    prefixes = ("../../../outside/", "x/../../../../", "x/../../../", "../", f"/{tmp_path}/")
    names = {f"{prefix}precious": str(tmp_path) for prefix in prefixes}
    fresh.set(**{"download.source": "folder", "download.folders": names})
    before = fresh.bytes("data", "src", "stages", "presets")
    output = fresh.run("dvc", *command.split(), ok=None)
    assert command == "checkout" or "download.folders" in output
    assert [folder for folder in folders if not (folder / "precious.json").exists()] == []
    assert fresh.bytes("data", "src", "stages", "presets") == before


def test_no_removed_path_contains_a_setting() -> None:
    """DVC removes outputs before the stage checks its settings."""
    pipeline = read_yaml(ROOT / "dvc.yaml")
    for name, stage in pipeline["stages"].items():
        definition = stage.get("do", stage)
        for kind in ("deps", "outs", "metrics", "plots"):
            for entry in definition.get(kind, []):
                path, options = (
                    next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                )
                assert "$" not in path or options == {"cache": False, "persist": True}, (name, path)
        assert "$" not in definition["cmd"], name
    assert "$" not in str(pipeline["plots"])
