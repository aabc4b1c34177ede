"""Inputs stage: list the files of data/pictures, data/weights and data/start that a stage uses.

The later stage depends on the list instead of the folders, so that unused files do not rerun it. In
a temporary copy of the project, which lacks these files, they are linked.
"""

import sys
from functools import partial

from atelier.core.files import write_json
from atelier.core.paths import hash_named, link_all, list_path
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage

SECTION = sys.argv[1]


def main(settings: Settings, run: Run) -> None:
    """Write the hashes of the files that the settings of one section name."""
    write_json(list_path(SECTION), hash_named(settings, SECTION))


if __name__ == "__main__":
    run_stage(f"{SECTION}_inputs", main, logged=False, prepare=partial(link_all, section=SECTION))
