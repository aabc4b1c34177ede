"""Outputs of stages as a commit records them, from DVC's cache or remote storage."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.environment import git

_HASH = re.compile("[0-9a-f]{32}")  # of a file; that of a folder ends in .dir


@dataclass(frozen=True)
class RecordedOutputs:
    """Outputs that the ``dvc.lock`` of a commit records.

    Attributes:
        revision: name of the commit, as the user entered it.
        hashes: content hash by path.
        stages: name of the stage that made an output, by path.
    """

    revision: str
    hashes: Mapping[str, str]
    stages: Mapping[str, str]

    def fetch(self, path: str) -> Path:
        """Return the file of DVC's cache that has the content of an output.

        A file that the cache lacks is downloaded from the default remote storage.

        Raises:
            AtelierError: the commit does not record the output as a file, or neither the cache
                nor the remote storage has it.
        """
        from dvc.config import NoRemoteError
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc_data.hashfile.hash_info import HashInfo

        if path not in self.hashes:
            raise AtelierError(
                f"dvc.lock of {self.revision} does not record {path}; choose a commit whose"
                " pipeline made it."
            )
        # The lock of another user's commit may name a path in place of a hash.
        if not _HASH.fullmatch(self.hashes[path]):
            raise AtelierError(
                f"dvc.lock of {self.revision} has no valid hash of {path}; choose another commit."
            )
        _silence_dvc()
        reason = "the remote storage lacks it"
        with Repo() as repo:
            cached = Path(repo.cache.local.oid_to_path(self.hashes[path]))
            if not cached.exists():
                try:
                    repo.cloud.pull([HashInfo("md5", self.hashes[path])])
                except NoRemoteError:
                    reason = "DVC has no default remote storage"
                except (DvcException, OSError) as error:
                    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if not cached.exists():
            raise AtelierError(
                f"DVC's cache has no {path} of {self.revision}, and it cannot be downloaded"
                f" ({reason}); check out that commit and run `dvc repro {self.stages[path]}` to"
                " make it again."
            )
        return cached


def recorded_outputs(revision: str) -> RecordedOutputs:
    """Return the outputs that a commit records.

    Args:
        revision: a commit, branch, tag or DVC experiment.

    Raises:
        AtelierError: there is no such revision, or it has no ``dvc.lock``.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import RevError, resolve_rev

    unknown = AtelierError(
        f"there is no revision {revision!r}; choose a commit, a branch, a tag or an experiment of"
        " this repository."
    )
    if not revision:
        raise unknown  # git would show the file of its index
    _silence_dvc()
    try:
        with Repo() as repo:
            commit = resolve_rev(repo.scm, revision)
    except (DvcException, RevError, AttributeError, ValueError):  # without git, there is no method
        raise unknown from None
    lock = git("show", f"{commit}:./dvc.lock")
    if lock is None:
        raise AtelierError(
            f"{revision} has no dvc.lock; choose a commit that was made after `dvc repro`."
        )
    records = read_lock(lock)
    return RecordedOutputs(
        revision,
        {path: hash_ for record in records.values() for path, hash_ in record.outputs.items()},
        {path: stage for stage, record in records.items() for path in record.outputs},
    )


def _silence_dvc() -> None:
    """Turn off DVC's messages and progress bars."""
    for library in ("dvc", "dvc_data"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
