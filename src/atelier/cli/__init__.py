"""The ``atelier`` command: what users type besides ``dvc`` and ``mlflow``.

A command is a function in the file of its kind, listed here in the order of ``--help``. It imports
what it needs inside itself, so that ``atelier --help`` does not wait for torch.
"""

import sys
from pathlib import Path

import typer

from atelier.cli import chain, generator, painting, runs
from atelier.cli.lists import Lists
from atelier.cli.places import PARAMS
from atelier.errors import AtelierError, lacks_memory

app = typer.Typer(
    help="Teach a GAN a folder of faces, and paint what it learned in an artist's style.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(chain.preset, chain.where),
    *(generator.generate, generator.export),
    painting.stylize,
    *(runs.which, runs.sync, runs.prune),
):
    app.command(cls=Lists)(command)


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
    if lacks_memory(error):
        return "the memory is too small for this; ask for less, or for something smaller."
    if not isinstance(error, OSError) or error.filename is None:
        raise error
    return f"{error.filename} cannot be read or written ({error.strerror})."
