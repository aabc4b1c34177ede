"""Values as MLflow takes them: flat names, finite numbers, text without secrets."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import numpy as np


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Flatten nested values to ``a.b: number``; what is no finite number is left out."""
    return {
        key: float(value)
        for key, value in flat(values).items()
        if isinstance(value, (int, float, np.number))
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to ``a.b: value``; an empty mapping stays a value."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def shown(value: Any) -> str:
    """A value as text; an address without user, password and query, which may be secret."""
    text = str(value)
    if "://" not in text:
        return text
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
