"""Render stage: montages, training GIF and loss curves."""

from pathlib import Path

from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

IMAGES = Path("data/images.npz")
SAMPLES = Path("samples")
LOSSES = Path("plots/losses.csv")
RENDERS = Path("renders")


def main(settings: Settings, run: Run) -> None:
    """Render the samples and losses of the train stage."""
    from atelier.data.dataset import load_images
    from atelier.figures.render import Training, render

    images = load_images(IMAGES)
    training = Training(
        samples=SAMPLES,
        losses=LOSSES,
        real=images.pixels,
        classes=images.classes()[0] if settings.train.conditional else (),
        shares_images=settings.shares_images,
    )
    with progress_bar("render", "images", settings.runtime.progress) as report:
        render(settings.render, training, RENDERS, report)
    run.log_artifact(RENDERS)


if __name__ == "__main__":
    run_stage("render", main)
