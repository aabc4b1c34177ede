"""MLflow server with PostgreSQL, and a proxy in front of it."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from mlflow.utils import rest_utils

from atelier.tracking import mlflow_writer
from atelier.tracking.store import client_of, quiet_environment

from ...support.proxy import TIMEOUT_SECONDS, Proxy, proxy
from ...support.servers import mlflow_server, postgresql


@pytest.fixture(scope="session")
def team_database() -> Iterator[str]:
    """Start PostgreSQL and yield the database's address."""
    with postgresql() as address:
        yield address


@pytest.fixture(scope="session")
def team_server(team_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an MLflow server that stores runs in PostgreSQL and yield its address."""
    with mlflow_server(team_database, tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def team_proxy(team_server: str) -> Iterator[Proxy]:

    with proxy(team_server) as running:
        yield running


@pytest.fixture
def experiment() -> str:
    """Return a unique name of an experiment."""
    return f"experiment-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def through_proxy(
    team_proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Yield a project that delivers to the proxy, with the environment of a delivery worker."""
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            del os.environ[name]
        os.environ["MLFLOW_TRACKING_URI"] = team_proxy.address
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(TIMEOUT_SECONDS)
        quiet_environment()
        monkeypatch.setattr(mlflow_writer, "_PAUSES", (0.0, 0.0))
        # Delivery replaces this function by one that limits requests. monkeypatch restores it.
        function = "_get_http_response_with_retries"
        monkeypatch.setattr(rest_utils, function, getattr(rest_utils, function))
        client_of.cache_clear()
        (tmp_path / "project").mkdir()
        yield tmp_path / "project"
        client_of.cache_clear()
