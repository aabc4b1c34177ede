"""Flattening of nested state of any names and depths."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from atelier.core.state import flatten, section

NAMES = st.text("abc_", min_size=1, max_size=3)
TENSORS = st.integers(0, 9).map(torch.tensor)
NESTED = st.dictionaries(
    NAMES, st.recursive(TENSORS, lambda values: st.dictionaries(NAMES, values))
)


def test_keys_are_joined_by_dots() -> None:
    a, b, c = torch.zeros(1), torch.ones(2), torch.ones(3)
    flat = flatten({"a": a, "b": {0: b, "weight.x": c, "empty": {}}})
    assert flat == {"a": a, "b.0": b, "b.weight.x": c}
    assert section(flat, "b") == {"0": b, "weight.x": c}
    assert section(flat, "b.weight") == {"x": c}
    assert section(flat, "a") == section(flat, "none") == {}


@given(NESTED)
def test_sections_equal_flattened_values(state: dict[str, Any]) -> None:
    flat = flatten(state)
    assert all(isinstance(tensor, torch.Tensor) for tensor in flat.values())
    for name, value in state.items():
        if isinstance(value, dict):
            assert section(flat, name) == flatten(value)
        else:
            assert flat[name] is value
