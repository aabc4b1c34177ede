"""Watch stage: list the source folders, so that DVC detects new and changed files.

It runs at every `dvc repro` if `download.source` is `folder`. The lists contain names, sizes and
times. Thus 200,000 images are listed without reading them.
"""

import os
from pathlib import Path

from atelier.core.paths import user_path
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage


def main(settings: Settings, run: Run) -> None:
    """List the folder of `download.folders` whose key follows the @ in the name of the stage."""
    from atelier.core.files import write_json
    from atelier.data.sources.listing import list_folder

    name = os.environ["DVC_STAGE"].partition("@")[2]
    folder = user_path(settings.download.folders[name])
    write_json(Path("data/listing") / f"{name}.json", list_folder(folder))


if __name__ == "__main__":
    run_stage("watch", main, logged=False)
