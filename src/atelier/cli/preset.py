"""Commands about the pipeline: apply a preset, list the results."""

import json
from typing import Annotated

import typer

from atelier.cli.checkout import PARAMS, PRESETS


def preset(
    name: Annotated[str, typer.Argument(help="the preset to write into params.yaml")] = "",
    *,
    list_all: Annotated[bool, typer.Option("--list", help="list all presets")] = False,
) -> None:
    """Write a preset's values into params.yaml; comments stay.

    Example: atelier preset celeba64
    """
    from atelier.core.presets import apply_preset, list_presets

    if list_all or not name:
        for preset_name, description in list_presets(PRESETS).items():
            typer.echo(f"{preset_name:<14}{description}")
        return
    changes = apply_preset(name, PRESETS, PARAMS)
    for change in changes:
        typer.echo(f"{change.key}: {json.dumps(change.old)} -> {json.dumps(change.new)}")
    typer.echo("Now type: dvc repro" if changes else f"params.yaml is {name} already.")


def migrate() -> None:
    """Rename old settings in params.yaml and add missing ones, keeping its comments.

    Example: atelier migrate
    """
    from atelier.core.migration import migrate as migrate_file

    changes = migrate_file(PARAMS, PRESETS)
    for change in changes:
        typer.echo(change)
    typer.echo("Now type: dvc repro" if changes else "params.yaml is up to date already.")


def results() -> None:
    """List the pipeline's results and the next command.

    Example: atelier results
    """
    from atelier.tracking.results import results_lines

    lines = results_lines() or ["There are no rendered or stylized images yet; type: dvc repro"]
    typer.echo("\n".join(lines))
