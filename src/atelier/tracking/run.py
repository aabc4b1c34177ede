"""What a stage script says of itself: settings, numbers, pictures, outputs."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atelier.tracking import mlflow_names
from atelier.tracking.outbox import Outbox, now
from atelier.tracking.redact import numbers
from atelier.tracking.run_state import ResumeDir

if TYPE_CHECKING:
    from atelier.core.checkpoints import Checkpoints


class Run:
    """One execution of a stage; writes all that it is told to a journal.

    With no journal (tracking switched off) everything said is forgotten. Nothing said can
    harm the work: a journal that cannot be written is given up with one warning.
    """

    def __init__(self, journal: Outbox | None, unfinished: ResumeDir | None = None) -> None:
        self._journal = journal
        self._unfinished = unfinished
        self._warnings: list[str] = []
        self._began = self._told = now()

    def log_steps(
        self, first_step: int, names: Sequence[str], rows: NDArray[np.float32], images: int = 0
    ) -> None:
        """Log points of curves: a row per step, a column per name.

        Steps are read from the device many at a time, so that they carry no times of
        their own: they are spread evenly over the time since the last call.

        Args:
            first_step: the steps done before the first row.
            names: of the columns.
            rows: float [steps, names].
            images: pictures that these steps worked on, for ``images_per_second``; 0 for none.
        """
        end = now()
        seconds = max(end - self._told, 1) / 1000
        times = np.linspace(self._told, end, len(rows) + 1, dtype=np.int64)[1:]
        self._told = end
        points = [
            (step, int(at), row.tolist())
            for step, (at, row) in enumerate(zip(times, rows, strict=True), first_step + 1)
        ]
        self._points(names, points)
        if images:
            self._points(["images_per_second"], [(points[-1][0], end, [images / seconds])])

    def log_metrics(self, names: Sequence[str], rows: Mapping[int, Sequence[float]]) -> None:
        """Log points of curves that have steps of their own, as epochs: a row by step."""
        at = now()
        self._points(names, [(step, at, list(row)) for step, row in rows.items()])

    def log_system(self, values: Mapping[str, float]) -> None:
        """Log how busy the machine is; the steps are seconds since the run began."""
        at = now()
        self._points(list(values), [((at - self._began) // 1000, at, list(values.values()))])

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Log final numbers, also on the pipeline's run; words and lists are left out."""
        self._write_entry(lambda journal: journal.write("summary", values=numbers(values)))

    def log_images(self, key: str, pixels: NDArray[np.uint8], step: int, columns: int = 0) -> None:
        """Log pictures as one sheet of a series that has a step slider.

        Args:
            key: name of the series.
            pixels: uint8 [N, H, W, C].
            step: of the slider.
            columns: pictures in a row; 0 for a nearly square sheet.
        """
        from PIL import Image

        def tell(journal: Outbox) -> None:
            name = mlflow_names.image_key(key).replace("/", "~")
            file = journal.folder / f"{name}-{step:08d}.png"
            Image.fromarray(sheet(pixels, columns)).save(file, compress_level=1)
            journal.write("picture", key=key, step=step, file=file.name)

        self._write_entry(tell)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Log a file, or every file of a folder, under ``folder`` among the run's artifacts."""
        if path.is_dir():
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                self.log_artifact(
                    file, str(Path(folder or path.name, file.relative_to(path)).parent)
                )
            return
        if self._can_be_kept(path):
            self._write_entry(
                lambda journal: journal.write("artifact", file=journal.attach(path), folder=folder)
            )

    def log_model(self, path: Path, loader: str) -> None:
        """Log a network's file as an MLflow model named ``generator``.

        Args:
            path: the file.
            loader: ``module:function`` of this package that makes a ``torch.nn.Module``, an
                example of its input, float32 [B, ...], and what else there is to know of it, as
                JSON, from the file's path. Named rather than given, because another process
                calls it.
        """
        if self._can_be_kept(path):
            self._write_entry(
                lambda journal: journal.write("model", file=journal.attach(path), loader=loader)
            )

    def set_tags(self, **tags: str) -> None:
        """Log tags that are known only now."""
        self._write_entry(lambda journal: journal.write("tags", tags=tags))

    def warn(self, *troubles: str) -> None:
        """Print each sentence as a warning; a tag of the run holds all different ones in order."""
        for trouble in troubles:
            print(f"\nWARNING: {trouble}", file=sys.stderr, flush=True)
            # MLflow stores no more of a tag, so more would only make the journal large.
            is_full = len(" ".join(self._warnings)) > mlflow_names.TAG_LENGTH
            if trouble not in self._warnings and not is_full:
                self._warnings.append(trouble)
                self.set_tags(warning=" ".join(self._warnings))

    @contextmanager
    def checkpointing(self) -> "Iterator[tuple[Checkpoints, Callable[[], bool]]]":
        """Yield where to keep checkpoints, and what says that the work should save and end."""
        if self._unfinished is None:
            raise ValueError("only a stage that runs has a place for checkpoints")
        name = self._journal.folder.name if self._journal else ""
        with self._unfinished.checkpoints(name) as checkpoints:
            yield checkpoints, self._unfinished.stop_requested

    def end(self, status: str) -> None:
        """Log the outcome and close the journal."""
        self._write_entry(lambda journal: journal.write("end", status=status))
        self._write_entry(lambda journal: journal.close())

    def _can_be_kept(self, path: Path) -> bool:
        """Return whether a file can be read; else warn, and the rest of the run is logged."""
        if path.is_file() and os.access(path, os.R_OK):
            return True
        if self._journal is not None:
            print(f"WARNING: {path} is not logged, since it cannot be read.", file=sys.stderr)
        return False

    def _points(
        self, names: Sequence[str], points: Sequence[tuple[int, int, Sequence[float]]]
    ) -> None:
        """Log (step, milliseconds, values), where there are any, for the curves ``names``."""
        if not points:
            return
        self._write_entry(lambda journal: journal.write("metrics", names=list(names), rows=points))

    def _write_entry(self, tell: Callable[[Outbox], None]) -> None:
        journal = self._journal
        if journal is None:
            return
        try:
            tell(journal)
        except (OSError, ValueError) as error:  # ValueError: another thread closed it
            with suppress(OSError):
                journal.close()
            self._journal = None
            why = getattr(error, "strerror", None) or error
            print(
                f"WARNING: this run is no longer logged, since .atelier/ cannot be written ({why});"
                " its results are not touched by that.",
                file=sys.stderr,
            )


def sheet(pixels: NDArray[np.uint8], columns: int = 0) -> NDArray[np.uint8]:
    """Lay pictures [N, H, W, C] out as one picture [H', W', 3], nearly square if not told how."""
    count, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height, width, 3), 255, np.uint8)
    cells[:count] = pixels if channels == 3 else pixels.repeat(3, axis=-1)
    grid = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, 3)
