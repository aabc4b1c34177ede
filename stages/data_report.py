"""Data report stage: a page on which images are used, rejected, alike or of low quality."""

from pathlib import Path

from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

DATA = Path("data")
FILES = {"training": "images.npz", "validation": "validation.npz", "test": "test.npz"}
REPORT = DATA / "report.html"


def main(settings: Settings, run: Run) -> None:
    """Write the page; log its counts, and the page itself if images may be shared."""
    from atelier.data.dataset import load_images
    from atelier.data.image_list import IMAGE_LIST, read_image_list
    from atelier.data.raw import open_raw
    from atelier.data_report.build import build_page
    from atelier.data_report.findings import DataSet, examine
    from atelier.data_report.page import write_page

    pixels = {
        name: load_images(DATA / file, may_be_empty=True).pixels for name, file in FILES.items()
    }
    data = DataSet(read_image_list(DATA / IMAGE_LIST), pixels)
    count = settings.data_report.outlier_images
    with progress_bar("data_report", "images", settings.runtime.progress) as report:
        extract = None
        if count:
            from atelier.data_report.features import vgg19_features

            extract = vgg19_features(settings.runtime.device, report)
        findings = examine(data, count, extract)
        page = build_page(settings, data, findings, open_raw(DATA / "raw"))
    write_page(REPORT, page)
    print(f"{page.verdict.headline}; {REPORT} shows the images", flush=True)
    run.log_summary("data", findings.counts())
    if settings.shares_images:
        run.log_artifact(REPORT)


if __name__ == "__main__":
    run_stage("data_report", main)
