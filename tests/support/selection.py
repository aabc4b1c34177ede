"""Selection of cases for `make test`; `make test-all` runs all."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_after(count: int, cases: Iterable[Any]) -> list[Any]:
    """Mark the cases after the first ``count`` as slow; a tuple has one value per argument."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=[pytest.mark.slow] * (number >= count),
        )
        for number, case in enumerate(cases)
    ]
