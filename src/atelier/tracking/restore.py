"""Bringing back what DVC took away: a stage that fails leaves what was there before."""

import logging
from pathlib import Path


def restore_outputs(stage: str) -> None:
    """Link a stage's outputs back from DVC's cache, as ``dvc.lock`` records them.

    DVC deletes a stage's outputs before it runs the stage, and a stage may have replaced some
    of them when it fails. Outputs that were never made, or are no more in the cache, are left
    as they are.
    """
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # what is not there is no news here
    with Repo(str(Path.cwd())) as repo:
        for output in repo.stage.load_one(name=stage).outs:
            if output.hash_info and not output.changed_cache():
                output.checkout(force=True)
