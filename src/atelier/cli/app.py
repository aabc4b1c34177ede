"""Entry point of the ``atelier`` command and the parsing of its options."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from atelier.cli import (
    compare,
    data_diff,
    explore,
    generate,
    invert,
    live,
    preset,
    runs,
    search,
    seeds,
    stylize,
    ui,
)
from atelier.cli.checkout import PARAMS
from atelier.core.errors import AtelierError, is_out_of_memory, os_error_message

_RENAMED_COMMANDS = {"where": "results", "which": "lineage", "prune": "gc"}
_RENAMED_OPTIONS = {
    "--files": "--separate-files",
    "--film": "--gif",
    "--from": "--model",
    "--keep-colors": "--preserve-color",
    "--mask": "--style-mask",
    "--mix": "--style-weights",
    "--tile": "--tile-pixels",
}


class _Commands(TyperGroup):
    """All commands; one that was renamed is rejected with its new name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the arguments begin with.

        Raises:
            AtelierError: it has another name now.
        """
        if args and args[0] in _RENAMED_COMMANDS:
            old, new = args[0], _RENAMED_COMMANDS[args[0]]
            raise AtelierError(f"`atelier {old}` is named `atelier {new}` now; use that name.")
        return super().resolve_command(ctx, args)


class _Command(TyperCommand):
    """A command; an option that was renamed is rejected with its new name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments and options.

        Raises:
            AtelierError: an option has another name now.
        """
        for arg in args:
            old = arg.partition("=")[0]
            if old in _RENAMED_OPTIONS:
                raise AtelierError(f"{old} is named {_RENAMED_OPTIONS[old]} now; use that name.")
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    help="Train a GAN on a folder of faces, and stylize the faces that it generates.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    *(preset.preset, preset.migrate, preset.results),
    *(generate.generate, generate.export),
    invert.invert,
    stylize.stylize,
    search.search,
    seeds.seeds,
    *(compare.compare, data_diff.data_diff, explore.explore),
    *(ui.ui, runs.lineage, runs.sync, runs.gc),
    *(live.live, live.stop),
):
    app.command(cls=_Command)(command)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"atelier {version('atelier')}")
        raise typer.Exit


@app.callback()
def _require_params(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", help="show the version", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Work in the folder that contains params.yaml."""
    if not PARAMS.exists():
        raise AtelierError(
            f"there is no params.yaml in {Path.cwd()}; go to the folder of your Atelier checkout."
        )


def main() -> None:
    """Run the command; print a user's mistake as one sentence and exit with code 1."""
    try:
        app()
    except Exception as error:
        print(f"ERROR: {_message(error)}", file=sys.stderr)
        sys.exit(1)


def _message(error: Exception) -> str:
    """Return a sentence for the user; an error of the program itself is raised again."""
    if isinstance(error, AtelierError):
        return str(error)
    if is_out_of_memory(error):
        return "the memory is too small for this; request fewer or smaller images."
    if not isinstance(error, OSError) or error.filename is None:
        raise error
    known = os_error_message(error)
    return known or f"{error.filename} cannot be read or written ({error.strerror})."


if __name__ == "__main__":
    main()
