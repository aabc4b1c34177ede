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
    def option(found: re.Match[str]) -> str:
        return options.get(found[1], f"{found[0]} of {file}")

    sentence = sentence.removeprefix(f"atelier {section}: ").removeprefix(f"{section}: ")
    sentence = re.sub(rf"\b{section}\.([a-z_]+[a-z])", option, sentence)
    # A name of one word may be a word of the sentence.
    names = [name for name in options if "_" in name]
    return re.sub(rf"\b({'|'.join(names)})\b", lambda found: options[found[1]], sentence)
