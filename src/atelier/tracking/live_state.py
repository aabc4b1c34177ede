"""Live state of a running stage: files in ``.atelier/live/`` that the live page reads.

Each process of a stage has a folder, so that several pipelines can run at the same time:

- ``state.json``: a :class:`StageState`, replaced about once a second;
- ``curves.json``: losses, scores and KID of a training, replaced after epochs;
- ``samples.webp``: the latest generated or stylized images;
- ``stop``: exists after a request to stop the stage.

These files are no results. They may be lost in a power failure, and no stage fails if they cannot
be written.
"""

import errno
import json
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, field_validator

from atelier.core.progress import Progress
from atelier.tracking.environment import Process
from atelier.tracking.live_curves import LiveCurves
from atelier.tracking.run import sheet
from atelier.tracking.run_state import STOP_SIGNALS

FOLDER = Path("live")
STATE, CURVES, SAMPLES, STOP = "state.json", "curves.json", "samples.webp", "stop"
# Series of images that a generator or style transfer made, and the unit of their steps. Others
# contain images of the user.
_STYLIZED = "paintings"
_SHOWN_SERIES = {"samples": "epoch", "generated": "", _STYLIZED: "iteration"}
_MAX_WARNINGS = 20
# Work is followed by a pause of so many times its processor time, or its duration on a disk that
# blocks. The state, the results and the page have a limit each, and together take at most 1% of the
# elapsed time.
_CPU_PAUSE, _BLOCKED_PAUSE = 500, 300
_SECONDS = 1.0  # between two writes of the state, at least
_RATE_POINTS = 60  # writes over which the speed is measured
_RETRY_SECONDS = 60.0  # after a write that failed
_OTHER_MACHINE_SECONDS = 600.0
# A long step of another machine, or its clock, must not remove its state.
_OLD_SECONDS = 3 * 86_400.0
_MAX_BYTES = 16_000_000

Status = Literal["running", "finished", "interrupted", "failed"]


class Throttle:
    """Limit on how often work is repeated, and on its share of the time."""

    def __init__(self, seconds: float, first: float = 0.0) -> None:
        """Set the interval.

        Args:
            seconds: between two times, at least.
            first: seconds until the first time.
        """
        self._seconds = seconds
        self._next = time.monotonic() + first

    def is_due(self) -> bool:
        """Return true if the work can be repeated."""
        return time.monotonic() >= self._next

    @contextmanager
    def work(self) -> Iterator[None]:
        """Measure the work of the body, which is due again after a pause."""
        began, cpu = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            now = time.monotonic()
            pauses = (_CPU_PAUSE * (time.thread_time() - cpu), _BLOCKED_PAUSE * (now - began))
            self._next = now + max(self._seconds, *pauses)


class StageState(BaseModel, frozen=True, allow_inf_nan=False):
    """State of one process of a stage.

    Attributes:
        stage: name of the stage.
        process: key of its process; see :class:`Process`.
        pipeline: key of the ``dvc`` process that runs it; empty without one.
        signal: number of the signal that stops it as Ctrl-C does.
        experiment: name of the DVC experiment; empty without one.
        title: description of the settings.
        started: seconds since 1970, as ``updated``.
        updated: time of this state.
        status: ``running``, or how the stage ended.
        message: a sentence about its end.
        is_saved: after an interruption, true if the next attempt resumes the work.
        done: units of work.
        total: all units; ``None`` if it is not known.
        unit: of the work, in the plural.
        note: of the last progress report.
        rate: units per second; ``None`` if it is not known yet.
        images_per_unit: images that a unit processes; 0 if the unit has no images.
        remaining: estimated seconds until the end; ``None`` if it is not known yet.
        warnings: sentences.
        samples: number of the latest sheet of images, 0 if there is none.
        caption: of the latest sheet.
        curves: number of the latest curves, 0 if there are none.
    """

    stage: str
    process: str
    pipeline: str = ""
    signal: int
    experiment: str = ""
    title: str = ""
    started: float
    updated: float
    status: Status = "running"
    message: str = ""
    is_saved: bool = False
    done: int | None = None
    total: int | None = None
    unit: str = ""
    note: str = ""
    rate: float | None = None
    images_per_unit: int = 0
    remaining: float | None = None
    warnings: list[str] = []
    samples: int = 0
    caption: str = ""
    curves: int = 0

    @field_validator("signal")
    @classmethod
    def _require_stop_signal(cls, number: int) -> int:
        if number not in STOP_SIGNALS:  # a damaged file must not choose another one
            raise ValueError("it is no signal that stops a stage")
        return number


class LiveState:
    """Writer of a stage's live state; no error of it fails the stage."""

    def __init__(
        self,
        private: Path,
        start: StageState,
        describe: Callable[[], str] = str,
        show: Callable[[Path, StageState], None] = lambda private, state: None,
        *,
        shows_stylized: bool = False,
    ) -> None:
        """Create the folder, and remove those of pipelines that have ended.

        Args:
            private: the repository's folder ``.atelier/``.
            start: the first state.
            describe: returns the title. It is not called in short stages, because it reads files.
            show: writes a page about a state; called with ``private`` after each write.
            shows_stylized: show stylized images, whose contents may be images of the user.
        """
        self._private, self._state = private, start.model_copy(update=_encodable(dict(start)))
        self._describe, self._show = describe, show
        self._shows_stylized = shows_stylized
        self._folder = private / FOLDER / folder_name(start)
        self._curves = LiveCurves()
        self._has_new_curves = False
        self._sheet: tuple[NDArray[np.uint8], int] | None = None
        self._progress: tuple[float, str, Progress] | None = None
        self._first: tuple[float, int] | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RATE_POINTS)
        # Progress is written often, and samples, whose encoding takes longer, less often.
        self._writes, self._results = Throttle(_SECONDS), Throttle(_SECONDS)
        self._retry = 0.0  # time of the next write, after one that failed
        with suppress(Exception):  # damaged folders must not fail the stage
            remove_ended(private, start.pipeline)
        self._write()

    def on_progress(self, unit: str, progress: Progress) -> None:
        """Receive the work done so far."""
        now = time.monotonic()
        self._progress = (now, unit, progress)
        if self._first is None:
            self._first = (now, progress.done)
        if self._writes.is_due():
            self._write()

    def add_steps(self, first_step: int, names: Sequence[str], rows: NDArray[np.float32]) -> None:
        """Add values of consecutive steps; see :meth:`LiveCurves.add_steps`."""
        self._curves.add_steps(first_step, names, rows)
        self._has_new_curves = True

    def add_scores(self, scores: Mapping[int, Sequence[float]]) -> None:
        """Add the KID of epochs, as one value in a list."""
        self._curves.add_scores(scores)
        self._has_new_curves |= bool(scores)

    def set_images(self, series: str, pixels: NDArray[np.uint8], step: int, columns: int) -> None:
        """Show images, unless the series may contain images of the user.

        Args:
            series: name of the series.
            pixels: uint8 [N, H, W, C].
            step: position in the series.
            columns: images in a row; 0 for a nearly square grid.
        """
        if series not in _SHOWN_SERIES or (series == _STYLIZED and not self._shows_stylized):
            return
        unit = _SHOWN_SERIES[series]
        self._sheet = (pixels, columns)
        if step:
            self._update(caption=f"after {unit} {step:,}")
        elif series != "samples":  # a training ends with the samples of its last epoch at step 0
            self._update(caption="")

    def warn(self, warning: str) -> None:
        """Show a warning."""
        if warning not in self._state.warnings and len(self._state.warnings) < _MAX_WARNINGS:
            self._update(warnings=[*self._state.warnings, warning])

    def end(self, status: Status, message: str = "", is_saved: bool = False) -> None:
        """Write the final state; the arguments are those of :class:`StageState`."""
        self._update(status=status, message=message, is_saved=is_saved)
        self._write()

    def _update(self, **changes: object) -> None:
        self._state = self._state.model_copy(update=_encodable(changes))

    def _set_progress(self, now: float, unit: str, progress: Progress) -> None:
        """Set the progress, and estimate speed and remaining time."""
        self._recent.append((now, progress.done))
        rate = _rate(self._recent[0], self._recent[-1])
        # The whole time includes the measurements between epochs, too.
        mean = _rate(self._first or self._recent[0], self._recent[-1])
        remaining = None
        if progress.total is not None and mean and self._state.status == "running":
            remaining = (progress.total - progress.done) / mean
        self._update(
            done=progress.done,
            total=progress.total,
            unit=unit,
            note=progress.note or self._state.note,
            rate=rate,
            remaining=remaining,
        )

    def _write(self) -> None:
        """Write what has changed and is due; after the end, all that has changed."""
        has_ended = self._state.status != "running"
        if not has_ended and time.monotonic() < self._retry:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._progress and not self._state.title:
                self._update(title=self._describe())
            if self._has_results() and (has_ended or self._results.is_due()):
                with self._results.work():
                    self._write_results(self._folder)
            with self._writes.work():
                self._write_state(self._folder)
            self._show(self._private, self._state)
        except Exception:  # for example, a full disk: the stage must not fail
            self._retry = time.monotonic() + _RETRY_SECONDS

    def _has_results(self) -> bool:
        return self._sheet is not None or self._has_new_curves

    def _write_results(self, folder: Path) -> None:
        if self._sheet:
            pixels = sheet(*self._sheet, min_width=1)
            replace_file(folder / SAMPLES, lambda file: _save_webp(pixels, file))
            self._sheet = None
            self._update(samples=self._state.samples + 1)
        if self._has_new_curves:
            curves = json.dumps(self._curves.as_json())
            replace_file(folder / CURVES, lambda file: file.write_text(curves, "utf-8"))
            self._has_new_curves = False
            self._update(curves=self._state.curves + 1)

    def _write_state(self, folder: Path) -> None:
        if self._progress:
            self._set_progress(*self._progress)
            self._progress = None
        self._update(updated=time.time())
        state = self._state.model_dump_json()
        replace_file(folder / STATE, lambda file: file.write_text(state, "utf-8"))


def folder_name(state: StageState) -> str:
    """Return the name of a state's folder."""
    return f"{state.stage}-{state.process}"


def read_states(private: Path) -> dict[str, StageState]:
    """Return all states by the name of their folder, oldest first; damaged ones are skipped."""
    states = {}
    for file in (private / FOLDER).glob(f"*/{STATE}"):
        with suppress(OSError, ValueError):
            states[file.parent.name] = StageState.model_validate_json(read_regular(file))
    return dict(sorted(states.items(), key=lambda item: item[1].started))


def read_regular(file: Path) -> bytes:
    """Return the content of a file of a live state.

    Raises:
        OSError: it is no regular file, a link, in a linked folder, or larger than 16 MB.
    """
    if file.parent.is_symlink():
        raise OSError(errno.ELOOP, "linked folder", str(file.parent))
    # Without O_NONBLOCK, opening a named pipe waits for a writer.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise OSError(errno.EINVAL, "no regular file, or too large", str(file))
        return opened.read(_MAX_BYTES)


def running(states: Mapping[str, StageState]) -> list[str]:
    """Return the names of the states whose process is running."""
    return [
        name
        for name, state in states.items()
        if state.status == "running" and is_alive(state.process, state.updated)
    ]


def is_alive(key: str, updated: float, seconds: float = _OTHER_MACHINE_SECONDS) -> bool:
    """Return true if a process is running.

    A process of another machine, which shares the folder, is running if its state is recent.

    Args:
        key: of the process; see :class:`Process`. Empty for none.
        updated: time of the state.
        seconds: maximum age of a recent state.
    """
    if not key:
        return False
    process = Process.from_key(key)
    if process is None:
        return time.time() - updated < seconds
    return process.is_alive()


def remove_ended(private: Path, pipeline: str) -> None:
    """Remove the states of pipelines that have ended, and old files of killed processes.

    Args:
        private: the repository's folder ``.atelier/``.
        pipeline: key of a pipeline whose states remain; empty for none.
    """
    states = read_states(private)
    for name, state in states.items():
        if pipeline and state.pipeline == pipeline:
            continue
        keys = (state.process, state.pipeline)
        if not any(is_alive(key, state.updated, _OLD_SECONDS) for key in keys):
            shutil.rmtree(private / FOLDER / name, ignore_errors=True)
    for path in [*(private / FOLDER).glob("*"), *private.glob(".live.html-*")]:
        if path.name in states or time.time() - path.lstat().st_mtime < _OLD_SECONDS:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _rate(first: tuple[float, int], last: tuple[float, int]) -> float | None:
    """Return units per second between two times; ``None`` if it is not known."""
    seconds, done = last[0] - first[0], last[1] - first[1]
    return done / seconds if seconds > 0 and done > 0 else None


def _encodable(values: Mapping[str, object]) -> dict[str, object]:
    """Return values whose text UTF-8 can encode; names of files may contain other bytes."""
    return {
        name: [_encodable_text(each) for each in value]
        if isinstance(value, list)
        else _encodable_text(value)
        for name, value in values.items()
    }


def _encodable_text(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _save_webp(pixels: NDArray[np.uint8], file: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(file, "WEBP", quality=90, method=0)


def replace_file(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file next to the target, and rename it.

    Without waiting for the disk, unlike ``core.files``: the state is worthless after a power
    failure, and the wait would delay the training.
    """
    temporary = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
