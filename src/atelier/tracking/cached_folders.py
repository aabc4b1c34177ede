"""Check that DVC can record an experiment."""

from pathlib import Path

from atelier.core.errors import AtelierError
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.execution import Commit

_LOCK = "dvc.lock"


def require_cached_folders(root: Path) -> None:
    """Raise if DVC would lose an experiment after its last stage.

    At the end of ``dvc exp run --temp STAGE``, DVC 3.67 reads all folders that ``dvc.lock`` lists,
    also those of other stages. It fails if one is not in its cache, for example in a new clone, and
    removes the results.

    Raises:
        AtelierError: a folder is not in DVC's cache.
    """
    lock = root / _LOCK
    if not lock.is_file():
        return
    cache = Commit.open(root, "HEAD").cache
    missing = [
        path
        for record in read_lock(lock.read_text("utf-8")).values()
        for path, md5 in record.outputs.items()
        if md5.endswith(".dir") and not (cache / md5[:2] / md5[2:]).is_file()
    ]
    if missing:
        raise AtelierError(
            f"{_LOCK} lists results that are not in DVC's cache ({', '.join(missing)}), so that DVC"
            " could not record an experiment; run `dvc repro` once, or `dvc pull`."
        )
