"""State of a stage: fingerprint of its settings, inputs and code, and its checkpoints.

DVC records ``params.yaml``, the code and the inputs when a stage *ends*. So the stage captures
their fingerprint at the start, stores its checkpoints under it, and fails if they changed until its
end.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.core.paths import LISTS, read_list
from atelier.core.torchrun import processes
from atelier.core.yaml_files import read_yaml
from atelier.tracking.dvc_lock import (
    StageRecord,
    content_hash,
    files_in,
    is_code,
    read_lock,
)
from atelier.tracking.environment import STUDY_VARIABLE, Process, gpu_names
from atelier.tracking.redact import flat, redact_urls
from atelier.tracking.store import locked

if TYPE_CHECKING:
    from atelier.core.checkpoints import Checkpoints

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Folder of the state from which a longer training continues, and the mark of finished work.
FINISHED = "finished"
_OUTBOX = "journal"  # file with the name of the first attempt's outbox
FOLDERS = ("unfinished", FINISHED)
TRIAL = "trial"  # mark of the work of a search, which ends trainings early
_POLL_SECONDS = 1.0
_STATES = ("state-*", "picture-*")  # checkpoints of the training, of style transfer
# Results depend on the numbers of threads and processes by rounding.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Fingerprint:
    """Settings, inputs and code of a stage at one time.

    Attributes:
        settings: the values that ``dvc.yaml`` names for the stage, by dotted key.
        files: a digest of each dependency that changes with every edit: for code of its content,
            for data of the inode, size and modification time of each file.
        contents: the content hash of each dependency, which is the same for a copy.
    """

    settings: dict[str, Any]
    files: dict[str, str]
    contents: dict[str, str]

    def key(self, device: str) -> str:
        """Return a hash of the fingerprint and the machine, under which work can be resumed.

        Args:
            device: value of ``runtime.device``.
        """
        values = [self.settings, self.contents, machine_values(device)]
        text = json.dumps(values, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def is_recorded(self, record: StageRecord) -> bool:
        """Return True if DVC's record of the stage has the same settings and inputs."""
        return self.as_record().parameters == record.parameters and all(
            self.contents.get(path) == hash_ for path, hash_ in record.inputs.items()
        )

    def as_record(self) -> StageRecord:
        """Return settings and inputs as DVC would record them, without outputs."""
        settings = {key: redact_urls(value) for key, value in self.settings.items()}
        return StageRecord(settings, dict(self.contents), {})

    def changes(self, settings: Mapping[str, Any], files: Mapping[str, str]) -> list[str]:
        """Return a description of each change since the fingerprint was captured."""
        changed_settings = [
            f"{key} was {self.settings.get(key)} and is {settings.get(key)}"
            for key in sorted({*self.settings, *settings})
            if self.settings.get(key) != settings.get(key)
        ]
        paths = sorted({*self.files, *files})
        return changed_settings + [
            f"{path} was changed" for path in paths if self.files.get(path) != files.get(path)
        ]


def machine_values(device: str) -> dict[str, Any]:
    """Return what results depend on besides a fingerprint, by name.

    Args:
        device: value of ``runtime.device``.
    """
    values: dict[str, Any] = {"PyTorch": version("torch"), "number of CPUs": _usable_cpus()}
    values |= {"device": _chosen_device(device), "list of GPUs": list(gpu_names())}
    values["number of processes"] = processes()
    return values | {name: os.environ.get(name) for name in _THREADS}


def _usable_cpus() -> int | None:
    """Return the number of CPUs that this process may use, by which PyTorch chooses its threads."""
    # macOS and Windows have no affinity of a process.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _chosen_device(name: str) -> str:
    """Return the type of the device that ``auto`` chooses; a random stream fits only one type."""
    # NVML finds a GPU that torch does not use, for example by CUDA_VISIBLE_DEVICES. Without a GPU,
    # the import of torch would only delay the stages that do not use it.
    if name != "auto" or not (gpu_names() or sys.platform == "darwin"):
        return "cpu" if name == "auto" else name
    from atelier.core.device import choose_device

    return choose_device(name).type


def capture(stage: str) -> Fingerprint | None:
    """Return the fingerprint of a stage; ``None`` if ``dvc.yaml`` has no such stage.

    Raises:
        AtelierError: ``params.yaml`` or ``dvc.yaml`` is not valid YAML.
    """
    snapshot = _snapshot(stage)
    if snapshot is None:
        return None
    settings, files = snapshot
    recorded = _recorded()
    contents = {path: recorded.get(path) or content_hash(Path(path)) for path in files}
    _reject_stale(contents)
    return Fingerprint(settings, files, contents)


def verify_unchanged(before: Fingerprint | None, stage: str) -> None:
    """Raise if settings, inputs or code of a stage changed while it ran.

    Raises:
        AtelierError: one of them changed; the message names up to three.
    """
    later = _snapshot(stage) if before else None
    changes = before.changes(*later) if before and later else []
    if changes:
        listed = "; ".join(changes[:3]) + (f" and {len(changes) - 3} more" if changes[3:] else "")
        raise AtelierError(
            f"while {stage} ran, {listed}. DVC would record the result as made from the changed"
            " files, so it is rejected; undo the changes, and `dvc repro` resumes the work of this"
            " run, or keep them, and `dvc repro` restarts it."
        )


def _snapshot(stage: str) -> tuple[dict[str, Any], dict[str, str]] | None:
    """Return the present settings and file digests of a stage's dependencies."""
    pipeline = read_yaml(Path("dvc.yaml")) if Path("dvc.yaml").exists() else None
    definition = ((pipeline or {}).get("stages") or {}).get(stage)
    if not isinstance(definition, dict) or "deps" not in definition:
        return None
    values = read_yaml(Path("params.yaml"))
    names = [name for name in definition.get("params", []) if isinstance(name, str)]
    settings = flat({name: _value(values, name) for name in names})
    paths = [*definition["deps"], *_listed_inputs(definition["deps"])]
    return settings, {path: _stat(Path(path)) for path in paths}


def _listed_inputs(dependencies: Iterable[str]) -> dict[str, str]:
    """Return the hashes, by path, of the files that the stage reads and dependencies list."""
    lists = (Path(path) for path in dependencies if Path(path).parent == LISTS)
    return {path: hash_ for file in lists for path, hash_ in read_list(file).items()}


def _reject_stale(contents: Mapping[str, str]) -> None:
    """Raise if a file was changed after its hash was listed for DVC."""
    if "DVC_STAGE" not in os.environ:
        return
    for path, hash_ in _listed_inputs(contents).items():
        if contents[path] != hash_:
            raise AtelierError(
                f"{path} was changed after {LISTS} listed it; run `dvc repro` again, without -s."
            )


def _recorded() -> dict[str, str]:
    """Return the hashes of all outputs by path, which DVC has verified; empty without DVC."""
    if not os.environ.get("DVC_STAGE") or not Path("dvc.lock").exists():
        return {}
    records = read_lock(Path("dvc.lock").read_text("utf-8")).values()
    return {path: hash_ for record in records for path, hash_ in record.outputs.items()}


def _value(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _stat(path: Path) -> str:
    """Return the digest of a dependency; see :class:`Fingerprint`. Data files are not read."""
    if is_code(path.as_posix()):
        return content_hash(path)
    lines = [
        f"{file} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
        for file in files_in(path)
        for stat in (file.stat(),)
    ]
    return hashlib.md5("\n".join(lines).encode()).hexdigest()  # noqa: S324 - as DVC does


def handled_signals() -> list[signal.Signals]:
    """Return the stop signals that are not ignored, as nohup and a shell's ``&`` do."""
    return [stop for stop in STOP_SIGNALS if signal.getsignal(stop) != signal.SIG_IGN]


class ResumeDir:
    """Folder with the checkpoints of a stage, one for each fingerprint.

    Attributes:
        private: the repository's folder ``.atelier/``.
        stage: name of the stage.
        fingerprint: fingerprint at the start; ``None`` if the stage cannot be resumed.
        device: value of ``runtime.device``.
        folder: the folder.
    """

    def __init__(
        self,
        private: Path,
        stage: str,
        fingerprint: Fingerprint | None,
        device: str,
        pipeline: Process | None,
    ) -> None:
        """Determine the folder; it is created by :meth:`checkpoints`.

        Args:
            private: the repository's folder ``.atelier/``.
            stage: name of the stage.
            fingerprint: fingerprint at the start; ``None`` if the stage cannot be resumed.
            device: value of ``runtime.device``.
            pipeline: the ``dvc`` process that runs the stage; the stage stops when it exits.
        """
        self.private = private
        self.stage = stage
        self.fingerprint = fingerprint
        self.device = device
        self._pipeline = pipeline
        key = fingerprint.key(device) if fingerprint else "unknown"
        self.folder = private / "unfinished" / f"{stage}-{key}"
        self._stop_requested = False
        self._last_check = 0.0

    def has_state(self) -> bool:
        """Return True if an earlier attempt left a checkpoint."""
        return any(path for kind in _STATES for path in self.folder.glob(kind))

    def first_outbox(self) -> str:
        """Return the name of the first attempt's outbox, which identifies its run; or empty."""
        return first_outbox(self.folder) if self.has_state() else ""

    @contextmanager
    def checkpoints(self, outbox: str) -> Iterator["Checkpoints"]:
        """Lock the folder; meanwhile the first stop signal only sets :meth:`stop_requested`.

        A second signal raises ``KeyboardInterrupt``. If another process has locked the folder, a
        temporary one is used, which is not resumed later.

        Args:
            outbox: name of this attempt's outbox.
        """
        from atelier.core.checkpoints import Checkpoints

        with ExitStack() as locks:
            if not locks.enter_context(locked(self.folder / ".lock", wait=False)):
                self.folder = self.folder.with_name(f".{self.folder.name}-{time.time_ns()}")
                locks.enter_context(locked(self.folder / ".lock"))
            if not self.has_state():
                (self.folder / _OUTBOX).write_text(outbox, "utf-8")
                if os.environ.get(STUDY_VARIABLE):
                    (self.folder / TRIAL).touch()
                if self.fingerprint:
                    self._write("fingerprint.json", asdict(self.fingerprint))
                    self._write("machine.json", machine_values(self.device))
            before = {stop: signal.signal(stop, self._on_signal) for stop in handled_signals()}
            try:
                yield Checkpoints(self.folder)
            finally:
                for stop, handler in before.items():
                    signal.signal(stop, handler)
                if not self.has_state():
                    # On a full disk, restoring the previous outputs needs the space.
                    shutil.rmtree(self.folder, ignore_errors=True)

    def mark_finished(self) -> None:
        """Mark the checkpoints as those of a stage that has succeeded; an error is ignored."""
        with suppress(OSError):
            if self.has_state():
                (self.folder / FINISHED).touch()

    def stop_requested(self) -> bool:
        """Return True if the stage should save and stop: after a signal, or if dvc exited."""
        if time.monotonic() - self._last_check > _POLL_SECONDS:
            self._last_check = time.monotonic()
            self._stop_requested |= self._pipeline is not None and not self._pipeline.is_alive()
        return self._stop_requested

    def _write(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(json.dumps(value, default=str), "utf-8")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stop_requested:
            raise KeyboardInterrupt
        self._stop_requested = True


def first_outbox(folder: Path) -> str:
    """Return the name of the outbox of the first attempt whose checkpoints a folder has; or empty.

    It identifies the run in MLflow.
    """
    with suppress(OSError):
        return (folder / _OUTBOX).read_text("utf-8")
    return ""


def stale(private: Path, days: float) -> list[Path]:
    """Return folders of checkpoints that are not in use and unchanged for so many days."""
    before = time.time() - days * 86_400
    found = [path for parent in FOLDERS for path in sorted((private / parent).glob("*"))]
    folders = [path for path in found if path.is_dir()]
    return [folder for folder in folders if not _is_locked(folder) and _last_write(folder) < before]


def remove_stale(folder: Path) -> None:
    """Remove a folder of :func:`stale`, unless a stage uses it by now."""
    with locked(_lock_of(folder), wait=False) as free:
        if free and folder.exists():
            shutil.rmtree(folder)


def _lock_of(folder: Path) -> Path:
    """Return the lock of a folder of checkpoints; finished trainings share one."""
    return (folder.parent if folder.parent.name == FINISHED else folder) / ".lock"


def _last_write(folder: Path) -> float:
    """Return when a file in a folder was last written; now, if one is removed meanwhile."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    except FileNotFoundError:
        return time.time()


def _is_locked(folder: Path) -> bool:
    lock = _lock_of(folder)
    if not lock.exists():
        return False
    with locked(lock, wait=False) as free:
        return not free
