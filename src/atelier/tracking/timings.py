"""Durations of stages, which no output may contain, for the report page.

A stage that succeeds writes its duration to ``.atelier/timings/`` with its fingerprint. So the
report shows a duration only if it belongs to the present outputs. DVC may have restored those from
its cache.
"""

import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

import psutil

from atelier.core.errors import AtelierError, count_text
from atelier.core.files import write_json
from atelier.core.progress import duration_text
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.environment import (
    PRIVATE,
    git,
    git_tags,
    gpu_names,
    private_folder,
    repository_root,
)
from atelier.tracking.redact import redact_urls
from atelier.tracking.run_state import Fingerprint

_FOLDER = "timings"


@dataclass(frozen=True)
class Timing:
    """Duration of a stage, and where it ran.

    Attributes:
        seconds: of the last attempt.
        resumed: True if an earlier attempt had done a part of the work.
        machine: processor, cores, memory and GPUs.
        device: what computed; empty if the stage does not use torch or the device is missing.
        commit: of the code; empty without git.
    """

    seconds: float
    resumed: bool
    machine: str
    device: str
    commit: str


class Stopwatch:
    """Measures a stage from its start."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def record(
        self, stage: str, fingerprint: Fingerprint | None, device: str, resumed: bool
    ) -> None:
        """Write the duration of a stage that has succeeded; an error is ignored.

        Args:
            stage: name of the stage.
            fingerprint: of the stage; without one nothing is written.
            device: value of ``runtime.device``.
            resumed: True if an earlier attempt had done a part of the work.
        """
        if fingerprint is None:
            return
        # A stage that has succeeded must not fail for a line of the report page.
        with suppress(Exception):
            self._write(stage, fingerprint, device, resumed)

    def _write(self, stage: str, fingerprint: Fingerprint, device: str, resumed: bool) -> None:
        seconds = time.monotonic() - self._start
        commit = (git("rev-parse", "HEAD") or "").strip()
        timing = Timing(seconds, resumed, machine(), _device_text(device), commit)
        settings = {key: redact_urls(value) for key, value in fingerprint.settings.items()}
        content = {
            "timing": asdict(timing),
            "fingerprint": asdict(replace(fingerprint, settings=settings)),
        }
        # In the working directory: a temporary copy of the project has its own outputs.
        write_json(private_folder(Path()) / _FOLDER / f"{stage}.json", content)


def read_timings(stages: Iterable[str]) -> dict[str, Timing]:
    """Return the timings, by stage, that belong to the outputs that ``dvc.lock`` records.

    A temporary copy of the project has the timings of the stages that ran there. DVC may have
    restored the others from stages that ran in the main project.
    """
    found: dict[str, Timing] = {}
    with suppress(OSError):
        records = read_lock(Path("dvc.lock").read_text("utf-8"))
        for folder, stage in itertools.product((repository_root(), Path()), stages):
            with suppress(OSError, ValueError, TypeError, KeyError):
                file = folder / PRIVATE / _FOLDER / f"{stage}.json"
                content = json.loads(file.read_text("utf-8"))
                if Fingerprint(**content["fingerprint"]).is_recorded(records[stage]):
                    found[stage] = Timing(**content["timing"])
    return found


def run_facts(stages: Iterable[str]) -> list[tuple[str, str]]:
    """Return names and texts about the run for people: date, durations, machine and commit.

    Args:
        stages: of the pipeline, with ``train``.
    """
    names = list(stages)
    timings = read_timings(names)
    now = datetime.now().astimezone()
    training = timings.get("train")
    facts = [("Date", f"{now.day} {now:%B %Y, %H:%M}"), ("Training", _training_text(training))]
    facts.append(("Pipeline", _pipeline_text(names, timings)))
    facts.append(("Machine", training.machine if training else machine()))
    if commit := _commit_text(training):
        facts.append(("Commit", commit))
    return facts


def _training_text(training: Timing | None) -> str:
    if training is None:
        return "restored from DVC's cache, which does not record the duration"
    since = " since it was resumed" if training.resumed else ""
    device = f" ({training.device})" if training.device else ""
    return f"{duration_text(training.seconds)}{since}{device}"


def _pipeline_text(stages: list[str], timings: Mapping[str, Timing]) -> str:
    total = duration_text(sum(timing.seconds for timing in timings.values()))
    missing = [stage for stage in stages if stage not in timings]
    if not missing:
        return f"{total} in {count_text(len(stages), 'stage')}"
    restored = f"{', '.join(missing)} restored from DVC's cache"
    return f"{total}; {restored}" if timings else restored


def _commit_text(training: Timing | None) -> str:
    tags = git_tags()
    commit = tags.get("mlflow.source.git.commit", "")
    text = commit[:8]
    if tags.get("git.dirty") == "true":
        text += ", with uncommitted changes"
    if training and training.commit not in ("", commit):
        text += f"; trained at {training.commit[:8]}"
    return text


def machine() -> str:
    """Return the processor, cores, memory and GPUs of this machine."""
    memory = round(psutil.virtual_memory().total / 2**30)
    parts = [_processor(), count_text(os.cpu_count() or 1, "core"), f"{memory} GiB", *gpu_names()]
    return ", ".join(part for part in parts if part)


def _processor() -> str:
    """Return the processor's name; Python reports only its architecture on Linux."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _device_text(setting: str) -> str:
    """Return the device of ``runtime.device`` for people; empty if torch is not in use."""
    if "torch" not in sys.modules:
        return ""
    from atelier.core.device import choose_device, device_name

    # The device may be missing, if the stage did not compute on it.
    with suppress(AtelierError, RuntimeError):
        return device_name(choose_device(setting))
    return ""
