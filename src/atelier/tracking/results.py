"""Where the results of a pipeline are, for the end of ``dvc repro`` and for ``atelier results``."""

import os
from pathlib import Path

from atelier.core.progress import print_above_bars
from atelier.tracking import destination
from atelier.tracking.environment import repository_root

LAST_STAGE = "report"
"""The stage that runs after all others, whenever one of them wrote new outputs."""

# Set by `make repro`, which runs `atelier results` after DVC's last message.
_PRINTED_LATER = "ATELIER_RESULTS_LATER"
_DESCRIPTIONS = {
    "report.html": "all results on one page; open it in a browser",
    "styled/sheet.png": "the stylized images",
    "renders/training.gif": "an animation of the training",
    "metrics/": "the numbers; `dvc metrics show` prints them",
}


def results_lines(folder: Path = Path()) -> list[str]:
    """Return a line for each result that exists, and one about MLflow; empty without results."""
    found = {name: text for name, text in _DESCRIPTIONS.items() if (folder / name).exists()}
    if set(found) <= {"metrics/"}:
        return []
    if command := _mlflow_command(folder):
        found[command] = "MLflow, to compare runs"
    width = max(map(len, found)) + 2
    return [f"  {name:<{width}}{text}" for name, text in found.items()]


def print_results() -> None:
    """Print where the results are, at the end of a pipeline."""
    if os.environ.get(_PRINTED_LATER):
        return
    if Path.cwd().resolve() != repository_root().resolve():
        # The files are in a temporary copy, which DVC removes.
        name = os.environ.get("DVC_EXP_NAME", "NAME")
        print_above_bars("", f"`dvc exp apply {name}` writes this experiment's results here.")
        return
    if lines := results_lines():
        print_above_bars("", "Results:", *lines)


def _mlflow_command(folder: Path) -> str:
    """Return the command that opens MLflow's page; empty if nothing was logged."""
    address = destination.present(folder)
    if address != destination.PROJECT:
        is_server = address.startswith(("http://", "https://"))
        return address if is_server else f"mlflow ui --backend-store-uri {address}"
    return "make ui" if (folder / "mlflow.db").exists() else ""
