"""Unfinished work on disk: a stage that is killed goes on from where it was.

Tensors are kept as safetensors, which hold nothing that executes, with a SHA-256 behind them.
Every file is written beside its place and moved there, so that a kill at any moment leaves
the one before.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from atelier.files import replacing

_STATES_KEPT = 2


class Checkpoints:
    """A folder of checkpoints of one piece of work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int, state: Mapping[str, Tensor]) -> None:
        """Save the state of the work; the last two are kept.

        Args:
            number: rises with the work, such as steps done.
            state: tensors by name, on any device.
        """
        self.keep(f"state-{number:012d}", state)
        for old in self._states()[_STATES_KEPT:]:
            old.unlink(missing_ok=True)

    def latest(self) -> dict[str, Tensor] | None:
        """The newest state that is whole; a damaged one is passed over."""
        return next((s for s in (_read(path) for path in self._states()) if s is not None), None)

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished part of the work, which no later state repeats."""
        content = save({key: tensor.contiguous().cpu() for key, tensor in tensors.items()})
        with replacing(self._path(name)) as temporary:
            temporary.write_bytes(content + hashlib.sha256(content).digest())

    def kept(self, name: str) -> dict[str, Tensor] | None:
        """A part that was kept; ``None`` where it is missing or damaged."""
        return _read(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _states(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("state-*.safetensors"), reverse=True)


def _read(path: Path) -> dict[str, Tensor] | None:
    with suppress(OSError, SafetensorError):
        content = path.read_bytes()
        body, digest = content[:-32], content[-32:]
        if hashlib.sha256(body).digest() == digest:
            tensors: dict[str, Tensor] = load(body)
            return tensors
    return None
