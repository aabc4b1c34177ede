"""Watch: list the folders that pictures come from, so that files added to them are noticed.

Runs at every `dvc repro`, and only where `download.source` is `folder`. The lists hold
names, sizes and times, so that a folder of 200,000 pictures is looked at, not read.
"""

import os
from pathlib import Path

from atelier.core.paths import user_path
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage


def main(settings: Settings, run: Run) -> None:
    """List the folder of `download.folders` that DVC names after the @ of the stage's name."""
    from atelier.core.files import write_json
    from atelier.data.sources.listing import list_folder

    name = os.environ["DVC_STAGE"].partition("@")[2]
    folder = user_path(settings.download.folders[name])
    write_json(Path("data/listing") / f"{name}.json", list_folder(folder))


if __name__ == "__main__":
    run_stage("watch", main, logged=False)
