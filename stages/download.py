"""Download stage: copy or download raw images from the chosen source to data/raw."""

from pathlib import Path

from atelier.core.progress import progress_bar
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

RAW = Path("data/raw")
MANIFEST = RAW / "manifest.json"
LISTING = Path("data/listing")


def main(settings: Settings, run: Run) -> None:
    """Fill data/raw atomically."""
    from atelier.data.manifest import manifest_without_names
    from atelier.data.skipped import summarize_skipped
    from atelier.data.sources.download import download
    from atelier.tracking.environment import private_folder, repository_root

    cache_dir = private_folder(repository_root()) / "downloads"
    with progress_bar("download", shown=settings.runtime.progress) as report:
        manifest = download(settings.download, RAW, cache_dir, report)
    if settings.shares_images:
        run.log_artifact(MANIFEST)
    else:
        run.log_json(MANIFEST.name, manifest_without_names(manifest))
    if manifest.members is not None and manifest.skipped:
        reasons = [skipped.reason for skipped in manifest.skipped]
        print(summarize_skipped(manifest.members, "files", reasons, MANIFEST), flush=True)


def remove_old_listings(settings: Settings) -> None:
    """Remove the lists of folders that are no longer a source, because DVC would depend on them."""
    for listing in LISTING.glob("*.json"):
        if listing.stem not in settings.download.folders:
            listing.unlink()


if __name__ == "__main__":
    run_stage("download", main, prepare=remove_old_listings)
