"""Convert: turn every readable picture into a row of the training, validation or test set."""

from pathlib import Path

from atelier.core.files import write_json
from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

RAW = Path("data/raw")
IMAGES = Path("data/images.npz")
METRICS = Path("metrics/convert.json")


def main(settings: Settings, run: Run) -> None:
    """Convert all pictures, and count and list what could not be read."""
    from atelier.data.convert import convert
    from atelier.data.dataset import load_images
    from atelier.data.skipped import summarize_skipped

    with progress_bar("convert", "pictures", settings.runtime.progress) as report:
        runtime = settings.runtime
        conversion = convert(
            settings.convert, RAW, IMAGES, runtime.workers, report, runtime.dask_scheduler
        )
    run.warn(*conversion.warnings(settings.convert))
    write_json(METRICS, conversion.metrics())
    run.log_summary(conversion.metrics())
    run.log_artifact(METRICS)
    reasons = [reason for _, reason in conversion.rejected]
    print(summarize_skipped(conversion.accepted, "pictures", reasons, METRICS), flush=True)
    run.log_images("real", load_images(IMAGES).pixels[:64], step=0)


if __name__ == "__main__":
    run_stage("convert", main)
