"""Values as MLflow takes them: flat names, finite numbers, text without secrets."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# Each pattern takes time in proportion to the text. A match can begin only at "://" or at the first
# character of a word, and no attempt reads past the place where the next one may begin, except for
# what it then consumes. Possessive repetitions (``++``) never give characters back.
_USER = re.compile(r"://[^\s/?#]*@")
_QUERY = re.compile(r"""(://[^\s?#]*+)(?:\?[^\s'"\])},]*+)?""")
_SECRET = re.compile(
    r"(?<!\w)(?=\w*?(?:token|secret|passw(?:or)?d|api_?key|credential))"
    r"(\w++['\"]?+\s*+[:=]\s*+)\S++",
    re.IGNORECASE,
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


def redact_urls(value: Any) -> str:
    """A value as text; addresses in it lose user, password and query, which may be secret."""
    return _QUERY.sub(r"\1", _USER.sub("://", str(value)))


def redact(text: str) -> str:
    """Text whose addresses are as :func:`redact_urls`, and whose ``token: ...`` and the like are gone."""
    return _SECRET.sub(r"\1***", redact_urls(text))


def cut_without_secrets(text: str, longest: int) -> str:
    """Return :func:`redact` of the first ``longest`` characters.

    A word that the cut divides is dropped, because half an address may show its password.
    """
    if len(text) <= longest:
        return redact(text)
    whole_words = text[:longest].rsplit(maxsplit=1)
    return redact(whole_words[0] if len(whole_words) == 2 else "") + "\n[cut]\n"


def count_text(number: int, one: str, more: str = "") -> str:
    """Return a number with a noun: "1 entry", "2 entries".

    Args:
        number: how many there are.
        one: the noun for one.
        more: for others; ``one`` with an s if empty.
    """
    return f"{number} {one if number == 1 else more or f'{one}s'}"
