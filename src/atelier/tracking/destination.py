"""Record of the store that an execution's entries are for.

Entries for a team's server must not be delivered to a local store because another shell lacks
``MLFLOW_TRACKING_URI``, or vice versa.
"""

import os
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from atelier.core.errors import AtelierError
from atelier.tracking.redact import redact_urls

PROJECT = "project"  # not its path, because a project may be moved
_FILE = "store.txt"


class OtherStoreError(AtelierError):
    """Raised if entries are for another store than the present one."""


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
    """Record the present store for an execution, unless one is recorded."""
    file = execution / _FILE
    if not file.exists():
        replace(execution, root)


def replace(execution: Path, root: Path) -> None:
    """Record the present store for an execution, and replace a recorded one."""
    temporary = execution / f".{_FILE}-{os.getpid()}"
    temporary.write_text(present(root), "utf-8")
    temporary.replace(execution / _FILE)


def recorded(execution: Path) -> str | None:
    """Return the store that an execution's entries are for; ``None`` if none is recorded."""
    with suppress(OSError):
        return (execution / _FILE).read_text("utf-8").strip() or None
    return None


def require_same_store(execution: Path, root: Path) -> None:
    """Raise unless the present store is the recorded one, if any.

    Raises:
        OtherStoreError: it is another store; the message names both.
    """
    before, now = recorded(execution), present(root)
    if before is None or before == now:
        return
    if before == PROJECT:
        expected, advice = "this project's mlflow.db", "unset MLFLOW_TRACKING_URI"
    else:
        expected, advice = before, f"set MLFLOW_TRACKING_URI={before}"
    found = "this project's mlflow.db" if now == PROJECT else now
    raise OtherStoreError(
        f"the entries are for {expected}, but the store is {found} now; {advice}, or deliver them"
        f" to {found} with `atelier sync --here`"
    )
