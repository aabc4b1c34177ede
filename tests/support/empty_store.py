"""Fixtures of projects with an empty MLflow store, and the runs in it; test modules import them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atelier.tracking.store import client_of, open_store


@pytest.fixture(autouse=True)
def _no_cached_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client_of.cache_clear()
    yield
    client_of.cache_clear()


@pytest.fixture(name="root")
def root_fixture(tmp_path: Path, empty_store: Path) -> Path:
    """Project folder with a copy of the empty store."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return tmp_path


def runs(root: Path) -> dict[str, Any]:
    """Return the runs of the experiment ``atelier`` by name."""
    client, experiment = open_store(root, "atelier")
    return {run.info.run_name: run for run in client.search_runs([experiment])}
