"""State of a study in its run in MLflow."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from atelier.core.errors import AtelierError
from atelier.search.best import best_trials
from atelier.search.study import OpenStudy
from atelier.tracking.study_run import log_study

_STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING")
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class StudyLog:
    """Writes the state of a study to its run in MLflow, until that fails once."""

    def __init__(
        self,
        opened: OpenStudy,
        root: Path,
        values: Mapping[str, Any],
        print_line: Callable[[str], None],
    ) -> None:
        self._opened, self._root, self._print_line = opened, root, print_line
        self._enabled = bool(values["tracking.enabled"])
        self._experiment = str(values["tracking.experiment"])
        self._started = int(time.time() * 1000)

    def write(self, status: Status) -> None:
        """Log tags and metrics, and set the status of the run."""
        if not self._enabled:
            return
        try:
            log_study(
                self._root,
                self._experiment,
                self._opened.key,
                tags=self._tags(),
                metrics=self._metrics(),
                started=self._started,
                status=status,
            )
        except AtelierError as error:
            self._enabled = False
            self._print_line(f"WARNING: {error} The search continues without this run.")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Set the final status of the run when the body ends."""
        try:
            yield
        except KeyboardInterrupt:
            self.write("KILLED")
            raise
        except AtelierError:
            self._opened.retry.seconds = 0.0  # it may have waited for the database already
            self.write("FAILED")
            raise
        self.write("FINISHED")

    def _tags(self) -> dict[str, str]:
        best = best_trials(self._opened.study)
        names = [name for one in best for name in one.user_attrs.get("experiments", [])]
        return {
            "search": self._opened.search.model_dump_json(),
            "best": ", ".join(names),
            "mlflow.note.content": (
                f"Study {self._opened.search.study}: its trials are nested below. "
                f"Best: {', '.join(names) or 'none yet'}."
            ),
        }

    def _metrics(self) -> dict[str, float]:
        states = [trial.state.name for trial in self._opened.study.get_trials(deepcopy=False)]
        counts = {f"trials/{name.lower()}": float(states.count(name)) for name in _STATES}
        best = best_trials(self._opened.study)
        if len(best) != 1:
            return counts
        return dict(zip(self._opened.search.objectives, best[0].values or (), strict=True)) | counts
