"""Render stage: montages, training GIF, loss curves and report page."""

import json
from pathlib import Path

from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES = Path("data/images.npz")
SAMPLES = Path("samples")
LOSSES = Path("plots/losses.csv")
METRICS = [Path(f"metrics/{stage}.json") for stage in ("convert", "train", "evaluate")]
NEAREST = Path("plots/nearest.png")
RENDERS = Path("renders")


def main(settings: Settings, run: Run) -> None:
    """Render the samples, losses and metrics of the earlier stages."""
    from atelier.data.dataset import load_images
    from atelier.figures.render import render
    from atelier.gan.length import training_warnings

    images = load_images(IMAGES)
    metrics = {path.stem: json.loads(path.read_text("utf-8")) for path in METRICS}
    train = settings.train
    warnings = training_warnings(train, len(images.pixels))
    warnings += metrics["evaluate"].get("notes", [])  # metrics that need more images
    with progress_bar("render", "images", settings.runtime.progress) as report:
        render(
            settings.render,
            samples=SAMPLES,
            losses=LOSSES,
            real=images.pixels,
            metrics=metrics,
            parameters=settings.model_dump(
                include={"download": {"source"}, "convert": True, "train": True, "evaluate": True}
            ),
            target=RENDERS,
            report=report,
            classes=images.classes()[0] if train.conditional else (),
            nearest=NEAREST,
            warnings=warnings,
        )
    run.log_artifact(RENDERS)


if __name__ == "__main__":
    run_stage("render", main)
