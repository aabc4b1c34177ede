"""Checkpoints on disk, from which a killed stage resumes.

Tensors are stored as safetensors, which cannot contain code, followed by a SHA-256. Every file is
written under a temporary name and renamed, so that a kill leaves the previous file intact.
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

_MAX_STATES = 2
_EPOCH_END = "-milestone"


class Checkpoints:
    """A folder of checkpoints of one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, number: int, state: Mapping[str, Tensor], epoch_end: bool = False) -> None:
        """Save a state; all but the last two states and the last end of an epoch are deleted.

        Args:
            number: orders the states, for example the number of steps done.
            state: tensors by name, on any device.
            epoch_end: if true, :meth:`roll_back` may return to this state.
        """
        self.save_part(f"state-{number:012d}{_EPOCH_END if epoch_end else ''}", state)
        epoch_ends = [path for path in self._states() if _is_epoch_end(path)]
        for old in set(self._states()[_MAX_STATES:]) - set(epoch_ends[:1]):
            old.unlink(missing_ok=True)

    def latest(self) -> dict[str, Tensor] | None:
        """Return the newest undamaged state, or ``None``."""
        return _latest_readable(self._states())

    def latest_epoch_end(self) -> dict[str, Tensor] | None:
        """Return the last undamaged end of an epoch, or ``None``."""
        return _latest_readable([path for path in self._states() if _is_epoch_end(path)])

    def roll_back(self) -> dict[str, Tensor] | None:
        """Return the last undamaged end of an epoch, or ``None``; delete all later states."""
        for path in itertools.takewhile(lambda path: not _is_epoch_end(path), self._states()):
            path.unlink(missing_ok=True)
        return self.latest_epoch_end()

    def delete_older(self) -> None:
        """Delete all states but the newest one and the newest end of an epoch."""
        states = self._states()
        epoch_ends = [path for path in states if _is_epoch_end(path)]
        for old in set(states) - {*states[:1], *epoch_ends[:1]}:
            old.unlink(missing_ok=True)

    def save_part(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Save a finished part of the job, which later states do not contain."""
        content = save({key: tensor.contiguous().cpu() for key, tensor in tensors.items()})
        with atomic_write(self._path(name)) as temporary:
            temporary.write_bytes(content + hashlib.sha256(content).digest())

    def load_part(self, name: str) -> dict[str, Tensor] | None:
        """Return a saved part; ``None`` if it is missing or damaged."""
        return _read(self._path(name))

    def list_parts(self, prefix: str) -> list[str]:
        """Return the sorted names of saved parts that start with ``prefix``."""
        return sorted(path.stem for path in self.folder.glob(f"{prefix}*.safetensors"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _states(self) -> list[Path]:
        """Return the files of all states, newest first; the end of an epoch precedes its equal."""
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
