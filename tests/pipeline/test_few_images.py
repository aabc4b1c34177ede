"""Preset ``few64`` from photographs to metrics, with fewer steps and smaller networks."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from atelier.core import settings
from atelier.core.presets import apply_preset
from atelier.data.dataset import load_images
from atelier.tracking.run import Run
from atelier.tracking.run_state import ResumeDir

from ..support.drawn_group import drawn_group

# What takes long: 6,000 steps, and the number of generated images.
SHORT: dict[str, dict[str, Any]] = {
    "train": {
        "steps": 6,
        "generator_channels": 4,
        "discriminator_channels": 4,
        "fixed_samples": 4,
        "kid_samples": 20,
    },
    "evaluate": {"samples": 20},
    "runtime": {"device": "cpu", "progress": False},
}


def save_photographs(folder: Path) -> None:
    """Save 20 images with six different faces each, and one without a face."""
    folder.mkdir()
    places = [(x, y, 72) for y in (6, 84) for x in (6, 84, 162)]
    for first in range(0, 120, 6):
        group = drawn_group((240, 162), places, seeds=tuple(range(first, first + 6)))
        group.save(folder / f"{first:03}.jpg", quality=95)
    drawn_group((240, 162), []).save(folder / "landscape.jpg")


def few64(root: Path) -> settings.Settings:
    """Return the settings that ``atelier preset few64`` writes, changed by ``SHORT``."""
    shutil.copy(root / "params.yaml", "params.yaml")
    apply_preset("few64", root / "presets", Path("params.yaml"))
    values = settings.load(Path("params.yaml")).model_dump()
    for section, changes in SHORT.items():
        values[section] |= changes
    return settings.check(values, "params.yaml")


def details(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"metrics/details/{stage}.json").read_text("utf-8"))
    return found


def test_few64_trains_on_the_faces_of_photographs(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = few64(root)
    assert chosen.convert.faces == "align", "as in CelebA, so that its networks can be the start"

    def run(stage: str) -> str:
        """Run the ``main`` of a stage; return its output."""
        resume_dir = ResumeDir(tmp_path / "private", stage, None, "cpu", None)
        script = runpy.run_path(str(root / f"stages/{stage}.py"))
        script["main"](chosen, Run(None, resume_dir))
        return capsys.readouterr().out

    save_photographs(Path("photos"))
    run("download")
    run("convert")
    converted = details("convert")
    assert converted["found"] == 21
    assert [each["name"] for each in converted["rejected_files"]] == ["mine/landscape.jpg"]
    assert converted["accepted"] > 90, "every image has six faces, of which some are not found"
    sets = [load_images(Path(f"data/{name}.npz")).pixels for name in ("images", "validation")]
    assert {images.shape[1:] for images in sets} == {(64, 64, 3)}
    training, validation = map(len, sets)
    assert training + validation == converted["accepted"], "there is no test set"
    assert 0.1 < validation / converted["accepted"] < 0.3
    output = run("train")
    assert f"{training} images: 6 steps are 1 epoch" in output
    assert "few for a training" not in output
    models = (Path("models", f"{name}.safetensors") for name in ("generator", "best"))
    assert len({file.read_bytes() for file in models}) == 1
    run("evaluate")
    measured = details("evaluate")["measured_with"]
    assert (measured["reference"], measured["reference_images"]) == ("training", training)
