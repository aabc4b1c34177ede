"""Files of a checkout that several commands read, and how commands write theirs."""

import filecmp
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from atelier.core.errors import AtelierError

PARAMS = Path("params.yaml")
PRESETS = Path("presets")


def require_force(targets: Sequence[Path], force: bool) -> None:
    """Refuse to replace anything unasked."""
    there = [target for target in targets if target.exists()]
    if there and not force:
        more = len(there) - 1
        are, them = (f" and {more} more are", "them") if more else (" is", "it")
        raise AtelierError(
            f"{there[0]}{are} there already; choose another place, or give --force to replace"
            f" {them}."
        )


def print_comparison(targets: Sequence[Path], force: bool) -> None:
    """Say before the work what :func:`keep_if_equal` will compare after it; refuse a folder."""
    there = [target for target in targets if target.exists()]
    for target in there:
        if target.is_dir():
            raise AtelierError(f"{target} is a folder; choose another place.")
    if there and not force:
        more = len(there) - 1
        are, them = (f" and {more} more are", "them") if more else (" is", "it")
        typer.echo(
            f"{there[0]}{are} there already: what is made now is compared with {them}, and other"
            f" content is refused; --force replaces {them}.",
            err=True,
        )


def keep_if_equal(target: Path, new: Path, force: bool) -> None:
    """Raise if ``target`` exists with other content than the new file.

    So a command that is repeated succeeds, and never replaces anything else.
    """
    if target.is_dir() or (target.exists() and not force and not _same(target, new)):
        raise AtelierError(
            f"{target} is there already, with other content; choose another place, or give"
            " --force to replace it."
        )


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and filecmp.cmp(one, other, shallow=False)


@contextmanager
def write_output(target: Path) -> Iterator[None]:
    """Say in a sentence that a place cannot be written."""
    try:
        yield
    except OSError as error:
        raise AtelierError(f"{target} cannot be written ({error.strerror or error}).") from None
