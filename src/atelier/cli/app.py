"""Options that take several values one after another."""

import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand

from atelier.cli import generate, preset, runs, stylize
from atelier.cli.checkout import PARAMS
from atelier.core.errors import AtelierError, is_out_of_memory


class ListOptions(TyperCommand):
    """A command whose options of several values take them one after another: ``--style A B``.

    Such an option takes all that follows, up to the next option: arguments come before it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say the option again before each of its values, as click wants it.

        Raises:
            AtelierError: such an option took all, so that no argument is left.
        """
        several = {name for param in self.params if param.multiple for name in param.opts}
        spread: list[str] = []
        option = ""
        for arg in args:
            if arg.startswith("-"):
                option = arg if arg in several else ""
                spread += [] if option else [arg]
            else:
                spread += [option, arg] if option else [arg]
        try:
            return super().parse_args(ctx, spread)
        except typer.BadParameter as trouble:
            greedy = [arg for arg in args if arg in several]
            if not greedy or not isinstance(trouble.param, TyperArgument):
                raise
            left, *lists, _ = self.collect_usage_pieces(ctx)
            raise AtelierError(
                f"{greedy[0]} takes all that follows it, so that no {left.rstrip('.')} is left;"
                f" type them first: {' '.join([ctx.command_path, left, *lists])}."
            ) from None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What the line of usage lists: arguments first where an option would take them."""
        lists = [
            f"{param.opts[0]} {param.metavar}" for param in self.params if _list_options(param)
        ]
        if not lists:
            return super().collect_usage_pieces(ctx)
        arguments = [p.metavar or "" for p in self.params if isinstance(p, TyperArgument)]
        return [*arguments, *lists, self.options_metavar or ""]


def _list_options(param: Any) -> bool:
    """Whether this is an option of several values without which there is no command."""
    return bool(param.multiple and param.required)


app = typer.Typer(
    help="Teach a GAN a folder of faces, and paint what it learned in an artist's style.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(preset.preset, preset.migrate, preset.results),
    *(generate.generate, generate.export),
    stylize.stylize,
    *(runs.lineage, runs.sync, runs.gc),
):
    app.command(cls=ListOptions)(command)


@app.callback()
def _here() -> None:
    """Work in the folder that holds params.yaml."""
    if not PARAMS.exists():
        raise AtelierError(
            f"there is no params.yaml in {Path.cwd()}; go to the folder of your Atelier checkout."
        )


def main() -> None:
    """Run the command; a user's mistake ends in one sentence and exit code 1."""
    try:
        app()
    except Exception as error:
        print(f"ERROR: {_sentence(error)}", file=sys.stderr)
        sys.exit(1)


def _sentence(error: Exception) -> str:
    """What went wrong, for the user; a fault of the program is raised again."""
    if isinstance(error, AtelierError):
        return str(error)
    if is_out_of_memory(error):
        return "the memory is too small for this; ask for less, or for something smaller."
    if not isinstance(error, OSError) or error.filename is None:
        raise error
    return f"{error.filename} cannot be read or written ({error.strerror})."
