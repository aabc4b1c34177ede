"""Commands about the chain as a whole: which values it runs with, and where its results are."""

import json
from pathlib import Path
from typing import Annotated

import typer

from atelier.cli.checkout import PARAMS, PRESETS


def preset(
    name: Annotated[str, typer.Argument(help="the preset to write into params.yaml")] = "",
    show: Annotated[bool, typer.Option("--list", help="say what each preset is")] = False,
) -> None:
    """Write a ready-made set of values into params.yaml, keeping its comments."""
    from atelier.core.presets import apply_preset, list_presets

    if show or not name:
        for known, about in list_presets(PRESETS).items():
            typer.echo(f"{known:<14}{about}")
        return
    changes = apply_preset(name, PRESETS, PARAMS)
    for change in changes:
        typer.echo(f"{change.key}: {json.dumps(change.old)} -> {json.dumps(change.new)}")
    typer.echo("Now type: dvc repro" if changes else f"params.yaml is {name} already.")


def migrate() -> None:
    """Rename old settings in params.yaml and add missing ones, keeping its comments."""
    from atelier.core.migration import migrate as migrate_file

    changes = migrate_file(PARAMS, PRESETS)
    for change in changes:
        typer.echo(change)
    typer.echo("Now type: dvc repro" if changes else "params.yaml is up to date already.")


def results() -> None:
    """Say where the chain's results are, and what to type next."""
    shown = {
        "renders/report.html": "the report page: open it in a browser",
        "renders/montages/": "a montage of every epoch",
        "renders/training.gif": "the film of the training",
        "styled/": "painted faces",
        "metrics/": "numbers; `dvc metrics show` prints them",
    }
    found = {place: what for place, what in shown.items() if Path(place).exists()}
    if set(found) <= {"metrics/"}:
        typer.echo("Nothing is rendered or painted yet; type: dvc repro")
        return
    for place, what in found.items():
        typer.echo(f"  {place:<22}{what}")
    typer.echo("Compare runs in MLflow:  make ui")
