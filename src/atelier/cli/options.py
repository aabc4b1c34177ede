"""Sentences about settings, said of the options that a user typed instead."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from atelier.errors import AtelierError


@contextmanager
def in_options(section: str, options: Mapping[str, str], file: str) -> Iterator[None]:
    """Name options where a sentence names settings, and the file of settings without an option.

    Args:
        section: of the settings.
        options: by the setting that each stands for.
        file: where the other settings are.
    """
    try:
        yield
    except AtelierError as error:
        raise AtelierError(_said(str(error), section, options, file)) from None


def _said(sentence: str, section: str, options: Mapping[str, str], file: str) -> str:
    from atelier.settings import Settings

    def option(found: re.Match[str]) -> str:
        named = options.get(found["name"])
        return f"{named}{found['part']}" if named else f"{found[0]} of {file}"

    told = sentence.removeprefix(f"atelier {section}: ")
    rule = told.removeprefix(f"{section}: ")
    if rule != told and told != sentence:
        # A rule between settings speaks of nothing else. A name of one word may be a common one.
        names = "|".join(name for name in options if "_" in name)
        return re.sub(rf"\b({names})\b", lambda found: options[found[0]], rule)
    # Elsewhere a sentence may name the user's files, which stay as they are.
    known = "|".join(getattr(Settings.model_fields[section].annotation, "model_fields", ()))
    name = rf"(?<![\w./\\-]){section}\.(?P<name>{known})(?P<part>(\.\d+)*)(?![\w/\\-]|\.\w)"
    return re.sub(name, option, told)
