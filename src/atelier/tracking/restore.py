"""Bringing back what DVC took away: a stage that fails leaves what was there before."""

import logging
from contextlib import suppress
from pathlib import Path


def restore_outputs(stage: str) -> None:
    """Link a stage's outputs back from DVC's cache, as ``dvc.lock`` records them.

    DVC deletes a stage's outputs before it runs the stage. When the stage then fails, over
    a misspelt setting as over a full disk, the last good result would be gone from the
    workspace. Outputs that were never made, or are no more in the cache, stay away.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)  # what is not there is no news here
    with suppress(DvcException), Repo(str(Path.cwd())) as repo:
        for output in repo.stage.load_one(name=stage).outs:
            if output.hash_info and not output.exists:
                with suppress(DvcException, FileNotFoundError):
                    output.checkout(force=True)
