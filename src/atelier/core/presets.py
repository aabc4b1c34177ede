"""Presets: named sets of values for ``params.yaml``.

A preset file holds ``about``, a one-line description, and ``values``, its differences from
``base.yaml``. That file holds every value of every stage: the plain DCGAN of the tutorials. With
``based_on``, a preset lists its differences from another preset instead. Applying a preset sets
every value of the stages, so that no value of an earlier preset remains. ``runtime`` and
``tracking`` describe the machine; no preset sets them.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from atelier.core.errors import AtelierError, did_you_mean
from atelier.core.files import write_text
from atelier.core.setting_types import Section, section_model
from atelier.core.settings import Settings, check, check_section
from atelier.core.yaml_files import (
    document_text,
    parse_yaml,
    read_document,
    read_yaml,
    set_value,
)

BASE = "base"  # holds every value; not a preset itself
DEFAULT = "sample"  # its values are those of params.yaml
STAGES = tuple(name for name in Settings.model_fields if name not in ("runtime", "tracking"))
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """A setting that a preset changed, with its dotted key."""

    key: str
    old: Any
    new: Any


def list_presets(folder: Path) -> dict[str, str]:
    """Return the description of every preset by name, the default preset first."""
    return {name: _read(folder / f"{name}.yaml")["about"] for name in _names(folder)}


def _names(folder: Path) -> list[str]:
    found = {path.stem for path in folder.glob("*.yaml")} - {BASE}
    return sorted(found, key=lambda name: (name != DEFAULT, name))


def apply_preset(name: str, folder: Path, params: Path) -> list[Change]:
    """Write a preset's values into ``params``, keeping its comments.

    Returns:
        The changes, in the file's order.

    Raises:
        AtelierError: there is no such preset, or one of its values is unknown or invalid; the
            file is then unchanged.
    """
    values = preset_values(name, folder)
    document = read_document(params)
    changes = list(_assign(document, values, Settings))
    text = document_text(document)
    check(parse_yaml(text), params.name)
    write_text(params, text)
    return changes


def preset_values(name: str, folder: Path) -> dict[str, Any]:
    """Return every value of a preset, by section.

    Raises:
        AtelierError: there is no such preset, or one of its values is unknown or invalid.
    """
    known = _names(folder)
    if name not in known:
        suggestion = did_you_mean(name, known)
        hint = f"{suggestion}?" if suggestion else f"; known are {', '.join(known)}."
        raise AtelierError(f"there is no preset {name}{hint}")
    values = _layer(name, folder, base_values(folder))
    unknown = sorted(set(values) - set(STAGES))
    if unknown:
        raise AtelierError(f"presets/{name}.yaml: {unknown[0]} is no stage's section.")
    for section in STAGES:
        check_section(section, values.get(section), f"presets/{name}.yaml")
    return values


def nearest_preset(values: Mapping[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the preset that differs in the fewest settings, and these settings.

    Settings of ``download`` count only between presets that are otherwise equally near, because
    own images change them with every preset.

    Args:
        values: of the stages, by section. Other sections are ignored.
        folder: of all presets.

    Returns:
        The preset's name, and by dotted key each value that differs from the preset's.

    Raises:
        AtelierError: there is no preset, or one cannot be read.
    """
    own = dict(dotted_settings({name: values[name] for name in STAGES if name in values}, Settings))
    base = base_values(folder)  # read once for all presets
    candidates: list[tuple[str, dict[str, Any]]] = []
    for name in _names(folder):
        preset = dict(dotted_settings(_layer(name, folder, base), Settings))
        candidates.append((name, {k: v for k, v in own.items() if preset.get(k, _ABSENT) != v}))
    if not candidates:
        raise AtelierError(f"there is no preset in {folder}.")
    return min(candidates, key=lambda candidate: _distance(candidate[1]))


def _distance(differing: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of differing settings: all but those of ``download``, and those."""
    downloads = sum(key.startswith("download.") for key in differing)
    return len(differing) - downloads, downloads


def dotted_settings(
    values: Mapping[str, Any], model: type[Section], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted key; a mapping that is a value stays one value."""
    for key, value in values.items():
        nested = section_model(model, key)
        if nested and isinstance(value, Mapping):
            yield from dotted_settings(value, nested, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def base_values(folder: Path) -> dict[str, Any]:
    """Return the values that presets start from, by section."""
    return deepcopy(_read(folder / f"{BASE}.yaml")["values"])


def _layer(
    name: str, folder: Path, base: Mapping[str, Any], derived: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a preset's values merged over those that it is based on.

    Args:
        name: of the preset.
        folder: of all presets.
        base: result of :func:`base_values`.
        derived: names of the presets that are based on it, directly or not.
    """
    if name == BASE:
        return deepcopy(dict(base))
    content = _read(folder / f"{name}.yaml")
    parent = content.get("based_on", BASE)
    if parent in (*derived, name):
        raise AtelierError(
            f"presets/{name}.yaml: based_on is {parent}, which is based on {name} itself; name"
            f" another preset, or remove based_on to start from {BASE}."
        )
    known = [BASE, *_names(folder)]
    if parent not in known:
        raise AtelierError(
            f"presets/{name}.yaml: based_on is {parent}, but there is no such preset; known are"
            f" {', '.join(known)}."
        )
    values = _layer(parent, folder, base, (*derived, name))
    _merge(values, content["values"], Settings)
    return values


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    required = {"about", "values"}
    if not isinstance(content, dict) or set(content) - {"based_on"} != required:
        raise AtelierError(
            f"presets/{path.name} needs the keys about and values; only based_on is another."
        )
    return content


def _merge(values: dict[str, Any], overrides: Mapping[str, Any], model: type[Section]) -> None:
    """Merge ``overrides`` into ``values`` by section; a mapping that is a value is replaced."""
    for key, override in overrides.items():
        nested = section_model(model, key)
        if nested and isinstance(override, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], override, nested)
        else:
            values[key] = override


def _assign(
    document: Any, values: Mapping[str, Any], model: type[Section], prefix: str = ""
) -> Iterator[Change]:
    """Set the values that differ, so that all other lines and every comment stay."""
    for key, value in values.items():
        nested = section_model(model, key)
        if nested:
            if not isinstance(document.get(key), dict):
                document[key] = CommentedMap()
            yield from _assign(document[key], value, nested, f"{prefix}{key}.")
        elif key not in document or document[key] != value:
            yield Change(f"{prefix}{key}", document.get(key), value)
            set_value(document, key, value)
