"""The run that a stage logs to: metrics, images, files, tags."""

import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atelier.core.files import write_json
from atelier.tracking import mlflow_names
from atelier.tracking.environment import STUDY_VARIABLE
from atelier.tracking.finished import open_finished, stopped_reason
from atelier.tracking.outbox import Outbox, now
from atelier.tracking.redact import numbers
from atelier.tracking.run_state import ResumeDir, first_outbox

if TYPE_CHECKING:
    from atelier.core.checkpoints import Checkpoints
    from atelier.tracking.live_state import LiveState


SPEED = "speed/images_per_second"
VALIDATION_KID = "quality/validation_kid"
_SYSTEM_DELAY = 60_000  # milliseconds
# Narrower sheets are enlarged: MLflow shows them in a large box.
SHEET_PIXELS = 512


class Run:
    """One execution of a stage, which is logged to an outbox and shown on the live page.

    Without an outbox (tracking is off) nothing is logged. Logging never fails the stage: if the
    outbox cannot be written, one warning is printed and the rest is not logged.

    Attributes:
        is_extended: True if the stage continues the work of a finished training.
    """

    def __init__(
        self,
        outbox: Outbox | None,
        resume_dir: ResumeDir | None = None,
        live: "LiveState | None" = None,
    ) -> None:
        self._outbox = outbox
        self._live = live
        self._resume_dir = resume_dir
        self._warnings: list[str] = []
        self._system: list[tuple[list[str], tuple[int, int, list[float]]]] = []
        self._system_lock = threading.Lock()
        self._has_metrics = False
        self._start = self._last_steps = now()
        self.is_extended = False

    def log_steps(
        self, first_step: int, names: Sequence[str], rows: NDArray[np.float32], images: int = 0
    ) -> None:
        """Log metrics of consecutive steps.

        Steps are copied from the device in chunks and carry no times. Their times are spaced
        evenly between the last call and this one.

        Args:
            first_step: number of steps before the first row.
            names: metric of each column.
            rows: float [steps, names].
            images: images processed by these steps, for the speed; 0 for none.
        """
        if self._live:
            self._live.add_steps(first_step, names, rows)
        end = now()
        seconds = max(end - self._last_steps, 1) / 1000
        times = np.linspace(self._last_steps, end, len(rows) + 1, dtype=np.int64)[1:]
        self._last_steps = end
        points = [
            (step, int(at), row.tolist())
            for step, (at, row) in enumerate(zip(times, rows, strict=True), first_step + 1)
        ]
        self._points(names, points)
        if images:
            self._points([SPEED], [(points[-1][0], end, [images / seconds])])

    def log_metrics(self, names: Sequence[str], rows: Mapping[int, Sequence[float]]) -> None:
        """Log metrics by step, e.g. by epoch: a row of values for each step."""
        if self._live and tuple(names) == (VALIDATION_KID,):
            self._live.add_scores(rows)
        at = now()
        self._points(names, [(step, at, list(row)) for step, row in rows.items()])

    def log_system(self, values: Mapping[str, float]) -> None:
        """Log system metrics; their steps are seconds since the start of the run."""
        at = now()
        point = ((at - self._start) // 1000, at, list(values.values()))
        with self._system_lock:
            self._system.append((list(values), point))
        # MLflow's pages begin with the metric that is logged first. Others come within a minute.
        if self._has_metrics or at - self._start > _SYSTEM_DELAY:
            self._log_waiting_system()

    def _log_waiting_system(self) -> None:
        with self._system_lock:
            waiting, self._system = self._system, []
        for names, point in waiting:
            self._write_points(names, [point])

    def log_summary(self, section: str, values: Mapping[str, Any]) -> None:
        """Log final numbers as metrics of a section; text and lists are ignored."""
        self._write_entry(
            lambda outbox: outbox.write("summary", section=section, values=numbers(values))
        )
        self._has_metrics = True

    def log_images(
        self, key: str, pixels: NDArray[np.uint8], step: int = 0, columns: int = 0
    ) -> None:
        """Log images as one grid, in a series with a step slider.

        MLflow opens a series at step 0. Its pages show the section of images first.

        Args:
            key: name of the series.
            pixels: uint8 [N, H, W, C].
            step: position on the slider.
            columns: images in a row; 0 for a nearly square grid.
        """
        from PIL import Image

        if self._live:
            self._live.set_images(key, pixels, step, columns)
        key = f"images/{key}"

        def write(outbox: Outbox) -> None:
            name = mlflow_names.image_key(key).replace("/", "~")
            file = outbox.folder / f"{name}-{step:08d}.png"
            Image.fromarray(sheet(pixels, columns)).save(file, compress_level=1)
            outbox.write("picture", key=key, step=step, file=file.name)

        self._write_entry(write)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or every file of a folder, as artifacts in ``folder``."""
        if path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                self.log_artifact(
                    file, str(Path(folder or path.name, file.relative_to(path)).parent)
                )
            return
        if self._is_readable(path):
            self._write_entry(
                lambda outbox: outbox.write("artifact", file=outbox.attach(path), folder=folder)
            )

    def log_json(self, name: str, values: Mapping[str, Any]) -> None:
        """Log values as an artifact, a file of JSON called ``name``."""

        def write(outbox: Outbox) -> None:
            with tempfile.TemporaryDirectory(dir=outbox.folder) as folder:
                file = Path(folder, name)
                write_json(file, values)
                outbox.write("artifact", file=outbox.attach(file), folder="")

        self._write_entry(write)

    def log_model(self, path: Path, loader: str) -> None:
        """Log a network's file as an MLflow model named ``generator``.

        Args:
            path: the file.
            loader: ``module:function`` of this package. The function takes the file's path and
                returns a ``torch.nn.Module``, an example input, float32 [B, ...], and metadata
                as a JSON object. It is passed by name, because another process calls it.
        """
        if self._is_readable(path):
            self._write_entry(
                lambda outbox: outbox.write("model", file=outbox.attach(path), loader=loader)
            )

    def set_tags(self, **tags: str) -> None:
        """Log tags."""
        self._write_entry(lambda outbox: outbox.write("tags", tags=tags))

    def warn(self, *warnings: str) -> None:
        """Print each sentence as a warning, and log all different ones in the tag ``warning``."""
        for warning in warnings:
            print(f"\nWARNING: {warning}", file=sys.stderr, flush=True)
            if self._live:
                self._live.warn(warning)
            # MLflow truncates longer tags.
            is_full = len(" ".join(self._warnings)) > mlflow_names.TAG_LENGTH
            if warning not in self._warnings and not is_full:
                self._warnings.append(warning)
                self.set_tags(warning=" ".join(self._warnings))

    @contextmanager
    def checkpointing(self) -> "Iterator[tuple[Checkpoints, Callable[[], bool]]]":
        """Yield the checkpoints, and a function that returns True when the stage should stop.

        Raises:
            ValueError: the run was created without a folder for checkpoints.
        """
        if self._resume_dir is None:
            raise ValueError("this run has no folder for checkpoints")
        name = self._outbox.folder.name if self._outbox else ""
        with self._resume_dir.checkpoints(name) as checkpoints:
            yield checkpoints, self._resume_dir.stop_requested

    def is_resumed(self) -> bool:
        """Return True if an earlier attempt left a checkpoint to resume from."""
        return self._resume_dir is not None and self._resume_dir.has_state()

    @contextmanager
    def finished_training(self) -> "Iterator[Checkpoints | None]":
        """Yield the checkpoints of the project's last training, if this one may extend it.

        Yields:
            ``None`` if there are none, if this training is resumed already, or in a trial of a
            search, whose duration must be that of the whole training.

        Raises:
            NotExtendableError: as for :func:`atelier.tracking.finished.open_finished`.
        """
        if self._resume_dir is None or self.is_resumed() or _is_trial():
            yield None
            return
        with open_finished(self._resume_dir) as checkpoints:
            yield checkpoints

    def stopped_reason(self) -> str:
        """Return why this training does not continue the stopped one of the project, if any.

        Returns:
            Empty if there is none, if this training is resumed, or in a trial of a search; else
            as :func:`atelier.tracking.finished.stopped_reason`.
        """
        if self._resume_dir is None or self.is_resumed() or _is_trial():
            return ""
        return stopped_reason(self._resume_dir)

    def set_extended(self, steps: int, finished: "Checkpoints") -> None:
        """Log that the stage continues a finished training.

        Args:
            steps: of the finished training.
            finished: its checkpoints.
        """
        self.is_extended = True
        tags, earlier = {"extended_from": f"{steps} steps"}, first_outbox(finished.folder)
        runs = {"extended_from_run": earlier} if earlier else {}  # the worker knows the run's id
        self._write_entry(lambda outbox: outbox.write("tags", tags=tags, runs=runs))

    def end(self, status: str) -> None:
        """Log the final status and close the outbox."""
        self._log_waiting_system()
        self._write_entry(lambda outbox: outbox.write("end", status=status))
        self._write_entry(lambda outbox: outbox.close())

    def _is_readable(self, path: Path) -> bool:
        """Return True if a file can be read; otherwise print a warning."""
        if path.is_file() and os.access(path, os.R_OK):
            return True
        if self._outbox is not None:
            print(f"WARNING: {path} is not logged, since it cannot be read.", file=sys.stderr)
        return False

    def _points(
        self, names: Sequence[str], points: Sequence[tuple[int, int, Sequence[float]]]
    ) -> None:
        """Log points (step, milliseconds, values) of the metrics ``names``."""
        if not points:
            return
        self._write_points(names, points)
        self._has_metrics = True
        self._log_waiting_system()

    def _write_points(
        self, names: Sequence[str], points: Sequence[tuple[int, int, Sequence[float]]]
    ) -> None:
        self._write_entry(lambda outbox: outbox.write("metrics", names=list(names), rows=points))

    def _write_entry(self, write: Callable[[Outbox], None]) -> None:
        outbox = self._outbox
        if outbox is None:
            return
        try:
            write(outbox)
        except (OSError, ValueError) as error:  # ValueError: another thread closed the file
            with suppress(OSError):
                outbox.close()
            self._outbox = None
            reason = getattr(error, "strerror", None) or error
            print(
                f"WARNING: this run is no longer logged, since .atelier/ cannot be written"
                f" ({reason}); its results are not affected.",
                file=sys.stderr,
            )


def _is_trial() -> bool:
    return bool(os.environ.get(STUDY_VARIABLE))


def sheet(
    pixels: NDArray[np.uint8], columns: int = 0, min_width: int = SHEET_PIXELS
) -> NDArray[np.uint8]:
    """Arrange images in one image.

    Args:
        pixels: uint8 [N, H, W, C]; enlarged by a whole factor, without smoothing.
        columns: images in a row; 0 for a nearly square grid.
        min_width: of the image in pixels; smaller ones are enlarged.

    Returns:
        uint8 [H', W', 3].
    """
    count, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[:count] = pixels if channels == 3 else pixels.repeat(3, axis=-1)
    grid = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    grid = grid.reshape(rows * height, columns * width, 3)
    factor = math.ceil(min_width / (columns * width))
    return grid.repeat(factor, axis=0).repeat(factor, axis=1)
