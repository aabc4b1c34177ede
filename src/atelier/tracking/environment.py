"""Where a stage runs: which repository, which DVC invocation, which commit."""

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
_LONGEST_PATCH = 1_000_000
_PATCH_SECONDS = 5.0
# DVC writes its lock at every run; what stands in it is tagged as hashes.
_WATCHED = (".", ":!dvc.lock")
# What results depend on, besides the project itself.
_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "dvc", "mlflow")


def repository_root() -> Path:
    """Return the main project's folder, also in a temporary copy of ``dvc exp run --temp``."""
    return project_root()


def private_folder(root: Path) -> Path:
    """``.atelier/`` under ``root``: what a run keeps for itself, outside DVC's outputs."""
    folder = root / PRIVATE
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Process:
    """A process of this machine, told from later ones with the same number by its start."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Describe the process that has a number now."""
        return cls(pid, _start_mark(pid))

    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        with suppress(psutil.Error, OSError):
            ended = psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
            return not ended and _start_mark(self.pid) == self.started
        return False

    @classmethod
    def from_key(cls, key: str) -> "Process | None":
        """The process that a key names; ``None`` for one of another machine."""
        rest, _, started = key.rpartition("-")
        host, _, pid = rest.rpartition("-")
        ours = host == socket.gethostname() and pid.isdigit()
        return cls(int(pid), started) if ours else None

    @property
    def key(self) -> str:
        """A name that no other process on any machine is likely to have."""
        return f"{socket.gethostname()}-{self.pid}-{self.started}"


def _start_mark(pid: int) -> str:
    """When a process started, in the kernel's own count where there is one.

    Dates are no good: they shift for all processes when the clock is set.
    """
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        return stat.read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    return f"{psutil.Process(pid).create_time():.0f}"


def dvc_process() -> Process | None:
    """The ``dvc`` program that runs this stage; its stages make one pipeline execution.

    DVC gives a stage no id of the invocation, so the process is the id: a shell or a queue
    worker may stand between it and the stage.
    """
    with suppress(psutil.Error):
        for ancestor in psutil.Process().parents():
            with suppress(psutil.Error, OSError):
                # `dvc repro`, `python /path/to/dvc repro` and `python -m dvc repro`
                if any(Path(word).name == "dvc" for word in ancestor.cmdline()[:3]):
                    return Process.of(ancestor.pid)
    return None


def git_tags() -> dict[str, str]:
    """The commit and whether the tree differs from it; empty outside a git checkout."""
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {
        "mlflow.source.git.commit": commit.strip(),
        "git.dirty": str(bool(git("status", "--porcelain", "-uno", "--", *_WATCHED))).lower(),
    }


def uncommitted() -> str:
    """Return what differs from the commit, as a patch without what looks like a secret.

    Of a large difference only the beginning is read: git is ended once there is enough of it, or
    after some seconds. Files of more than 8 MiB are named, not compared.
    """
    command = ["git", "--no-optional-locks", "-c", "core.bigFileThreshold=8m", "diff", "HEAD"]
    command += ["--no-color", "--no-ext-diff", "--no-textconv", "--", *_WATCHED]
    try:
        process = subprocess.Popen(  # noqa: S603 - fixed words, no shell
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return ""
    deadline = threading.Timer(_PATCH_SECONDS, process.terminate)
    deadline.start()
    with process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        # A character has at most four bytes; one more tells that there is more.
        patch = process.stdout.read(4 * _LONGEST_PATCH + 1)
        if len(patch) > 4 * _LONGEST_PATCH:
            process.terminate()
    deadline.cancel()
    if process.returncode not in (0, -signal.SIGTERM):
        return ""
    text = patch.decode("utf-8", "replace")
    # An ended git may have stopped within a word.
    longest = _LONGEST_PATCH if process.returncode == 0 else min(_LONGEST_PATCH, len(text) - 1)
    return cut_without_secrets(text, longest)


def machine_tags() -> dict[str, str]:
    """The machine and the versions of what computes on it."""
    memory = round(psutil.virtual_memory().total / 2**30)
    parts = [socket.gethostname(), f"{os.cpu_count()} cores", f"{memory} GiB", *gpu_names()]
    versions = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return {"machine": ", ".join(parts), "versions": ", ".join(versions)}


def owner_tags(root: Path) -> dict[str, str]:
    """The user and the clone: they tell this clone's runs from others' on a server."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have a number only
        user = str(os.getuid())
    return {"mlflow.user": user, "atelier.clone": _clone_id(root)}


def _clone_id(root: Path) -> str:
    """Return a clone's random id, which is made at its first use.

    Host and path are no good: containers of one image share their paths and change their names.
    """
    file = private_folder(root) / "clone-id"
    if not (found := _read_id(file)):
        new = file.with_name(f"clone-id-{uuid.uuid4().hex}")
        new.write_text(f"{uuid.uuid4().hex}\n", "utf-8")
        try:
            if file.exists():  # it is damaged
                new.replace(file)
            else:
                with suppress(FileExistsError):  # another process was faster
                    os.link(new, file)
        finally:
            new.unlink(missing_ok=True)
        found = _read_id(file)
    return found


def _read_id(file: Path) -> str:
    """Return the id in a file; nothing if there is none."""
    with suppress(FileNotFoundError):
        text = file.read_text("utf-8", "replace").strip()
        return text if re.fullmatch("[0-9a-f]{32}", text) else ""
    return ""


def experiment_tags() -> dict[str, str]:
    """The DVC experiment that a stage belongs to, where there is one."""
    names = {"dvc.experiment": "DVC_EXP_NAME", "dvc.baseline": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}


def git(*arguments: str, cwd: Path | None = None) -> str | None:
    """Return git's output, or ``None`` if it fails or is not installed."""
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(  # noqa: S603 - fixed words, no shell
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=cwd,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=30,
            check=True,
        )
        return answer.stdout
    return None


_SAMPLE_SECONDS = 10.0
_MEGA = 1e6

LogSystem = Callable[[dict[str, float]], None]


@contextmanager
def sampling(tell: LogSystem, seconds: float = _SAMPLE_SECONDS) -> Iterator[None]:
    """Call ``tell`` with :func:`sample` every ``seconds`` while the body runs, and at its end.

    The sampling thread sleeps nearly always, so that it takes no time from the work.
    """
    ended = threading.Event()
    gpus = _gpus()

    def watch() -> None:
        psutil.cpu_percent()  # the first call only sets the mark to count from
        while not ended.wait(seconds):
            tell(sample(gpus))

    thread = threading.Thread(target=watch, name="system metrics", daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if time.monotonic() - started > 1:
            tell(sample(gpus))


def sample(gpus: list[Any]) -> dict[str, float]:
    """Percentages and megabytes (of 10^6 bytes), named as MLflow's own system metrics are.

    ``system/process_memory_megabytes`` is this process's resident memory.
    """
    memory = psutil.virtual_memory()
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_percentage": memory.percent,
        "system/system_memory_usage_megabytes": memory.used / _MEGA,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / _MEGA,
    }
    with suppress(Exception):  # a driver that stops answering must not harm the work
        import pynvml

        for number, gpu in enumerate(gpus):
            used = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            name = f"system/gpu_{number}"
            values[f"{name}_utilization_percentage"] = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
            values[f"{name}_memory_usage_percentage"] = 100 * used.used / used.total
            values[f"{name}_memory_usage_megabytes"] = used.used / _MEGA
            values[f"{name}_power_usage_watts"] = pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000
    return values


def gpu_names() -> list[str]:
    """The names of the machine's NVIDIA cards; empty where there are none."""
    with suppress(Exception):
        import pynvml

        return [str(pynvml.nvmlDeviceGetName(gpu)) for gpu in _gpus()]
    return []


def _gpus() -> list[Any]:
    """Handles of the NVIDIA cards, if there are any."""
    with suppress(Exception):  # no driver, or no card
        import pynvml

        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return []
