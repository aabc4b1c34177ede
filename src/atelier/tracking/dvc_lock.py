"""What DVC recorded of the stages: the content of ``dvc.lock``."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from atelier.tracking.redact import flat, redact_urls

_CODE = ("src", "stages")
_WITHOUT_RUN_STAGES = ("watch", "evaluate_inputs", "stylize_inputs")


def is_code(path: str) -> bool:
    """Return True for a file or a package of the project's own code."""
    return PurePosixPath(path).parts[:1] in [(folder,) for folder in _CODE]


def is_logged(stage: str) -> bool:
    """Whether a stage has runs in MLflow; those that only list files have none."""
    return stage.partition("@")[0] not in _WITHOUT_RUN_STAGES


@dataclass(frozen=True)
class StageRecord:
    """One stage as ``dvc.lock`` has it.

    Attributes:
        parameters: settings by dotted key, as text.
        inputs: content hash by path; a folder's ends in ``.dir``.
        outputs: the same.
    """

    parameters: dict[str, str]
    inputs: dict[str, str]
    outputs: dict[str, str]

    @property
    def data(self) -> dict[str, str]:
        """The inputs that are no program code."""
        return {path: hash_ for path, hash_ in self.inputs.items() if not is_code(path)}


def read_lock(text: str) -> dict[str, StageRecord]:
    """Read the content of a ``dvc.lock``, every stage after those that it depends on.

    What is no such file gives no stages: a record is worth nothing unless it is whole.
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
    except (YAMLError, CycleError, KeyError, TypeError, AttributeError, ValueError):
        return {}


def producers(records: Mapping[str, StageRecord], record: StageRecord) -> dict[str, str]:
    """Which stage makes each input of ``record``: its path to the stage's name.

    An input may lie in a folder that is an output.
    """
    return {
        path: name
        for path in record.inputs
        for name, other in records.items()
        for made in other.outputs
        if PurePosixPath(path).is_relative_to(made)
    }


def current(
    records: Mapping[str, StageRecord],
    parameters: Mapping[str, str],
    hash_of: Callable[[str], str | None] | None,
) -> dict[str, StageRecord]:
    """The stages whose record is of these settings, this code and each other's outputs.

    After ``dvc repro train`` the later stages are still recorded as they were made from an
    earlier training; those are left out.

    Args:
        records: from :func:`read_lock`.
        parameters: all settings as text, by dotted key.
        hash_of: the MD5 of a file as it is now, or ``None`` where there is none; without it files
            that no stage makes are taken to be as recorded.
    """
    outputs = {path: hash_ for record in records.values() for path, hash_ in record.outputs.items()}

    def unchanged(path: str, recorded: str) -> bool:
        if path in outputs:
            return outputs[path] == recorded
        # Of a folder that no stage makes, such as data/pictures, DVC alone knows the hash.
        return recorded.endswith(".dir") or hash_of is None or hash_of(path) == recorded

    kept: dict[str, StageRecord] = {}
    for name, record in records.items():
        if (
            all(maker in kept for maker in producers(records, record).values())
            and all(_alike(parameters.get(k), v) for k, v in record.parameters.items())
            and all(unchanged(path, recorded) for path, recorded in record.inputs.items())
        ):
            kept[name] = record
    return kept


def _alike(one: str | None, other: str) -> bool:
    """Whether two values are the same; 30 and 30.0 are."""
    try:
        return one == other or float(one or "") == float(other)
    except ValueError:
        return False


def _hashes(entries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {entry["path"]: str(entry[entry.get("hash", "md5")]) for entry in entries}


def _in_order(records: Mapping[str, StageRecord]) -> Iterable[str]:
    graph = {name: set(producers(records, record).values()) for name, record in records.items()}
    return TopologicalSorter(graph).static_order()
