"""Where runs go: MLflow's store, the same wherever a stage runs."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a file lock while the body runs; yield whether it was got.

    The lock goes with the process, so a killed one leaves none behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def quiet_environment() -> None:
    """Switch MLflow's telemetry off and its patience down, unless the user set them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # What cannot be delivered now is delivered later; waiting for minutes helps nobody.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def open_store(root: Path, experiment: str) -> "tuple[MlflowClient, str]":
    """Connect to MLflow and return a client and the experiment's id.

    ``MLFLOW_TRACKING_URI`` names the store where it is set. Otherwise it is ``mlflow.db``
    in ``root`` with artifacts in ``mlruns/``, which plain ``mlflow ui`` reads; both are
    absolute, so that runs of temporary copies land in the main project.
    """
    from mlflow.tracking import MlflowClient
    from mlflow.utils.file_utils import path_to_local_sqlite_uri

    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    address = elsewhere or path_to_local_sqlite_uri(str(root / "mlflow.db"))
    location = None if elsewhere else (root / "mlruns" / experiment).as_uri()
    # Two processes that make the tables or the experiment at once fail each other.
    with locked(root / ".atelier" / "store.lock"):
        client = MlflowClient(tracking_uri=address)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return client, client.create_experiment(experiment, artifact_location=location)
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return client, found.experiment_id
