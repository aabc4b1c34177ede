"""What a stage was started with: its settings, its inputs and its code.

DVC records ``params.yaml``, the code and the inputs as they stand when a stage *ends*. So the
stage takes their fingerprint at the start, keeps unfinished work under it, and at the end
refuses to be recorded as what it was not.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atelier.errors import AtelierError
from atelier.input_files import LISTS, listed
from atelier.settings import read_yaml
from atelier.tracking.record import StageRecord, read_lock
from atelier.tracking.system import gpu_names
from atelier.tracking.values import flat, shown

_CODE = (".py", ".j2")
# Another number of threads rounds differently.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Fingerprint:
    """A stage's settings, inputs and code at a moment.

    Attributes:
        settings: the values that ``dvc.yaml`` names for the stage, by dotted key.
        files: what tells each dependency's content: of code its hash, of data the place, size
            and time of every file, which no edit leaves alike.
        contents: a hash of every dependency, which holds for other copies too.
    """

    settings: dict[str, Any]
    files: dict[str, str]
    contents: dict[str, str]

    def key(self, device: str) -> str:
        """A name for work that goes on only from the very same start, on a machine like this.

        Args:
            device: ``runtime.device``, as the settings have it.
        """
        machine = [version("torch"), os.cpu_count(), device, *gpu_names()]
        machine += [os.environ.get(name) for name in _THREADS]
        told = json.dumps([self.settings, self.contents, machine], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()[:32]

    def is_recorded(self, record: StageRecord) -> bool:
        """Whether DVC's record of the stage is of this very start."""
        settings = {key: shown(value) for key, value in self.settings.items()}
        files = (path for path, hash_ in record.inputs.items() if not hash_.endswith(".dir"))
        return settings == record.parameters and all(
            self.contents.get(path) == record.inputs[path] for path in files
        )

    def changes(self, settings: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
        """What is no more as it was, in words."""
        words = [
            f"{key} was {self.settings.get(key)} and is {settings.get(key)}"
            for key in sorted({*self.settings, *settings})
            if self.settings.get(key) != settings.get(key)
        ]
        paths = sorted({*self.files, *files})
        return words + [
            f"{path} was changed" for path in paths if self.files.get(path) != files.get(path)
        ]


def take(stage: str) -> Fingerprint | None:
    """Take the fingerprint of a stage of ``dvc.yaml``; nothing for one that it does not have.

    Raises:
        AtelierError: ``params.yaml`` or ``dvc.yaml`` is no YAML (any more).
    """
    seen = _look(stage)
    if seen is None:
        return None
    settings, files = seen
    recorded = _recorded()
    contents = {path: recorded.get(path) or _content(Path(path)) for path in files}
    _refuse_stale(contents)
    return Fingerprint(settings, files, contents)


def refuse_changes(before: Fingerprint | None, stage: str) -> None:
    """See that a stage ends as it began.

    Raises:
        AtelierError: settings, inputs or code were changed meanwhile; the sentence says which.
    """
    later = _look(stage) if before else None
    changes = before.changes(*later) if before and later else []
    if changes:
        told = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
        raise AtelierError(
            f"while {stage} ran, {told}. DVC would record the result as made from what stands"
            " there now, so it is not taken; put back what was, and `dvc repro` takes up the work"
            " of this run, or run it as it is now to start anew."
        )


def _look(stage: str) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The settings and files that ``dvc.yaml`` names for a stage, as they are now."""
    chain = read_yaml(Path("dvc.yaml")) if Path("dvc.yaml").exists() else None
    described = ((chain or {}).get("stages") or {}).get(stage)
    if not isinstance(described, dict) or "deps" not in described:
        return None
    values = read_yaml(Path("params.yaml"))
    names = [name for name in described.get("params", []) if isinstance(name, str)]
    settings = flat({name: _value(values, name) for name in names})
    paths = [*described["deps"], *_listed_inputs(described["deps"])]
    return settings, {path: _seen(Path(path)) for path in paths}


def _listed_inputs(dependencies: Iterable[str]) -> dict[str, str]:
    """Return the hashes of files that dependencies list, by path: the stage reads these files."""
    lists = (Path(path) for path in dependencies if Path(path).parent == LISTS)
    return {path: hash_ for file in lists for path, hash_ in listed(file).items()}


def _refuse_stale(contents: Mapping[str, str]) -> None:
    """Raise if a file was changed after its hash was listed for DVC."""
    if "DVC_STAGE" not in os.environ:
        return
    for path, hash_ in _listed_inputs(contents).items():
        if contents[path] != hash_:
            raise AtelierError(
                f"{path} was changed after {LISTS} listed it; run `dvc repro` again, without -s."
            )


def _recorded() -> dict[str, str]:
    """The hashes of all stages' outputs; DVC saw to it that they are what lies there."""
    if not os.environ.get("DVC_STAGE") or not Path("dvc.lock").exists():
        return {}
    records = read_lock(Path("dvc.lock").read_text("utf-8")).values()
    return {path: hash_ for record in records for path, hash_ in record.outputs.items()}


def _value(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _seen(path: Path) -> str:
    """Code by its content, data by where, how large and when written, so that none is read."""
    if path.suffix in _CODE:
        return _content(path)
    told = [
        f"{file} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
        for file in _files(path)
        for stat in (file.stat(),)
    ]
    return hashlib.md5("\n".join(told).encode()).hexdigest()  # noqa: S324 - as DVC does


def _content(path: Path) -> str:
    """A file's hash, as DVC has it; of a folder one of our own."""
    if path.is_dir():
        told = "\n".join(f"{file} {_content(file)}" for file in _files(path))
        return hashlib.md5(told.encode()).hexdigest()  # noqa: S324
    if not path.exists():
        return "missing"
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files of a folder in a fixed order, but for Python's own caches."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return (f for f in found if f.is_file() and "__pycache__" not in f.parts)
