"""A user's mistake: one sentence, a failing exit code, and the old results untouched."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from atelier.settings import read_yaml

from ..project import ROOT, Project


def fails(project: Project, *command: str) -> str:
    """Run a command that must fail in one sentence; return the sentence."""
    told = project.run(*command, ok=False)
    assert "Traceback" not in told
    errors = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 2, told  # ours, and dvc's that the stage failed
    return errors[0]


@pytest.mark.parametrize(
    ("changes", "stage", "sentence"),
    [
        ({"train.epochs": "ten"}, "train", "train.epochs is 'ten'"),
        ({"convert.image_size": 20}, "train", "convert.image_size is 20, but it should be 16"),
        ({"train.lr": 1e20}, "train", "make train.lr smaller"),
        ({"evaluate.features": "resnet51"}, "evaluate", "did you mean resnet50"),
        ({"stylize.styles": ["none.jpg"]}, "stylize", "there is no data/pictures/none.jpg"),
    ],
)
def test_a_mistake_in_settings_leaves_the_old_results(
    ready: Project, changes: dict[str, Any], stage: str, sentence: str
) -> None:
    outputs = {
        "train": ("models", "samples", "plots/losses.csv", "metrics/train.json"),
        "evaluate": ("plots/swd.csv", "metrics/evaluate.json"),
        "stylize": ("styled", "plots/style_losses.csv", "metrics/stylize.json"),
    }[stage]
    before = ready.bytes(*outputs)
    ready.set(**changes)
    assert sentence in fails(ready, "dvc", "repro", stage)
    assert ready.bytes(*outputs) == before


def test_a_misspelt_setting_touches_nothing(ready: Project) -> None:
    before = ready.bytes("data", "models", "renders")
    params = ready.folder / "params.yaml"
    params.write_text(params.read_text().replace("  epochs:", "  epoch:"))
    assert "did you mean train.epochs" in fails(ready, "dvc", "repro")
    assert ready.bytes("data", "models", "renders") == before


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: None, "no file"),
        (lambda folder: (folder / "notes.txt").write_text("not a face"), "picture"),
    ],
)
def test_a_folder_without_pictures_leaves_the_old_data(
    ready: Project, tmp_path: Path, make: Any, sentence: str
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    make(folder)
    before = ready.bytes("data/images.npz", "metrics/convert.json")
    ready.set(**{"download.source": "folder", "download.folders": {"mine": str(folder)}})
    assert sentence in fails(ready, "dvc", "repro", "convert")
    assert ready.bytes("data/images.npz", "metrics/convert.json") == before


def test_a_wrong_archive_leaves_the_old_data(ready: Project, tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../outside.png", b"x")
        file.writestr("notes.txt", "x" * 5000)
    whole = archive.read_bytes()
    before = ready.bytes("data/raw", "data/images.npz", "metrics/convert.json")

    def told(content: bytes, sha256: str) -> str:
        archive.write_bytes(content)
        ready.set(
            **{
                "download.source": "archive",
                "download.archive.location": str(archive),
                "download.archive.sha256": sha256,
            }
        )
        return fails(ready, "dvc", "repro", "convert")

    digest = hashlib.sha256(whole).hexdigest()
    assert digest in told(whole, "")
    assert "sha256" in told(whole, "0" * 64)
    assert "whole zip" in told(whole[:2000], hashlib.sha256(whole[:2000]).hexdigest())
    assert ready.bytes("data/raw") == {k: v for k, v in before.items() if "raw" in k}
    assert "picture" in told(whole, digest)  # the download is whole, but holds no picture
    assert not (ready.folder.parent / "outside.png").exists()
    after = ready.bytes("data/images.npz", "metrics/convert.json")
    assert after == {k: v for k, v in before.items() if "raw" not in k}


def test_folder_names_that_are_paths_touch_no_file(fresh: Project, tmp_path: Path) -> None:
    places = [tmp_path / "outside", tmp_path, fresh.folder, fresh.folder / "data"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / "precious.json").write_text("{}")
    starts = ("../../../outside/", "x/../../../../", "x/../../../", "../", f"/{tmp_path}/")
    names = {f"{start}precious": str(tmp_path) for start in starts}
    fresh.set(**{"download.source": "folder", "download.folders": names})
    before = fresh.bytes("data", "src", "stages", "presets")
    for command in (("repro", "--keep-going"), ("repro", "--force"), ("checkout",), ("exp", "run")):
        answer = fresh.run("dvc", *command, ok=None)
        assert command == ("checkout",) or "download.folders" in answer
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
