"""DVC's records of stages in ``dvc.lock``."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.core.hashing import file_digest
from atelier.tracking.redact import flat, redact_urls

_CODE = ("src", "stages")
_WITHOUT_RUN_STAGES = (
    *("watch", "start", "evaluate_inputs", "stylize_inputs", "train_inputs"),
    *("plots_script", "report"),
)


def is_code(path: str) -> bool:
    """Return True for a file or folder of the project's own code."""
    return PurePosixPath(path).parts[:1] in [(folder,) for folder in _CODE]


def content_hash(path: Path) -> str:
    """Return the hash of a file or folder as DVC computes it; ``missing`` if it does not exist."""
    if path.is_dir():
        files = files_in(path)
        return folder_hash({f.relative_to(path).as_posix(): content_hash(f) for f in files})
    if not path.exists():
        return "missing"
    return file_digest(path, "md5")


def folder_hash(files: Mapping[str, str]) -> str:
    """Return the hash of a folder as DVC computes it.

    Args:
        files: content hash of each file, by path in the folder.
    """
    entries = [{"md5": hash_, "relpath": path} for path, hash_ in sorted(files.items())]
    listing = json.dumps(entries, sort_keys=True).encode()
    return f"{hashlib.md5(listing).hexdigest()}.dir"  # noqa: S324 - as DVC does


def files_in(path: Path) -> Iterator[Path]:
    """Return the file, or all files of a folder in a fixed order without ``__pycache__``."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return (f for f in found if f.is_file() and "__pycache__" not in f.parts)


def is_logged(stage: str) -> bool:
    """Return True if a stage has runs in MLflow; those that list files or report have none."""
    return stage.partition("@")[0] not in _WITHOUT_RUN_STAGES


@dataclass(frozen=True)
class StageRecord:
    """Record of one stage.

    Attributes:
        parameters: settings as text, by dotted key.
        inputs: content hash by path; that of a folder ends in ``.dir``.
        outputs: content hash by path.
    """

    parameters: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def data(self) -> dict[str, str]:
        """Inputs other than program code."""
        return {path: hash_ for path, hash_ in self.inputs.items() if not is_code(path)}


def read_lock(text: str) -> dict[str, StageRecord]:
    """Parse the content of a ``dvc.lock``; each stage follows those that it depends on.

    Returns:
        The stages by name; none if the content is damaged.
    """
    try:
        stages = YAML(typ="safe", pure=True).load(text)["stages"]
        records = {
            name: StageRecord(
                parameters={
                    key: redact_urls(value)
                    for file in stage.get("params", {}).values()
                    for key, value in flat(file).items()
                },
                inputs=_hashes(stage.get("deps", ())),
                outputs=_hashes(stage.get("outs", ())),
            )
            for name, stage in stages.items()
        }
        return {name: records[name] for name in _in_order(records)}
    except (YAMLError, CycleError, LookupError, TypeError, AttributeError, ValueError):
        return {}
    except RecursionError:  # a mapping that includes itself
        return {}


def producers(records: Mapping[str, StageRecord], record: StageRecord) -> dict[str, str]:
    """Return the stage that makes each input of ``record``, by the input's path.

    An input may be in a folder that is an output.
    """
    return {
        path: name
        for path in record.inputs
        for name, other in records.items()
        for output in other.outputs
        if PurePosixPath(path).is_relative_to(output)
    }


def current(
    records: Mapping[str, StageRecord],
    parameters: Mapping[str, str],
    hash_of: Callable[[str], str | None] | None,
) -> dict[str, StageRecord]:
    """Return the stages whose records match these settings, this code and each other.

    After ``dvc repro train``, later stages are still recorded with an earlier training. Those are
    left out.

    Args:
        records: from :func:`read_lock`.
        parameters: all settings as text, by dotted key.
        hash_of: returns the present hash of a file or a folder of code, or ``None`` if it does
            not exist. If it is ``None``, files that no stage makes count as unchanged.
    """
    outputs = {path: hash_ for record in records.values() for path, hash_ in record.outputs.items()}

    def unchanged(path: str, recorded: str) -> bool:
        if path in outputs:
            return outputs[path] == recorded
        # Folders of data that no stage makes, e.g. data/pictures, may be too large to hash.
        is_data_folder = recorded.endswith(".dir") and not is_code(path)
        return is_data_folder or hash_of is None or hash_of(path) == recorded

    matching: dict[str, StageRecord] = {}
    for name, record in records.items():
        if (
            all(producer in matching for producer in producers(records, record).values())
            and all(_is_equal(parameters.get(k), v) for k, v in record.parameters.items())
            and all(unchanged(path, recorded) for path, recorded in record.inputs.items())
        ):
            matching[name] = record
    return matching


def _is_equal(one: str | None, other: str) -> bool:
    """Return True if two values are equal as text or as numbers, e.g. 30 and 30.0."""
    try:
        return one == other or float(one or "") == float(other)
    except ValueError:
        return False


def _hashes(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {entry["path"]: str(entry[entry.get("hash", "md5")]) for entry in entries}


def _in_order(records: Mapping[str, StageRecord]) -> Iterable[str]:
    graph = {name: set(producers(records, record).values()) for name, record in records.items()}
    return TopologicalSorter(graph).static_order()
