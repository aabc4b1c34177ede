"""Nested state of a job as a flat dict of tensors, which a safetensors file can hold."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def flatten(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Join the keys of nested dicts of tensors with dots.

    >>> list(flatten({"steps": steps, "adam": {0: {"exp_avg": moment}}}))
    ['steps', 'adam.0.exp_avg']
    """
    flat: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": tensor for name, tensor in flatten(value).items()}
        else:
            flat[str(key)] = value
    return flat


def section(flat: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors of the dict that was nested under ``name``, by their keys in it."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): tensor for k, tensor in flat.items() if k.startswith(prefix)}
