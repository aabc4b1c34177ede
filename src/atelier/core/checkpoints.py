"""Unfinished work on disk: a stage that is killed goes on from where it was.

Tensors are kept as safetensors, which hold nothing that executes, with a SHA-256 behind them.
Every file is written beside its place and moved there, so that a kill at any moment leaves
the one before.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from atelier.core.files import atomic_write

_STATES_KEPT = 2
_EPOCH_END = "-milestone"


class Checkpoints:
    """A folder of checkpoints of one piece of work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int, state: Mapping[str, Tensor], milestone: bool = False) -> None:
        """Save the state of the work; the last two are kept, and the last milestone.

        Args:
            number: rises with the work, such as steps done.
            state: tensors by name, on any device.
            milestone: whether :meth:`back` may go back to it.
        """
        self.save_part(f"state-{number:012d}{_EPOCH_END if milestone else ''}", state)
        milestones = [path for path in self._states() if _is_epoch_end(path)]
        for old in set(self._states()[_STATES_KEPT:]) - set(milestones[:1]):
            old.unlink(missing_ok=True)

    def latest(self) -> dict[str, Tensor] | None:
        """The newest state that is whole; a damaged one is passed over."""
        return _latest_readable(self._states())

    def roll_back(self) -> dict[str, Tensor] | None:
        """The last milestone that is whole; states after it are removed."""
        later = list(itertools.takewhile(lambda path: not _is_epoch_end(path), self._states()))
        for path in later:
            path.unlink(missing_ok=True)
        return _latest_readable([path for path in self._states() if _is_epoch_end(path)])

    def save_part(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep a finished part of the work, which no later state repeats."""
        content = save({key: tensor.contiguous().cpu() for key, tensor in tensors.items()})
        with atomic_write(self._path(name)) as temporary:
            temporary.write_bytes(content + hashlib.sha256(content).digest())

    def load_part(self, name: str) -> dict[str, Tensor] | None:
        """A part that was kept; ``None`` where it is missing or damaged."""
        return _read(self._path(name))

    def list_parts(self, begin: str) -> list[str]:
        """The names of finished parts that begin so, in order."""
        return sorted(path.stem for path in self.folder.glob(f"{begin}*.safetensors"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _states(self) -> list[Path]:
        """Newest first; of one moment's, the milestone first."""
        found = self.folder.glob("state-*.safetensors")
        return sorted(found, key=lambda path: path.stem, reverse=True)


def _is_epoch_end(path: Path) -> bool:
    return path.stem.endswith(_EPOCH_END)


def _latest_readable(paths: Iterable[Path]) -> dict[str, Tensor] | None:
    return next((state for state in map(_read, paths) if state is not None), None)


def _read(path: Path) -> dict[str, Tensor] | None:
    with suppress(OSError, SafetensorError):
        content = path.read_bytes()
        body, digest = content[:-32], content[-32:]
        if hashlib.sha256(body).digest() == digest:
            tensors: dict[str, Tensor] = load(body)
            return tensors
    return None
