"""Convert stage: convert readable images to rows of the training, validation and test set."""

from pathlib import Path

from atelier.core.files import details_path, write_metrics
from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

RAW, WEIGHTS = Path("data/raw"), Path("data/weights")
IMAGES = Path("data/images.npz")
METRICS = Path("metrics/convert.json")
DETAILS = details_path(METRICS)


def main(settings: Settings, run: Run) -> None:
    """Convert all images; log their numbers and the rejected files."""
    from atelier.data.convert import convert
    from atelier.data.dataset import load_images
    from atelier.data.faces.yunet import face_detector_weights
    from atelier.data.skipped import reasons_without_names, summarize_skipped

    face_weights = face_detector_weights(settings.convert, WEIGHTS)
    with progress_bar("convert", "images", settings.runtime.progress) as progress:
        report = convert(
            settings.convert,
            RAW,
            IMAGES,
            workers=settings.runtime.workers,
            report=progress,
            dask_scheduler=settings.runtime.dask_scheduler,
            face_weights=face_weights,
        )
    run.warn(*report.warnings(settings.convert))
    details = report.details()
    write_metrics(METRICS, report.metrics(), details)
    counts = {name: str(count) for name, count in details.items() if isinstance(count, int)}
    run.set_tags(**{f"images.{name}": count for name, count in counts.items()})
    reasons = [reason for _, reason in report.rejected]
    dropped = len(report.dropped)
    print(summarize_skipped(report.accepted, report.noun, reasons, DETAILS, dropped), flush=True)
    if settings.shares_images:
        run.log_artifact(DETAILS)
        run.log_images("real", load_images(IMAGES).pixels[:64])
    else:
        details |= {"rejected_files": reasons_without_names(reasons), "dropped_files": []}
        run.log_json(DETAILS.name, details)


if __name__ == "__main__":
    run_stage("convert", main)
