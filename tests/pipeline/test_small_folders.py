"""The whole chain on folders of few pictures: it ends with a film and paintings."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.core.presets import preset_values
from atelier.sample_faces.portrait import random_portrait

from ..support.project import ROOT, TINY, Project

# What makes the presets slow; their batches, losses and normalisations stay.
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


def folder_of(place: Path, count: int) -> dict[str, object]:
    """Write a folder of different faces; return the settings that take it."""
    place.mkdir()
    for number in range(count):
        face = random_portrait(80, 80, np.random.default_rng(number))
        Image.fromarray(face).save(place / f"{number:03d}.jpg", quality=90)
    return {"download.source": "folder", "download.folders": {"faces": str(place)}}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 20, 60, 400])
@pytest.mark.parametrize("preset", ["sample", "best32"])
def test_a_small_folder_ends_with_a_film_and_paintings(
    fresh: Project, tmp_path: Path, preset: str, count: int
) -> None:
    fresh.run("atelier", "preset", preset)
    size = {"sample": 64, "best32": 32}[preset]
    fresh.set(**SMALL | folder_of(tmp_path / "faces", count) | {"convert.image_size": size})
    output = fresh.run("dvc", "repro")
    made = fresh.folder
    counts = json.loads((made / "metrics/convert.json").read_text())
    few = count // 10
    assert (counts["validation"], counts["test"]) == (few, few)
    assert counts["training"] == count - 2 * few
    batch = preset_values(preset, ROOT / "presets")["train"]["batch_size"]
    warning = f"{counts['training']} image{'s' if counts['training'] > 1 else ''}, fewer than"
    assert (warning in output) == (counts["training"] < batch)
    assert "but good images usually need 2,000 or more" in output
    with Image.open(made / "renders/training.gif") as film:
        assert film.format == "GIF"
    (painting,) = (made / "styled").glob("*-wave.png")
    with Image.open(painting) as image:
        assert np.asarray(image).std() > 5
    page = (made / "renders/report.html").read_text("utf-8")
    assert (warning in page) == (counts["training"] < batch)
    if count < 20:
        assert "left out, because" in page
    assert fresh.repro() == ["watch@faces"]
    fresh.run("dvc", "plots", "show")
