"""Shared code of commands: files of the checkout, output files, names of options."""

import filecmp
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from atelier.core.errors import AtelierError, SettingError, SettingName, os_error_message

PARAMS = Path("params.yaml")
PRESETS = Path("presets")


def require_force(targets: Sequence[Path], force: bool) -> None:
    """Raise if a target exists, unless ``force`` is set."""
    existing = [target for target in targets if target.exists()]
    if existing and not force:
        names, pronoun = _names(existing)
        raise AtelierError(
            f"{names} there already; choose another place, or give --force to replace {pronoun}."
        )


def print_comparison(targets: Sequence[Path], force: bool) -> None:
    """Announce which existing files :func:`keep_if_equal` will compare after the work.

    Raises:
        AtelierError: a target is a folder.
    """
    existing = [target for target in targets if target.exists()]
    for target in existing:
        if target.is_dir():
            raise AtelierError(f"{target} is a folder; choose another place.")
    if existing and not force:
        names, pronoun = _names(existing)
        typer.echo(
            f"{names} there already: the new content is compared with {pronoun}, and other content"
            f" is rejected; --force replaces {pronoun}.",
            err=True,
        )


def _names(existing: Sequence[Path]) -> tuple[str, str]:
    """Return a subject with its verb for existing files, and a pronoun."""
    more = len(existing) - 1
    return (f"{existing[0]} and {more} more are", "them") if more else (f"{existing[0]} is", "it")


def keep_if_equal(target: Path, new: Path, force: bool) -> None:
    """Raise if ``target`` exists with other content than the file ``new``.

    A repeated command succeeds, and no command replaces another file without ``--force``.
    """
    if target.is_dir() or (target.exists() and not force and not _is_equal(target, new)):
        raise AtelierError(
            f"{target} is there already, with other content; choose another place, or give"
            " --force to replace it."
        )


def _is_equal(target: Path, new: Path) -> bool:
    return target.is_file() and filecmp.cmp(target, new, shallow=False)


@contextmanager
def write_output(target: Path) -> Iterator[None]:
    """Convert an ``OSError`` of the body, which writes ``target``, to an ``AtelierError``."""
    try:
        yield
    except OSError as error:
        message = os_error_message(error, target)
        raise AtelierError(
            message or f"{target} cannot be written ({error.strerror or error})."
        ) from None


@contextmanager
def name_options(section: str, options: Mapping[str, str], file: str) -> Iterator[None]:
    """Replace names of settings by options in the message of a ``SettingError``.

    Args:
        section: section of the settings.
        options: name of an option by setting.
        file: file of the settings without an option, which is added to their names.
    """

    def name(setting: SettingName) -> str:
        own_section, _, key = setting.rpartition(".")
        if own_section == section:
            return options.get(key, f"{setting} of {file}")
        return setting if own_section else options.get(key, key)

    try:
        yield
    except SettingError as error:
        raise AtelierError(error.renamed(name)) from None


def size_text(page: str) -> str:
    """Return the size of a page in words, e.g. ``2.5 MB``."""
    size = len(page.encode()) / 1e6
    return f"{size:.1f} MB" if size >= 0.95 else f"{1000 * size:.0f} KB"
