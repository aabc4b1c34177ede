"""Ready-made sets of values for ``params.yaml``.

A preset file holds ``about``, a line on what it is, and ``values``, what differs from those of
``base.yaml``, which holds every value of every stage: the plain DCGAN of the tutorials. With
``based_on`` it differs from another preset instead. So a preset never leaves values of another
behind. ``runtime`` and ``tracking`` belong to the machine: no preset sets them.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq

from atelier.core.errors import AtelierError
from atelier.core.files import write_text
from atelier.core.settings import Section, Settings, check, check_section, nearest, read_yaml

BASE = "base"  # a file of every value, no preset of its own
DEFAULT = "sample"  # whose values params.yaml has
STAGES = tuple(name for name in Settings.model_fields if name not in ("runtime", "tracking"))


@dataclass(frozen=True)
class Change:
    """A setting that a preset changed, with its dotted key."""

    key: str
    old: Any
    new: Any


def list_presets(folder: Path) -> dict[str, str]:
    """Every preset's name and what it is, the embedded sample first."""
    found = {path.stem for path in folder.glob("*.yaml")} - {BASE}
    names = sorted(found, key=lambda name: (name != DEFAULT, name))
    return {name: _read(folder / f"{name}.yaml")["about"] for name in names}


def apply_preset(name: str, folder: Path, params: Path) -> list[Change]:
    """Write a preset's values into ``params``, keeping its comments.

    Returns:
        What changed, in the file's order.

    Raises:
        AtelierError: there is no such preset, or a value of it is unknown or off; the file
            is then untouched.
    """
    values = preset_values(name, folder)
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 4096
    if not isinstance(read_yaml(params), dict):
        raise AtelierError(f"{params.name} holds no settings; `git checkout {params.name}` does.")
    document = yaml.load(params.read_text("utf-8"))
    _align_comments(document)
    changes = list(_assign(document, values, Settings))
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    check(YAML(typ="safe", pure=True).load(buffer.getvalue()), params.name)
    write_text(params, buffer.getvalue())
    return changes


def preset_values(name: str, folder: Path) -> dict[str, Any]:
    """Every value of a preset, by section: those that it is based on, and over them its own.

    Raises:
        AtelierError: there is no such preset, or a value of it is unknown or off.
    """
    known = list_presets(folder)
    if name not in known:
        meant = nearest(name, known)
        told = f"{meant}?" if meant else f"; known are {', '.join(known)}."
        raise AtelierError(f"there is no preset {name}{told}")
    values = _layer(name, folder)
    strangers = sorted(set(values) - set(STAGES))
    if strangers:
        raise AtelierError(f"presets/{name}.yaml: {strangers[0]} is no stage's section.")
    for section in STAGES:
        check_section(section, values.get(section), f"presets/{name}.yaml")
    return values


def _layer(name: str, folder: Path, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Lay a preset's values over those of the one that it is based on.

    Args:
        name: of the preset.
        folder: of all presets.
        above: names of the presets that are based on it.
    """
    content = _read(folder / f"{name}.yaml")
    if name == BASE:
        return deepcopy(content["values"])
    below = content.get("based_on", BASE)
    if below in (*above, name):
        raise AtelierError(
            f"presets/{name}.yaml: based_on is {below}, which is based on {name} itself; name"
            f" another preset, or remove based_on to start from {BASE}."
        )
    known = [BASE, *list_presets(folder)]
    if below not in known:
        raise AtelierError(
            f"presets/{name}.yaml: based_on is {below}, but there is no such preset; known are"
            f" {', '.join(known)}."
        )
    values = _layer(below, folder, (*above, name))
    _merge(values, content["values"], Settings)
    return values


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    wanted = {"about", "values"}
    if not isinstance(content, dict) or set(content) - {"based_on"} != wanted:
        raise AtelierError(
            f"presets/{path.name} needs the keys about and values; only based_on is another."
        )
    return content


def _merge(values: dict[str, Any], others: Mapping[str, Any], model: type[Section]) -> None:
    """Lay ``others`` over ``values``, section by section; a mapping that is a value is replaced."""
    for key, other in others.items():
        inner = _section(model, key)
        if inner and isinstance(other, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], other, inner)
        else:
            values[key] = other


def _section(model: type[Section], key: str) -> type[Section] | None:
    """The model of a section's section; nothing for a plain value or an unknown key."""
    field = model.model_fields.get(key)
    inner = field.annotation if field else None
    return inner if isinstance(inner, type) and issubclass(inner, Section) else None


def _align_comments(document: CommentedMap) -> None:
    """Put comments back into their column, which a long value pushes to the right."""

    def tokens(section: CommentedMap) -> Iterator[Any]:
        for key, value in section.items():
            token = section.ca.items.get(key, [None] * 4)[2]
            if token is not None:
                yield token
            if isinstance(value, CommentedMap):
                yield from tokens(value)

    found = list(tokens(document))
    columns = Counter(token.start_mark.column for token in found)
    for token in found:
        token.start_mark.column = min(token.start_mark.column, columns.most_common(1)[0][0])


def _assign(
    document: Any, values: Mapping[str, Any], model: type[Section], prefix: str = ""
) -> Iterator[Change]:
    """Set what differs, section by section, so that every comment keeps its place."""
    for key, value in values.items():
        inner = _section(model, key)
        if inner:
            if not isinstance(document.get(key), dict):
                document[key] = CommentedMap()
            yield from _assign(document[key], value, inner, f"{prefix}{key}.")
        elif key not in document or document[key] != value:
            yield Change(f"{prefix}{key}", document.get(key), value)
            document[key] = _on_one_line(value, document.get(key))


def _on_one_line(value: Any, old: Any) -> Any:
    """Lists and mappings stay on their line, with the comment behind it."""
    if not isinstance(value, list | dict):
        return value
    shown = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
    if isinstance(old, CommentedBase):
        old.copy_attributes(shown)
    shown.fa.set_flow_style()
    return shown
