"""A user's mistake: one sentence, a failing exit code, and the old results untouched."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from atelier.core.yaml_files import read_yaml

from ..support.project import ROOT, Project


def fails(project: Project, *command: str) -> str:
    """Run a command that must fail in one sentence; return the sentence."""
    told = project.run(*command, ok=False)
    assert "Traceback" not in told
    errors = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 2, told  # ours, and dvc's that the stage failed
    return errors[0]


def fails_here(project: Project, stage: str) -> str:
    """Run a stage in this process that must fail in one sentence, as DVC's next step would."""
    project.remove_outputs(stage)
    told = project.stage(stage, ok=False)
    assert "Traceback" not in told
    (sentence,) = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    return sentence


OUTPUTS = {
    "train": ("models", "samples", "plots/losses.csv", "metrics/train.json"),
    "evaluate": ("plots/swd.csv", "metrics/evaluate.json"),
    "stylize": ("styled", "plots/style_losses.csv", "metrics/stylize.json"),
}


def test_a_mistake_told_by_dvc_leaves_the_old_results(ready: Project) -> None:
    before = ready.bytes(*OUTPUTS["stylize"])
    ready.set(**{"stylize.styles": ["none.jpg"]})
    assert "there is no data/pictures/none.jpg" in fails(ready, "dvc", "repro", "stylize")
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
def test_a_mistake_in_settings_leaves_the_old_results(
    ready: Project, changes: dict[str, Any], stage: str, sentence: str
) -> None:
    before = ready.bytes(*OUTPUTS[stage])
    ready.set(**changes)
    assert sentence in fails_here(ready, stage)
    assert ready.bytes(*OUTPUTS[stage]) == before


def test_a_misspelt_setting_touches_nothing(ready: Project) -> None:
    before = ready.bytes("data", "models", "renders")
    params = ready.folder / "params.yaml"
    params.write_text(params.read_text().replace("  epochs:", "  epoch:"))
    assert "did you mean train.epochs" in fails(ready, "dvc", "repro")
    assert ready.bytes("data", "models", "renders") == before


@pytest.mark.parametrize(
    ("make", "stage", "sentence"),
    [
        (lambda folder: None, "download", "no file"),
        (
            lambda folder: (folder / "notes.txt").write_text("not a face"),
            "convert",
            "readable image",
        ),
    ],
)
def test_a_folder_without_pictures_leaves_the_old_data(
    ready: Project, tmp_path: Path, make: Any, stage: str, sentence: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    make(folder)
    before = ready.bytes("data/images.npz", "metrics/convert.json")
    ready.set(**{"download.source": "folder", "download.folders": {"mine": str(folder)}})
    ready.stage("watch", DVC_STAGE="watch@mine")
    if stage == "convert":
        ready.stage("download")
    assert sentence in fails_here(ready, stage)
    assert ready.bytes("data/images.npz", "metrics/convert.json") == before


def test_a_wrong_archive_leaves_the_old_data(ready: Project, tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside.png", b"x")
        file.writestr("notes.txt", "x" * 5000)
    whole = archive.read_bytes()
    before = ready.bytes("data/raw", "data/images.npz", "metrics/convert.json")

    def take(content: bytes, sha256: str) -> None:
        archive.write_bytes(content)
        ready.set(
            **{
                "download.source": "archive",
                "download.archive.location": str(archive),
                "download.archive.sha256": sha256,
            }
        )

    def told(content: bytes, sha256: str) -> str:
        take(content, sha256)
        return fails_here(ready, "download")

    digest = hashlib.sha256(whole).hexdigest()
    assert digest in told(whole, "")
    assert "sha256" in told(whole, "0" * 64)
    assert "whole zip" in told(whole[:2000], hashlib.sha256(whole[:2000]).hexdigest())
    assert ready.bytes("data/raw") == {k: v for k, v in before.items() if "raw" in k}
    take(whole, digest)
    ready.stage("download")
    assert "readable image" in fails_here(ready, "convert")  # an intact archive without images
    assert not (ready.folder.parent / "outside.png").exists()
    after = ready.bytes("data/images.npz", "metrics/convert.json")
    assert after == {k: v for k, v in before.items() if "raw" not in k}


@pytest.mark.parametrize(
    "command",
    [
        "repro --keep-going",
        pytest.param("repro --force", marks=pytest.mark.slow),
        "checkout",
        pytest.param("exp run", marks=pytest.mark.slow),
    ],
)
def test_folder_names_that_are_paths_touch_no_file(
    fresh: Project, tmp_path: Path, command: str
) -> None:
    places = [tmp_path / "outside", tmp_path, fresh.folder, fresh.folder / "data"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / "precious.json").write_text("{}")
    starts = ("../../../outside/", "x/../../../../", "x/../../../", "../", f"/{tmp_path}/")
    names = {f"{start}precious": str(tmp_path) for start in starts}
    fresh.set(**{"download.source": "folder", "download.folders": names})
    before = fresh.bytes("data", "src", "stages", "presets")
    answer = fresh.run("dvc", *command.split(), ok=None)
    assert command == "checkout" or "download.folders" in answer
    assert [place for place in places if not (place / "precious.json").exists()] == []
    assert fresh.bytes("data", "src", "stages", "presets") == before


def test_no_setting_is_part_of_a_path_that_dvc_removes() -> None:
    """DVC removes what a stage makes before the stage can refuse its settings."""
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
