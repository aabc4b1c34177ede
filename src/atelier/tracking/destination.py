"""The store that entries were written for, recorded with them.

Entries for a team's server must not land in a local store, only since another shell lacks
``MLFLOW_TRACKING_URI``, or the other way round.
"""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from atelier.core.errors import AtelierError
from atelier.tracking.redact import redact_urls

PROJECT = "project"  # by this word, not by its path: a project may be moved
_FILE = "store.txt"


class OtherStoreError(AtelierError):
    """Raised if entries were written for another store than the present one."""


def present(root: Path) -> str:
    """Return the present store: its address without user and password, or ``PROJECT``."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not address:
        return PROJECT
    own = root.resolve() / "mlflow.db"
    if address.startswith("sqlite:") and Path(address.partition(":///")[2]) == own:
        return PROJECT
    address = redact_urls(address)
    with suppress(ValueError):
        parts = urlsplit(address)
        if parts.scheme in ("http", "https"):
            host = parts.netloc.lower()
            host = host.removesuffix(":80" if parts.scheme == "http" else ":443")
            return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
    return address


def record(execution: Path, root: Path) -> None:
    """Record the present store with an execution whose first journal is written."""
    file = execution / _FILE
    if not file.exists():
        replace(execution, root)


def replace(execution: Path, root: Path) -> None:
    """Record the present store with an execution, whatever was recorded before."""
    unfinished = execution / f".{_FILE}-{os.getpid()}"
    unfinished.write_text(present(root), "utf-8")
    unfinished.replace(execution / _FILE)


def recorded(execution: Path) -> str | None:
    """Return the store that an execution was started with; ``None`` for older executions."""
    with suppress(OSError):
        return (execution / _FILE).read_text("utf-8").strip() or None
    return None


def require_same_store(execution: Path, root: Path) -> None:
    """Raise unless the present store is the one that an execution was started with.

    Raises:
        OtherStoreError: it is another one; the sentence names both.
    """
    before, now = recorded(execution), present(root)
    if before is None or before == now:
        return
    if before == PROJECT:
        wanted, how = "this project's mlflow.db", "unset MLFLOW_TRACKING_URI"
    else:
        wanted, how = before, f"set MLFLOW_TRACKING_URI={before}"
    found = "this project's mlflow.db" if now == PROJECT else now
    raise OtherStoreError(
        f"the entries are for {wanted}, but the store is {found} now; {how}, or deliver them to"
        f" {found} with `atelier sync --here`"
    )
