"""Errors of settings as one sentence for the user."""

import difflib
import reprlib
from string import Formatter
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from atelier.core.errors import (
    AtelierError,
    SettingError,
    SettingName,
    did_you_mean,
    printable,
    shorten,
)
from atelier.core.renamed_settings import renamed_key, renamed_value

Location = tuple[int | str, ...]

_MIGRATED = "params.yaml"  # the file that `atelier migrate` updates


class RuleError(SettingError, ValueError):
    """A contradiction between settings of a section, raised by its validator.

    A field of the template without a value is the name of a setting.
    """

    def __init__(self, template: str, **values: object) -> None:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field}
        super().__init__(template, **{field: SettingName(field) for field in fields} | values)


def validation_error(
    error: ValidationError, source: str, settings: type[BaseModel], section: tuple[str, ...] = ()
) -> AtelierError:
    """Describe the most telling error in one sentence, and count the others.

    Args:
        error: raised by a model of settings.
        source: the name of the file that holds the values; empty for the options of a command.
        settings: the model of all settings, which is searched for similar keys.
        section: the section that was validated; empty if all settings were.

    Returns:
        An error that names the file and the settings in it, or a ``SettingError`` without a file.
    """
    errors = [((*section, *details["loc"]), details) for details in error.errors(include_url=False)]
    new_keys: set[Location] = {
        (location[0], new)
        for location, _ in errors
        if len(location) == 2
        for new in renamed_key(str(location[0]), str(location[1]))
    }
    missing = {location for location, details in errors if details["type"] == "missing"}
    new_keys |= {
        (*location[:-1], meant)
        for location, details in errors
        if details["type"] in ("extra_forbidden", "invalid_key")
        for meant in difflib.get_close_matches(
            str(location[-1]), [str(m[-1]) for m in missing if m[:-1] == location[:-1]], 1, 0.5
        )
    }
    described = [
        (_rank(details["type"], renamed), renamed, details)
        for location, details in errors
        # A key under an old or a misspelled name is also a missing key: it counts once.
        if details["type"] != "missing" or location not in new_keys
        for renamed in [_renamed(location, details["input"], source)]
    ]
    _, renamed, details = min(described, key=lambda entry: entry[0])
    # pydantic adds [key] to the location if the key of a mapping is invalid.
    location = (*section, *(part for part in details["loc"] if part != "[key]"))
    found = (
        SettingError("{text}", text=renamed) if renamed else _describe(details, location, settings)
    )
    more = f" (and {len(described) - 1} more to fix)" if len(described) > 1 else ""
    if not source:
        return SettingError(f"{found.template}{more}.", **found.values)
    # A rule names settings without their section.
    place = f"{source}: {_dotted(location)}" if isinstance(found, RuleError) else source
    return AtelierError(f"{place}: {found}{more}.")


def _rank(kind: str, renamed: str) -> int:
    """Order errors: a renamed or misspelled key is also a missing one, and explains it."""
    return 0 if renamed else 2 if kind == "missing" else 1


def _renamed(location: Location, value: Any, source: str) -> str:
    """Return the new name of an old key or value in a sentence; empty if neither is old."""
    if len(location) != 2:
        return ""
    section, key = map(str, location)
    advice = "rename it"
    if source == _MIGRATED:
        advice += ", or run `atelier migrate` to update params.yaml"
    if new_keys := renamed_key(section, key):
        names = " and ".join(f"{section}.{new}" for new in new_keys)
        return f"{section}.{key} was renamed to {names}; {advice}"
    if new_value := renamed_value(section, key, value):
        return f"{section}.{key}: {value} was renamed to {new_value}; {advice}"
    return ""


def _describe(details: Any, location: Location, settings: type[BaseModel]) -> SettingError:
    """Describe one error at a location of the settings."""
    reason = details.get("ctx", {}).get("error")
    if isinstance(reason, RuleError):
        return reason
    if reason and not location:
        return SettingError("{reason}", reason=reason)
    return SettingError(
        "{setting}{item}{problem}",
        setting=SettingName(_dotted(location[:2]) or "the file"),
        item="".join(f".{printable(part)}" for part in location[2:]),
        problem=f": {reason}" if reason else _problem(details, location, settings),
    )


def _problem(details: Any, location: Location, settings: type[BaseModel]) -> str:
    """Return the part of a sentence that follows the name of the setting."""
    kind = details["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        return f" is not a setting{_similar_key(location, settings)}"
    if kind == "missing":
        return f" is missing; {_how_to_add(location)}"
    value = _format_value(details["input"])
    if kind == "string_pattern_mismatch":
        return f" is {value}, but it should be {_field_description(location, settings)}"
    # pydantic's subject is the type ("Input should", "List should"); here it is the key.
    return f" is {value}, but it should {details['msg'].partition(' should ')[2]}"


def _dotted(location: Location) -> str:
    return ".".join(map(printable, location))


def _how_to_add(location: Location) -> str:
    if location[0] in ("runtime", "tracking"):
        return "no preset sets it, so copy it from the params.yaml of a new clone"
    return "`atelier migrate` adds it, and `atelier preset sample` writes every setting of a stage"


def _format_value(value: Any) -> str:
    """Return a value in at most 60 characters; YAML aliases can make it endless."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 2, 60, 60, 60
    return shorten(short.repr(value), 60)


def _similar_key(location: Location, settings: type[BaseModel]) -> str:
    """Suggest the same key of another section, or else a similar key of the same one."""
    unknown = str(location[-1])
    for section in settings.model_fields:
        if unknown in _keys_at((section,), settings):
            return f"; did you mean {section}.{unknown}"
    siblings = _keys_at(location[:-1], settings)
    if not difflib.get_close_matches(unknown, siblings, cutoff=0.5):
        return f"; known here are {', '.join(siblings)}"
    prefix = "".join(f"{printable(part)}." for part in location[:-1])
    return did_you_mean(f"{prefix}{unknown}", [f"{prefix}{key}" for key in siblings])


def _field_description(location: Location, settings: type[BaseModel]) -> str:
    model: Any = settings
    for part in location[:-1]:
        model = getattr(model, "model_fields", {}).get(part, model)
        model = getattr(model, "annotation", model)
    field = getattr(model, "model_fields", {}).get(location[-1])
    return (field and field.description) or "a plain name of letters, digits, - and _"


def _keys_at(location: Location, settings: type[BaseModel]) -> list[str]:
    """Return the known keys of a section; empty for a plain value."""
    model: Any = settings
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = field.annotation
        if not isinstance(model, type) and get_args(model):
            return []
    return list(getattr(model, "model_fields", {}))
