"""Rejected entries: written down with the reason, their files kept, and reported once."""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from atelier.tracking.environment import PRIVATE

_REPORTED = "refused-reported"


def rejected_file(root: Path) -> Path:
    """Return the file of what MLflow rejected: an entry a line, with the reason."""
    return root / PRIVATE / "refused.jsonl"


def reject(root: Path, name: str, reason: str, entry: dict[str, Any], file: Path | None) -> None:
    """Write down a rejected entry or a part of one, once, and keep its file.

    Args:
        root: the main project.
        name: a name of the entry or part that no other has.
        reason: MLflow's answer.
        entry: what was rejected.
        file: the entry's file in its journal, which is removed later.
    """
    if _is_recorded(root, name):
        return  # a delivery that was killed after rejecting it begins again before it
    about = {"reason": reason, "name": name, **entry}
    if file and file.is_file():
        target = root / PRIVATE / "refused" / name.replace("/", "_") / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            try:
                os.link(file, target)
            except OSError:
                shutil.copyfile(file, target)
        about["kept"] = str(target.relative_to(root))
    rejected_file(root).parent.mkdir(exist_ok=True)
    with rejected_file(root).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(about) + "\n")


def _is_recorded(root: Path, name: str) -> bool:
    """Return whether a rejected entry or part was written down; there may be thousands."""
    with suppress(OSError):
        if json.dumps(name) not in rejected_file(root).read_text("utf-8", "replace"):
            return False
    return any(line.get("name") == name for line in read(root))


def read(root: Path) -> list[dict[str, Any]]:
    """Return all that was rejected."""
    lines: list[dict[str, Any]] = []
    with suppress(OSError):
        for line in rejected_file(root).read_text("utf-8", "replace").splitlines():
            with suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def unreported_rejections(root: Path) -> list[dict[str, Any]]:
    """Return what was rejected since the last call of this function."""
    lines, marker = read(root), root / PRIVATE / _REPORTED
    reported = 0
    with suppress(OSError, ValueError):
        reported = int(marker.read_text("utf-8"))
    with suppress(OSError):
        if lines:
            marker.write_text(str(len(lines)), "utf-8")
    # The user may have removed the file since.
    return lines[reported:] if reported <= len(lines) else lines


def summary(lines: list[dict[str, Any]]) -> str:
    """Describe rejected entries in words: how many, and why the first was."""
    entries = "1 entry was" if len(lines) == 1 else f"{len(lines)} entries were"
    first = str(lines[0].get("reason", "")).split("\n", 1)[0][:200].rstrip(".")
    return f"{entries} rejected by MLflow ({first}), kept in {PRIVATE}/refused.jsonl"
