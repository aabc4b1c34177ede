"""Shared code of commands: files of the checkout, output files, names of options."""

import filecmp
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from atelier.core.errors import AtelierError, os_error_message

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
    """Replace names of settings by options in the message of an ``AtelierError``.

    Args:
        section: section of the settings.
        options: name of an option by setting.
        file: file of the settings without an option, which is added to their names.
    """
    try:
        yield
    except AtelierError as error:
        raise AtelierError(_with_options(str(error), section, options, file)) from None


def _with_options(message: str, section: str, options: Mapping[str, str], file: str) -> str:
    from atelier.core.settings import Settings

    def option(found: re.Match[str]) -> str:
        name = options.get(found["name"])
        return f"{name}{found['part']}" if name else f"{found[0]} of {file}"

    without_command = message.removeprefix(f"atelier {section}: ")
    rule = without_command.removeprefix(f"{section}: ")
    if rule != without_command and without_command != message:
        # A rule about several settings has them without the section's name. A setting's name
        # without an underscore may be an ordinary word.
        names = "|".join(name for name in options if "_" in name)
        return re.sub(rf"\b({names})\b", lambda found: options[found[0]], rule)
    # Other messages may contain names of files, which must not change.
    known = "|".join(getattr(Settings.model_fields[section].annotation, "model_fields", ()))
    name = rf"(?<![\w./\\-]){section}\.(?P<name>{known})(?P<part>(\.\d+)*)(?![\w/\\-]|\.\w)"
    return re.sub(name, option, without_command)
