"""Watch: list the folders that pictures come from, so that files added to them are noticed.

Runs at every `dvc repro`, and only where `download.source` is `folder`. The lists hold
names, sizes and times, so that a folder of 200,000 pictures is looked at, not read.
"""

from pathlib import Path

from atelier.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage


def main(settings: Settings, run: Run) -> None:
    """List every folder of `download.folders`."""
    from atelier.files import write_json
    from atelier.images.listing import list_folder

    for name, folder in settings.download.folders.items():
        write_json(Path("data/listing") / f"{name}.json", list_folder(Path(folder).expanduser()))


if __name__ == "__main__":
    run_stage("watch", main, logged=False)
