"""Synthetic outputs of all stages before the report stage."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from atelier.core import settings
from atelier.data.dataset import save_images
from atelier.figures.gif import write_gif
from atelier.figures.montage import save_png, side_by_side, whole_tile
from atelier.figures.style_figures import save_sources
from atelier.report.build import Results

from .arrays import random_image, random_images

_PRESETS = Path(__file__).parents[2] / "presets"
EVALUATION: dict[str, Any] = {
    "kid": 2.715,
    "kid_error": 0.201,
    "fid": 214.7,
    "precision": 0.49,
    "recall": 0.015,
    "density": 0.27,
    "coverage": 0.305,
    "swd": 33.17,
    "diversity": 0.769,
    "memorised": 0.0,
    "real_memorised": 0.00995,
    "real_kid": 0.0304,
    "real_kid_error": 0.042,
    "real_fid": 28.83,
    "real_precision": 0.94,
    "real_recall": 0.92,
    "real_density": 1.06,
    "real_coverage": 0.965,
    "real_swd": 21.4,
    "real_diversity": 0.8,
    "measured_with": {
        "features": "vgg19_caffe",
        "samples": 200,
        "seed": 1,
        "reference": "test",
        "reference_images": 200,
        "other_images": 200,
        "searched": 1600,
        "neighbours": 5,
    },
    "notes": [],
}


class Outputs:
    """Outputs of random images in a folder.

    Args:
        folder: to write.
        epochs: number of epochs, each of ten steps.
        count: samples of an epoch, and training images.
        side: of images, in pixels.
        styles: number of styles of two contents.
        stylized_side: of stylized images, in pixels.
        channels: 3 for color, 1 for gray training images and samples.
    """

    def __init__(
        self,
        folder: Path,
        epochs: int = 3,
        count: int = 6,
        side: int = 16,
        styles: int = 2,
        stylized_side: int = 32,
        channels: int = 3,
    ) -> None:
        self.folder, self.side = folder, side
        for name in ("data", "samples", "plots", "styled", "renders", "metrics"):
            (folder / name).mkdir()
        self.write_images(random_images(count, side, channels, seed=99))
        for epoch in range(1, epochs + 1):
            np.save(
                folder / f"samples/epoch_{epoch:04d}.npy",
                random_images(count, side, channels, seed=epoch),
            )
        steps = range(1, 10 * epochs + 1)
        self.write_rows(
            "losses",
            "step,epoch,images,loss_d,loss_g,d_x,d_g_z1,d_g_z2",
            *(f"{step},{-(-step // 10)},{32 * step},1.4,0.7,0.6,0.4,0.3" for step in steps),
        )
        kids = (f"{epoch},{100 / epoch:.4g},{10 / epoch:.4g}" for epoch in range(1, epochs + 1))
        self.write_rows("kid", "epoch,kid,error", *kids)
        pairs = (random_images(24, side, channels, seed=seed) for seed in (5, 6))
        sides = side_by_side(*pairs, ("Generated", "Nearest"), 4, whole_tile(side))
        save_png(sides, folder / "plots/nearest.png")
        self.write_styled(styles, stylized_side)
        write_gif(random_images(epochs, 32, 3, seed=7), folder / "renders/training.gif", fps=4)
        self.presets.mkdir()
        for name in ("base", "sample"):
            shutil.copy(_PRESETS / f"{name}.yaml", self.presets)
        self.write_metrics("evaluate", EVALUATION)
        self.write_metrics("convert", {"validation": 200, "test": 200, "rejected": 6})

    def write_images(self, images: np.ndarray, names: list[str] | None = None) -> None:
        """Write the training images."""
        names = names or [f"{number}" for number in range(len(images))]
        save_images(self.folder / "data/images.npz", [images.tobytes()], images.shape, names)

    def write_rows(self, name: str, *lines: str) -> None:
        """Write a CSV file of ``plots/``."""
        (self.folder / f"plots/{name}.csv").write_text("\n".join(lines) + "\n", "utf-8")

    def write_metrics(self, stage: str, values: dict[str, Any]) -> None:
        """Write a stage's file of details."""
        (self.folder / f"metrics/{stage}.json").write_text(json.dumps(values), "utf-8")

    def write_styled(self, styles: int, side: int) -> None:
        """Write stylized images of two contents, by style."""
        rows = []
        for style in range(styles):
            for content in range(2):
                name = f"face_{content}-style_{style}"
                image = random_image(2 * style + content, side, side)
                save_png(image, self.folder / f"styled/{name}.png")
                sources = (
                    (random_image(content, 40, 40), f"face_{content}"),
                    (
                        random_image(9 + style, 40, 60),
                        f"style_{style}",
                    ),
                )
                rows.append((*sources, (image, name)))
        save_sources(rows, self.folder / "styled")

    @property
    def presets(self) -> Path:
        """Folder of presets, with the sample's only."""
        return self.folder / "presets"

    @property
    def results(self) -> Results:
        """Files of the outputs."""
        return Results(
            images=self.folder / "data/images.npz",
            samples=self.folder / "samples",
            losses=self.folder / "plots/losses.csv",
            kid=self.folder / "plots/kid.csv",
            nearest=self.folder / "plots/nearest.png",
            styled=self.folder / "styled",
            animation=Path("renders/training.gif"),
            metrics=self.folder / "metrics",
        )


def sample_settings(root: Path) -> settings.Settings:
    """Return the settings of the preset ``sample``."""
    return settings.load(root / "params.yaml")
