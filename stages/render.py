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
METRICS = [Path(f"metrics/details/{stage}.json") for stage in ("convert", "train", "evaluate")]
NEAREST = Path("plots/nearest.png")
RENDERS = Path("renders")


def main(settings: Settings, run: Run) -> None:
    """Render the samples, losses and metrics of the earlier stages."""
    from atelier.data.dataset import load_images
    from atelier.figures.render import Training, render
    from atelier.gan.length import training_warnings

    images, train = load_images(IMAGES), settings.train
    metrics = {path.stem: json.loads(path.read_text("utf-8")) for path in METRICS}
    training = Training(
        samples=SAMPLES,
        losses=LOSSES,
        real=images.pixels,
        metrics=metrics,
        parameters=settings.model_dump(
            include={"download": {"source"}, "convert": True, "train": True, "evaluate": True}
        ),
        classes=images.classes()[0] if train.conditional else (),
        nearest=NEAREST,
        warnings=[
            *training_warnings(train, len(images.pixels)),
            *metrics["evaluate"].get("notes", []),  # metrics that need more images
        ],
    )
    with progress_bar("render", "images", settings.runtime.progress) as report:
        render(settings.render, training, RENDERS, report)
    run.log_artifact(RENDERS)


if __name__ == "__main__":
    run_stage("render", main)
