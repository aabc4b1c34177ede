"""Where the results of a pipeline are, for the end of ``dvc repro`` and for ``atelier results``."""

import json
import os
from contextlib import suppress
from pathlib import Path

from atelier.core.progress import print_above_bars
from atelier.tracking.environment import repository_root
from atelier.tracking.links import latest_location
from atelier.tracking.store import has_store

LAST_STAGE = "report"
"""The stage that runs after all others, whenever one of them wrote new outputs."""

# Set by `make repro`, which runs `atelier results` after DVC's last message.
_PRINTED_LATER = "ATELIER_RESULTS_LATER"
_DESCRIPTIONS = {
    "report.html": "all results on one page; open it in a browser",
    "data/report.html": "the images of your data: rejected, alike, blurred or unlike the others",
    "styled/sheet.png": "the stylized images",
    "renders/training.gif": "an animation of the training",
    "metrics/": "the numbers; `dvc metrics show` prints them",
}


def results_lines(folder: Path = Path()) -> list[str]:
    """Return a line for each result that exists, and one about MLflow; empty without results."""
    found = {name: text for name, text in _DESCRIPTIONS.items() if (folder / name).exists()}
    if set(found) <= {"metrics/"}:
        return []
    if "metrics/" in found and (kid := _kid_text(folder)):
        found["metrics/"] = f"the numbers ({kid}); `dvc metrics show` prints them"
    width = max(map(len, found)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in found.items()]
    return lines + [f"  {line}" for line in _mlflow_lines(folder, width)]


def _kid_text(folder: Path) -> str:
    """Return the KID with its standard error; empty if it was not measured."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        metrics = json.loads((folder / "metrics/evaluate.json").read_text("utf-8"))
        return f"KID {metrics['kid']:g} ± {metrics['kid_error']:g}, lower is better"
    return ""


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


def _mlflow_lines(folder: Path, width: int) -> list[str]:
    """Return the address of MLflow's table of runs; empty if nothing was logged."""
    location, text = latest_location(folder), "MLflow, to compare runs"
    if location and not location.is_local:
        return [f"{text}: {location.table()}"]
    lines = [f"{'make ui':<{width}}{text}"] if has_store(folder) else []
    if lines and location:
        lines[0] += ", at"
        lines.append(f"{'':<{width}}{location.table()}")
    return lines
