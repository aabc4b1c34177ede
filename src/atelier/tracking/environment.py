"""Environment of a stage: repository, dvc process, commit, machine and system metrics."""

import getpass
import os
import platform
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from atelier.core.paths import project_root
from atelier.tracking.redact import cut_without_secrets

PRIVATE = Path(".atelier")
STUDY_VARIABLE = "ATELIER_STUDY"  # name of the study that a trial's stages belong to
# Address of the database of studies, which may have a password. Stages do not need it.
STORAGE_VARIABLE = "ATELIER_SEARCH_STORAGE"
PRIVATE_DVC = "atelier.tracking.private_dvc"  # module that runs dvc
OF_STUDY = "atelier.of_study"  # tag with this name
_MAX_PATCH_CHARACTERS = 1_000_000
_PATCH_SECONDS = 5.0
_SAMPLE_SECONDS = 10.0
_MEGA = 1e6
# Without dvc.lock, which DVC writes in every run; its hashes are logged as tags.
_DIFF_PATHS = (".", ":!dvc.lock")
# A user's settings of git may change the prefixes. Paths are relative to the project, which may be
# in a folder of its repository.
_DIFF_FORMAT = ("--src-prefix=a/", "--dst-prefix=b/", "--relative")
# Packages that results depend on.
_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "dvc", "mlflow")


def repository_root() -> Path:
    """Return the main project's folder, also in a temporary copy of ``dvc exp run --temp``."""
    return project_root()


def private_folder(root: Path) -> Path:
    """Return ``.atelier/`` in ``root``, which is created: files that are not outputs of DVC."""
    folder = root / PRIVATE
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Process:
    """Process of this machine, identified by its number and its start."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Return the process that has a number at present."""
        return cls(pid, _start_mark(pid))

    def is_alive(self) -> bool:
        """Return True if the process is running, and not another one with its number."""
        with suppress(psutil.Error, OSError):
            ended = psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
            return not ended and _start_mark(self.pid) == self.started
        return False

    @classmethod
    def from_key(cls, key: str) -> "Process | None":
        """Return the process with a key; ``None`` if it is on another machine."""
        rest, _, started = key.rpartition("-")
        host, _, pid = rest.rpartition("-")
        is_local = host == socket.gethostname() and bool(re.fullmatch("[0-9]{1,10}", pid))
        return cls(int(pid), started) if is_local else None

    @property
    def key(self) -> str:
        """Name that is unique among processes of all machines."""
        return f"{socket.gethostname()}-{self.pid}-{self.started}"


def _start_mark(pid: int) -> str:
    """Return the start of a process in the kernel's clock ticks, if available.

    Dates are unsuitable: they change for all processes when the clock is set.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        return stat.read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    return f"{psutil.Process(pid).create_time():.0f}"


def dvc_process() -> Process | None:
    """Return the ``dvc`` process that runs this stage; ``None`` if there is none.

    DVC passes no id of the execution to a stage, so its process identifies the execution. A shell
    or a queue worker may be between both processes.
    """
    with suppress(psutil.Error):
        for ancestor in psutil.Process().parents():
            with suppress(psutil.Error, OSError):
                # `dvc repro`, `python /path/to/dvc repro` and `python -m dvc repro`
                words = ancestor.cmdline()[:3]
                if PRIVATE_DVC in words or any(Path(word).name == "dvc" for word in words):
                    return Process.of(ancestor.pid)
    return None


def git_tags() -> dict[str, str]:
    """Return tags with the commit and whether files differ; empty without a git repository."""
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "mlflow.source.git.commit": commit.strip(),
        "git.dirty": str(bool(git("status", "--porcelain", "-uno", "--", *_DIFF_PATHS))).lower(),
    }


def uncommitted() -> str:
    """Return uncommitted changes as a patch; text that looks like a secret is removed.

    Only the beginning of a large patch is read: git is terminated at a maximum length, or after
    some seconds. Files of more than 8 MiB are listed, not compared.
    """
    command = ["git", "--no-optional-locks", "-c", "core.bigFileThreshold=8m", "diff", "HEAD"]
    command += ["--no-color", "--no-ext-diff", "--no-textconv", *_DIFF_FORMAT, "--", *_DIFF_PATHS]
    try:
        process = subprocess.Popen(  # noqa: S603 - fixed arguments, no shell
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return ""
    deadline = threading.Timer(_PATCH_SECONDS, process.terminate)
    deadline.start()
    with process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        # A character has at most four bytes; one more byte means that the patch is longer.
        patch = process.stdout.read(4 * _MAX_PATCH_CHARACTERS + 1)
        if len(patch) > 4 * _MAX_PATCH_CHARACTERS:
            process.terminate()
    deadline.cancel()
    if process.returncode not in (0, -signal.SIGTERM):
        return ""
    text = patch.decode("utf-8", "replace")
    # A terminated git may have stopped within a word.
    is_complete = process.returncode == 0
    maximum = _MAX_PATCH_CHARACTERS
    return cut_without_secrets(text, maximum if is_complete else min(maximum, len(text) - 1))


def machine_tags() -> dict[str, str]:
    """Return tags with the machine and the versions of Python and packages."""
    memory = round(psutil.virtual_memory().total / 2**30)
    parts = [socket.gethostname(), f"{os.cpu_count()} cores", f"{memory} GiB", *gpu_names()]
    versions = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return {"machine": ", ".join(parts), "versions": ", ".join(versions)}


def owner_tags(root: Path) -> dict[str, str]:
    """Return tags with the user and the clone, which identify this clone's runs on a server."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        user = str(os.getuid())
    return {"mlflow.user": user, "atelier.clone": _clone_id(root)}


def _clone_id(root: Path) -> str:
    """Return a clone's random id, which is created at its first use.

    Host and path are unsuitable: containers of one image have the same paths and changing names.
    """
    file = private_folder(root) / "clone-id"
    if not (found := _read_id(file)):
        new = file.with_name(f"clone-id-{uuid.uuid4().hex}")
        new.write_text(f"{uuid.uuid4().hex}\n", "utf-8")
        try:
            if file.exists():  # damaged
                new.replace(file)
            else:
                with suppress(FileExistsError):  # another process was faster
                    os.link(new, file)
        finally:
            new.unlink(missing_ok=True)
        found = _read_id(file)
    return found


def _read_id(file: Path) -> str:
    """Return the id in a file; empty if there is none."""
    with suppress(FileNotFoundError):
        text = file.read_text("utf-8", "replace").strip()
        return text if re.fullmatch("[0-9a-f]{32}", text) else ""
    return ""


def experiment_tags() -> dict[str, str]:
    """Return tags with the DVC experiment and the study of a stage; empty if there is none."""
    names = {
        "dvc.experiment": "DVC_EXP_NAME",
        "dvc.baseline": "DVC_EXP_BASELINE_REV",
        OF_STUDY: STUDY_VARIABLE,
    }
    return {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}


def git(*arguments: str, cwd: Path | None = None) -> str | None:
    """Return git's output, or ``None`` if it fails or is not installed."""
    with suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=True,
        )
        return result.stdout
    return None


LogSystem = Callable[[dict[str, float]], None]


@contextmanager
def sampling(log: LogSystem, seconds: float = _SAMPLE_SECONDS) -> Iterator[None]:
    """Call ``log`` with :func:`sample` every ``seconds`` while the body runs, and at its end."""
    ended = threading.Event()
    gpus = _gpus()

    def watch() -> None:
        psutil.cpu_percent()  # the first call only sets the start of the interval
        while not ended.wait(seconds):
            log(sample(gpus))

    thread = threading.Thread(target=watch, name="system metrics", daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if time.monotonic() - started > 1:
            log(sample(gpus))


def sample(gpus: list[Any]) -> dict[str, float]:
    """Return system metrics by the names that MLflow uses, in percent and MB (10^6 bytes).

    ``system/process_memory_megabytes`` is this process's resident memory.
    """
    memory = psutil.virtual_memory()
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": memory.used / _MEGA,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / _MEGA,
    }
    with suppress(Exception):  # a driver that fails must not fail the stage
        import pynvml

        for number, gpu in enumerate(gpus):
            gpu_memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            name = f"system/gpu_{number}"
            values[f"{name}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            values[f"{name}_memory_usage_percentage"] = 100 * gpu_memory.used / gpu_memory.total
            values[f"{name}_memory_usage_megabytes"] = gpu_memory.used / _MEGA
            values[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return values


def gpu_names() -> list[str]:
    """Return the names of the machine's NVIDIA GPUs; empty if there are none."""
    with suppress(Exception):
        import pynvml

        return [str(pynvml.nvmlDeviceGetName(gpu)) for gpu in _gpus()]
    return []


def _gpus() -> list[Any]:
    """Return the handles of the NVIDIA GPUs; empty if there are none."""
    with suppress(Exception):  # no driver, or no GPU
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return []
