"""Removal of secrets from text, and flattening of nested values."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# Each pattern takes linear time. A match can start only at "://" or at the first character of a
# word, and an attempt reads past the next possible start only for characters that it consumes.
# Possessive repetitions (``++``) do not backtrack.
_USER = re.compile(r"://[^\s/?#]*@")
_QUERY = re.compile(r"""(://[^\s?#]*+)(?:\?[^\s'"\])},]*+)?""")
_SECRET = re.compile(
    r"(?<!\w)(?=\w*?(?:token|secret|passw(?:or)?d|api_?key|credential))"
    r"(\w++['\"]?+\s*+[:=]\s*+)\S++",
    re.IGNORECASE,
)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Flatten nested values to ``a.b: number``; values other than finite numbers are left out."""
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


def redact_urls(value: Any) -> str:
    """Return a value as text without users, passwords and queries in URLs."""
    return _QUERY.sub(r"\1", _USER.sub("://", str(value)))


def redact_values(values: Any) -> Any:
    """Return nested values with the text of :func:`redact_urls` in place of every string."""
    if isinstance(values, Mapping):
        return {key: redact_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [redact_values(value) for value in values]
    return redact_urls(values) if isinstance(values, str) else values


def redact(text: str) -> str:
    """Return the text of :func:`redact_urls` with values such as that of ``token: ...`` masked."""
    return _SECRET.sub(r"\1***", redact_urls(text))


def cut_without_secrets(text: str, longest: int) -> str:
    """Return :func:`redact` of the first ``longest`` characters.

    A word that the cut divides is removed, because a part of a URL may reveal its password.
    """
    if len(text) <= longest:
        return redact(text)
    whole_words = text[:longest].rsplit(maxsplit=1)
    return redact(whole_words[0] if len(whole_words) == 2 else "") + "\n[cut]\n"
