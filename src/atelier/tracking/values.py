"""Values as MLflow takes them: flat names, finite numbers, text without secrets."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_ADDRESS = re.compile(
    r"""([a-z][a-z0-9+.-]*://)(?:[^\s/?#]*@)?([^\s?#]*)(?:\?[^\s'"\])},]*)?""", re.IGNORECASE
)
_SECRET = re.compile(
    r"(\w*(?:token|secret|passw(?:or)?d|api_?key|credential)\w*['\"]?\s*[:=]\s*)\S+", re.IGNORECASE
)


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
    """A value as text; addresses in it lose user, password and query, which may be secret."""
    return _ADDRESS.sub(r"\1\2", str(value))


def without_secrets(text: str) -> str:
    """Text whose addresses are as :func:`shown`, and whose ``token: ...`` and the like are gone."""
    return _SECRET.sub(r"\1***", shown(text))
