"""Migration of a ``params.yaml`` with old names to today's names."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from atelier.core.errors import AtelierError
from atelier.core.files import write_text
from atelier.core.presets import base_values
from atelier.core.renamed_settings import RENAMED_KEYS, renamed_value
from atelier.core.setting_types import Section, section_model
from atelier.core.settings import Settings, check
from atelier.core.yaml_files import (
    as_separate_section,
    document_text,
    insert_after,
    parse_yaml,
    read_document,
    rename_key,
    set_value,
)

# Settings that no preset sets, and that files saved before they were added lack.
_RUNTIME = {"runtime": {"cudnn_benchmark": False}}


def migrate(params: Path, presets: Path) -> list[str]:
    """Rename old keys and values in ``params`` and add missing keys, keeping its comments.

    A place in ``train.start_from`` without a name gets one, because DVC needs a mapping. Added
    keys get the value of ``presets/base.yaml``, and those of ``runtime`` their default.

    Returns:
        One line per change, in the order of the changes.

    Raises:
        AtelierError: the file has an old key and its new one, or the result is not valid; the
            file is then unchanged.
    """
    document = read_document(params)
    changes = [
        *_rename_keys(document, params.name),
        *_rename_values(document),
        *_name_start(document),
        *_add_missing(document, base_values(presets) | _RUNTIME, Settings),
    ]
    text = document_text(document)
    check(parse_yaml(text), params.name)
    if changes:
        write_text(params, text)
    return changes


def _sections(document: CommentedMap) -> Iterator[tuple[str, CommentedMap]]:
    for name, section in document.items():
        if isinstance(section, CommentedMap):
            yield str(name), section


def _rename_keys(document: CommentedMap, source: str) -> Iterator[str]:
    for name, section in _sections(document):
        for old, (first, *others) in RENAMED_KEYS.get(name, {}).items():
            if old not in section:
                continue
            value = section[old]
            for new in (first, *others):
                if new in section:
                    raise AtelierError(
                        f"{source}: {name}.{old} was renamed to {name}.{new}, and the file has"
                        f" both; remove one of the two lines."
                    )
            rename_key(section, old, first)
            yield f"{name}.{old} -> {name}.{first}"
            for new in others:
                insert_after(section, first, new, value)
                yield f"{name}.{old} -> {name}.{new}"


def _rename_values(document: CommentedMap) -> Iterator[str]:
    for name, section in _sections(document):
        for key in section:
            new = renamed_value(name, key, section[key])
            if new is not None:
                yield f"{name}.{key}: {json.dumps(section[key])} -> {json.dumps(new)}"
                section[key] = new


def _name_start(document: CommentedMap) -> Iterator[str]:
    """Replace a place, or no value, in ``train.start_from`` by a mapping."""
    train = document.get("train")
    if not isinstance(train, CommentedMap) or "start_from" not in train:
        return
    place = train["start_from"]
    if place is None or isinstance(place, str):
        names = {"start": str(place)} if place else {}
        set_value(train, "start_from", names)
        yield f"train.start_from: {json.dumps(place)} -> {json.dumps(names)}"


def _add_missing(
    section: CommentedMap, values: Mapping[str, Any], model: type[Section], prefix: str = ""
) -> Iterator[str]:
    """Add the keys that a section lacks, each after the key that precedes it in ``values``."""
    previous = ""
    for key, value in values.items():
        nested = section_model(model, key)
        is_new = key not in section
        if is_new:
            insert_after(section, previous, key, CommentedMap() if nested else value)
            if not nested:
                yield f"{prefix}{key}: added with {json.dumps(value)}"
        if nested and isinstance(section[key], CommentedMap):
            yield from _add_missing(section[key], value, nested, f"{prefix}{key}.")
            if is_new and not prefix:
                as_separate_section(section[key])
        previous = key
