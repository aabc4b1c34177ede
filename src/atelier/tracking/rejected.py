"""Entries that MLflow rejected: recorded with reason and file, and reported once."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from atelier.tracking.environment import PRIVATE

_REPORTED = "refused-reported"


def rejected_file(root: Path) -> Path:
    """Return the file with rejected entries, one JSON object with the reason per line."""
    return root / PRIVATE / "refused.jsonl"


def reject(root: Path, name: str, reason: str, entry: dict[str, Any], file: Path | None) -> None:
    """Record a rejected entry or a part of it once, and keep its file.

    Args:
        root: the main project.
        name: unique name of the entry or part.
        reason: MLflow's message.
        entry: the entry or part.
        file: the entry's file in its outbox, which is removed later.
    """
    if _is_recorded(root, name):
        return  # an interrupted delivery rejects the same entry again
    fields = {"reason": reason, "name": name, **entry}
    if file and file.is_file():
        target = root / PRIVATE / "refused" / name.replace("/", "_") / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
        fields["kept"] = str(target.relative_to(root))
    rejected_file(root).parent.mkdir(exist_ok=True)
    with rejected_file(root).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(fields) + "\n")


def _is_recorded(root: Path, name: str) -> bool:
    """Return True if a rejected entry or part is recorded."""
    with suppress(OSError):
        if json.dumps(name) not in rejected_file(root).read_text("utf-8", "replace"):
            return False
    return any(line.get("name") == name for line in read(root))


def read(root: Path) -> list[dict[str, Any]]:
    """Return all rejected entries."""
    lines: list[dict[str, Any]] = []
    with suppress(OSError):
        for line in rejected_file(root).read_text("utf-8", "replace").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def unreported_rejections(root: Path) -> list[dict[str, Any]]:
    """Return the entries that were rejected since the last call of this function."""
    lines, marker = read(root), root / PRIVATE / _REPORTED
    reported = 0
    with suppress(OSError, ValueError):
        reported = int(marker.read_text("utf-8"))
    with suppress(OSError):
        if lines:
            marker.write_text(str(len(lines)), "utf-8")
    # The user may have removed the file after the last call.
    return lines[reported:] if reported <= len(lines) else lines


def summary(lines: list[dict[str, Any]]) -> str:
    """Return the number of rejected entries and the first reason as text."""
    entries = "1 entry was" if len(lines) == 1 else f"{len(lines)} entries were"
    first = str(lines[0].get("reason", "")).split("\n", 1)[0][:200].rstrip(".")
    return f"{entries} rejected by MLflow ({first}), kept in {PRIVATE}/refused.jsonl"
