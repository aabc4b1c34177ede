"""Command that serves MLflow's pages on this machine."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from atelier.cli.checkout import PARAMS
from atelier.core.errors import AtelierError
from atelier.core.ports import HOST, require_free
from atelier.tracking.links import DEFAULT_PORT, RunLocation, latest_location
from atelier.tracking.store import has_store, relocate_artifacts, require_schema


def ui(
    *,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="of this machine")] = DEFAULT_PORT,
) -> None:
    """Show the runs in MLflow: start its server, unless the runs are on one, and print the link.

    Example: atelier ui --port 5001
    """
    from atelier.tracking.environment import repository_root

    root = repository_root()
    location = latest_location(root) if has_store(root) else None
    location = location or _search(root)
    if not location.is_local:
        typer.echo(f"The runs are on a server: {location.table()}")
        return
    require_schema(root)
    require_free(port, "atelier ui")
    typer.echo(f"In about ten seconds, open {location.table(port)}\nCtrl-C ends the server.")
    _serve(root, port)


def _search(root: Path) -> RunLocation:
    """Find the experiment in the store, e.g. of a project of an earlier version."""
    from atelier.core import settings
    from atelier.tracking import destination, mlflow_names
    from atelier.tracking.store import existing_store, quiet_environment, short_message

    quiet_environment()
    name = mlflow_names.experiment_name(settings.load(PARAMS).tracking.experiment)
    try:
        client = existing_store(root)
        found = client.get_experiment_by_name(name) if client else None
    except AtelierError:
        raise
    except Exception as error:  # any error of MLflow
        raise AtelierError(f"MLflow does not respond: {short_message(error)}") from None
    if found is None:
        raise AtelierError("there are no runs yet; type: dvc repro")
    return RunLocation(destination.present(root), found.experiment_id, "")


def _serve(root: Path, port: int) -> None:
    """Replace this process by MLflow's server."""
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--host", HOST]
    command += ["--uvicorn-opts", "--log-level warning"]  # a line for each request otherwise
    address = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not address:
        relocate_artifacts(root / "mlflow.db")
    # Not an option: other users see the command line, and the address may have a password.
    store = {"MLFLOW_BACKEND_STORE_URI": address} if address else {}
    # Without the server's jobs, it starts faster and takes a fifth of the memory.
    switches = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",  # of packages that MLflow uses
    }
    os.chdir(root)
    os.execve(sys.executable, [*command, "--port", str(port)], os.environ | store | switches)  # noqa: S606 - no shell
