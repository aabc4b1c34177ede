"""Epochs that a training has measured, as lines of a file for the command that started it."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FILE_VARIABLE = "ATELIER_EPOCH_REPORTS"


@dataclass(frozen=True)
class EpochReport:
    """Measured epoch.

    Attributes:
        epoch: its number, from 1.
        kid: validation KID.
    """

    epoch: int
    kid: float


def report_epochs(kid_by_epoch: Mapping[int, Sequence[float]]) -> None:
    """Append epochs to the file that the environment names, if any.

    A line is one write, so a reader never sees a part of it. An error is ignored: the training must
    not fail for it.
    """
    path = os.environ.get(FILE_VARIABLE)
    if not path or not kid_by_epoch:
        return
    lines = [json.dumps({"epoch": epoch, "kid": kid[0]}) for epoch, kid in kid_by_epoch.items()]
    with suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def read_reports(path: Path) -> list[EpochReport]:
    """Return the epochs in a file, the last line of each; empty without the file."""
    found: dict[int, EpochReport] = {}
    with suppress(OSError):
        for line in path.read_text("utf-8", "replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):  # a line that a full disk cut
                entry = json.loads(line)
                found[int(entry["epoch"])] = EpochReport(int(entry["epoch"]), float(entry["kid"]))
    return [found[epoch] for epoch in sorted(found)]
