"""Pipeline with options that the presets turn off: classes, augmentation, EMA, best epoch."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from atelier.gan.serialization import load_generator, read_metadata

from ..support.project import Project

SETTINGS = {
    "train.conditional": True,
    "train.fixed_samples": 8,
    "train.epochs": 3,
    "train.kid_every_epochs": 2,
    "train.kid_samples": 16,
    "train.select_model": "best",
    "train.ema_decay": 0.9,
    "train.loss": "relativistic",
    "train.r1": 0.1,
    "train.discriminator_norm": False,
    "train.augment": ["color", "translation"],
    "train.horizontal_flip": True,
    "convert.validation_fraction": 0.2,
    "convert.test_fraction": 0.2,
    "convert.share_images": "all",
    "download.source": "folder",
}


def test_conditional_training_selects_the_best_epoch_and_renders_classes(
    fresh: Project, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "toys" / name).mkdir(parents=True)
        for number in range(48):
            pixels = rng.integers(0, 50, (16, 16, 3)) + np.array(color)
            file = tmp_path / "toys" / name / f"{number:03d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    fresh.set(**SETTINGS, **{"download.folders": {"toys": str(tmp_path / "toys")}})
    fresh.stage("watch", DVC_STAGE="watch@toys")
    for stage in ("download", "convert", "train", "evaluate", "render"):
        fresh.stage(stage)
    folder = fresh.folder
    metrics = json.loads((folder / "metrics" / "details" / "train.json").read_text())
    header, *rows = (folder / "plots" / "quality.csv").read_text().split()
    assert header == "epoch,kid"
    measured = {int(epoch): float(kid) for epoch, kid in (row.split(",") for row in rows)}
    assert set(measured) == {2, 3}
    best = min(measured, key=lambda epoch: measured[epoch])
    assert metrics["best_epoch"] == best
    assert metrics["best_kid"] == pytest.approx(measured[best], rel=1e-4)
    compared = json.loads((folder / "metrics" / "train.json").read_text())
    assert compared == {"validation_kid": pytest.approx(measured[best], rel=1e-3)}
    files = {path.stem: path for path in (folder / "models").iterdir()}
    assert files["generator"].read_bytes() == files["best"].read_bytes()
    assert read_metadata(files["best"])["epoch"] == best
    assert load_generator(files["generator"]).arch.classes == 2
    with Image.open(folder / "renders" / "montages" / "epoch_0003.png") as montage:
        assert montage.height == 2 * 16, "a row for each class"
        assert montage.width > 4 * 16, "the name of the class is next to its row"
    assert (folder / "renders" / "augmented.png").is_file()
