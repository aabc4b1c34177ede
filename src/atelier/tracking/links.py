"""Addresses of MLflow's pages.

The worker that delivers runs records the experiment's id, so that a stage or a command can print an
address without importing MLflow, which takes seconds.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from atelier.core.files import write_text
from atelier.tracking import destination
from atelier.tracking.environment import dvc_process, private_folder
from atelier.tracking.outbox import execution_folder
from atelier.tracking.redact import redact_urls

DEFAULT_PORT = 5000
# MLflow opens an experiment on a page about language models, unless the address names another.
TRAINING = "workflowType=machine_learning"
# The experiment has a view with this key, whose table shows KID and the settings.
VIEW = "atelier"
_FILE = "run.json"


@dataclass(frozen=True)
class RunLocation:
    """Where a pipeline's run is.

    Attributes:
        store: the store, as :func:`atelier.tracking.destination.present` names it.
        experiment: id of the experiment.
        run: id of the run.
    """

    store: str
    experiment: str
    run: str

    def table(self, port: int = DEFAULT_PORT) -> str:
        """Return the address of the table of runs."""
        runs = f"#/experiments/{self.experiment}/runs"
        return f"{_server(self.store, port)}/{runs}?viewStateShareKey={VIEW}&{TRAINING}"

    def page(self, port: int = DEFAULT_PORT) -> str:
        """Return the address of the run's page."""
        run = f"#/experiments/{self.experiment}/runs/{self.run}"
        return f"{_server(self.store, port)}/{run}?{TRAINING}"

    @property
    def is_local(self) -> bool:
        """True if the page needs a server that `atelier ui` starts."""
        return not self.store.startswith(("http://", "https://"))


def record_links(root: Path, execution: Path, experiment: str, run: str) -> None:
    """Record where an execution's run is, for this execution and as the latest one."""
    text = json.dumps(asdict(RunLocation(destination.present(root), experiment, run)))
    for folder in (execution, private_folder(root)):
        with suppress(OSError):  # an address is not worth a failed delivery
            write_text(folder / _FILE, text)


def location_of(execution: Path) -> RunLocation | None:
    """Return where an execution's run is; ``None`` before its delivery has begun."""
    return _read(execution / _FILE)


def pipeline_location(root: Path) -> RunLocation | None:
    """Return where the run of the present pipeline is; ``None`` if it is not known."""
    process = dvc_process()
    return location_of(execution_folder(private_folder(root), process)) if process else None


def latest_location(root: Path) -> RunLocation | None:
    """Return where the latest run of the present store is; ``None`` if none is known."""
    found = _read(private_folder(root) / _FILE)
    return found if found and found.store == destination.present(root) else None


def _read(file: Path) -> RunLocation | None:
    with suppress(OSError, ValueError, TypeError):
        return RunLocation(**json.loads(file.read_text("utf-8")))
    return None


def _server(store: str, port: int) -> str:
    """Return the address of the server of a store, without a path's trailing slash."""
    if urlsplit(store).scheme in ("http", "https"):
        return redact_urls(store).rstrip("/")
    return f"http://127.0.0.1:{port}"
