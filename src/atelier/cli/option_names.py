"""Names of settings in messages, replaced by the options that set them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from atelier.core.errors import AtelierError


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
