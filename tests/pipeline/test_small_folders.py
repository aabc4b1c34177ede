"""Pipeline on folders of few images."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.core.presets import preset_values
from atelier.sample_faces.portrait import random_portrait

from ..support.project import ROOT, TINY, Project

# Settings that make the presets slow; batch sizes, losses and normalization stay.
SMALL = {
    name: TINY[name]
    for name in (
        *("convert.image_size", "train.epochs", "train.generator_channels"),
        *(
            "train.discriminator_channels",
            "train.fixed_samples",
            "evaluate.features",
            "evaluate.samples",
        ),
        *("render.columns", "render.tile_pixels", "stylize.generated_count", "stylize.image_size"),
        "stylize.iterations",
    )
} | {"stylize.styles": ["wave"], "tracking.enabled": False}


def write_faces(folder: Path, count: int) -> dict[str, object]:
    """Write different faces; return the settings for this folder."""
    folder.mkdir()
    for number in range(count):
        face = random_portrait(80, 80, np.random.default_rng(number))
        Image.fromarray(face).save(folder / f"{number:03d}.jpg", quality=90)
    return {"download.source": "folder", "download.folders": {"faces": str(folder)}}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 20, 60, 400])
@pytest.mark.parametrize("preset", ["sample", "best32"])
def test_pipeline_on_a_small_folder_writes_gif_and_stylized_images(
    fresh: Project, tmp_path: Path, preset: str, count: int
) -> None:
    fresh.run("atelier", "preset", preset)
    size = {"sample": 64, "best32": 32}[preset]
    fresh.set(**SMALL | write_faces(tmp_path / "faces", count) | {"convert.image_size": size})
    output = fresh.run("dvc", "repro")
    folder = fresh.folder
    counts = json.loads((folder / "metrics/details/convert.json").read_text())
    held_out = count // 10
    assert (counts["validation"], counts["test"]) == (held_out, held_out)
    assert counts["training"] == count - 2 * held_out
    batch = preset_values(preset, ROOT / "presets")["train"]["batch_size"]
    warning = f"{counts['training']} image{'s' if counts['training'] > 1 else ''}, fewer than"
    assert (warning in output) == (counts["training"] < batch)
    assert "but good images usually need 2,000 or more" in output
    with Image.open(folder / "renders/training.gif") as gif:
        assert gif.format == "GIF"
    (stylized,) = (folder / "styled").glob("*-wave.png")
    with Image.open(stylized) as image:
        assert np.asarray(image).std() > 5
    page = (folder / "report.html").read_text("utf-8")
    assert (warning in page) == (counts["training"] < batch)
    if count < 20:
        assert "left out, because" in page
    assert fresh.repro() == ["watch@faces"]
    fresh.run("dvc", "plots", "show")
