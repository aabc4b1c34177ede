"""Progress of a training, as lines of a file for the command that started it.

The file also has what the training does while that command is dead.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier.tracking.environment import Process

FILE_VARIABLE = "ATELIER_EPOCH_REPORTS"
_STARTED = time.monotonic()


@dataclass(frozen=True)
class EpochReport:
    """Measured epoch.

    Attributes:
        epoch: its number, from 1.
        kid: validation KID.
    """

    epoch: int
    kid: float


def report_epoch(kid_by_epoch: Mapping[int, Sequence[float]], is_last: bool = False) -> None:
    """Append a finished epoch to the file that the environment names, if any.

    A line is one write, so a reader never sees a part of it. An error is ignored: the training must
    not fail for it.

    Args:
        kid_by_epoch: validation KID of epochs that were measured since the last call, perhaps none.
        is_last: True at the end of the training.
    """
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    lines = [json.dumps({"epoch": epoch, "kid": kid[0]}) for epoch, kid in kid_by_epoch.items()]
    seconds = round(time.monotonic() - _STARTED, 2)
    key = Process.of(os.getpid()).key
    lines.append(json.dumps({"process": key, "seconds": seconds, "is_last": is_last}))
    with suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def read_reports(path: Path) -> list[EpochReport]:
    """Return the epochs in a file, the last line of each; empty without the file."""
    found: dict[int, EpochReport] = {}
    for entry in _entries(path):
        with suppress(ValueError, TypeError, KeyError):
            found[int(entry["epoch"])] = EpochReport(int(entry["epoch"]), float(entry["kid"]))
    return [found[epoch] for epoch in sorted(found)]


def read_seconds(path: Path) -> float:
    """Return the duration of all attempts in a file, each until its last finished epoch."""
    found: dict[str, float] = {}
    for entry in _entries(path):
        with suppress(ValueError, TypeError, KeyError):
            found[str(entry["process"])] = float(entry["seconds"])
    return sum(found.values())


def has_ended(path: Path) -> bool:
    """Return True if a training has reported its end, so that its duration is complete."""
    return any(entry.get("is_last") for entry in _entries(path))


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError):
        for line in path.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError):  # a line that a full disk cut
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry
