"""Loop of a search: trial after trial, until the study is complete."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError, count_text
from atelier.core.progress import duration_text
from atelier.search.settings import SECONDS
from atelier.search.study import PRESENT, OpenStudy
from atelier.search.trials import REASON, TrialRun
from atelier.tracking.dvc_lock import read_lock
from atelier.tracking.environment import git
from atelier.tracking.execution import Commit
from atelier.tracking.study_run import log_study

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_WAIT_SECONDS = 1.0
_MAX_FAILURES = 3  # in a row, after which the next trial would fail too
_MAX_NAMES = 3


def require_recorded(root: Path) -> None:
    """Raise unless trials can start from the commit that is checked out.

    Raises:
        AtelierError: tracked files have changed, or DVC's cache lacks folders that ``dvc.lock``
            names, without which ``dvc exp run`` fails.
    """
    changed = git("status", "--porcelain", "--untracked-files=no", cwd=root)
    names = [line[3:] for line in (changed or "").splitlines()]
    names = [name for name in names if name != "search.yaml"]
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        raise AtelierError(
            f"{', '.join(names[:_MAX_NAMES])}{more} changed since the last commit, from which"
            " trials start; commit the changes, e.g. by `git commit -a`."
        )
    tree = Commit.open(root, "HEAD")
    records = read_lock((tree.read("dvc.lock") or b"").decode("utf-8", "replace"))
    hashes = {path: md5 for record in records.values() for path, md5 in record.outputs.items()}
    lost = [
        path
        for path, md5 in hashes.items()
        if md5.endswith(".dir") and not (tree.cache / md5[:2] / md5[2:]).is_file()
    ]
    if lost:
        raise AtelierError(
            f"DVC's cache lacks {', '.join(lost[:_MAX_NAMES])}, which dvc.lock names; type `dvc"
            " pull`, or `dvc repro` and commit dvc.lock."
        )


def run_search(
    opened: OpenStudy, root: Path, values: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Run trials until none is left, and wait for those of other workers.

    Args:
        opened: the study.
        root: the project.
        values: all present settings by dotted key.
        say: receives lines for the terminal.

    Raises:
        AtelierError: three trials in a row failed, or the stages do not log an objective.
        KeyboardInterrupt: the next search continues the trial.
    """
    failures, waits_for = 0, 0
    log = _StudyLog(opened, root, values, say)
    with _closing(opened):
        log.write(is_finished=False)
        while True:
            trial = opened.next_trial()
            if trial is None:
                others = opened.unfinished()
                if not others:
                    break
                if others[0].number + 1 != waits_for:
                    waits_for = others[0].number + 1
                    say(f"waiting for trial {others[0].number}, which another process runs")
                time.sleep(_WAIT_SECONDS)
                continue
            say(_start_line(opened, trial.number, opened.suggest(trial)))
            TrialRun(opened, trial, root, values, say).run()
            opened.claims.release(trial.number)
            ended = _frozen(opened.study, trial.number)
            say(f"  {result_text(opened, ended)}")
            log.write(is_finished=False)
            failures = failures + 1 if ended.state.name == "FAIL" else 0
            if failures == _MAX_FAILURES:
                reason = ended.user_attrs.get(REASON, "")
                raise AtelierError(
                    f"{_MAX_FAILURES} trials in a row failed, the last one: {reason}"
                )
        log.write(is_finished=True)


@contextmanager
def _closing(opened: OpenStudy) -> Iterator[None]:
    try:
        yield
    finally:
        opened.claims.close()


def _frozen(study: "Study", number: int) -> "FrozenTrial":
    return next(t for t in study.get_trials(deepcopy=False) if t.number == number)


def _start_line(opened: OpenStudy, number: int, settings: Mapping[str, Any]) -> str:
    shown = ", ".join(f"{key} {value}" for key, value in settings.items())
    return f"trial {number} of {opened.search.trials}: {shown}"


def result_text(opened: OpenStudy, trial: "FrozenTrial") -> str:
    """Return the result of a trial as a line, with the best one so far."""
    seconds = duration_text(trial.user_attrs.get(SECONDS, 0.0))
    match trial.state.name:
        case "COMPLETE":
            names = zip(opened.search.objectives, trial.values or (), strict=True)
            text = ", ".join(f"{name} {value:.4g}" for name, value in names)
        case "PRUNED":
            text = f"pruned after {count_text(len(trial.intermediate_values), 'measured epoch')}"
        case "FAIL":
            text = f"failed: {trial.user_attrs.get(REASON, 'unknown reason')}"
        case _:
            text = "left to another worker"
    best = best_trials(opened.study)
    ahead = ", ".join(str(one.number) for one in best)
    is_front = len(opened.search.objectives) > 1
    best_text = f"; {'Pareto front' if is_front else 'best'}: trial {ahead}" if best else ""
    return f"{text}, {seconds}{best_text}"


def best_trials(study: "Study") -> "Sequence[FrozenTrial]":
    """Return the best finished trial, or the Pareto front of two objectives; empty if none is."""
    finished = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if not finished:
        return []
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: trial.values)
    return [min(finished, key=lambda trial: (trial.value, trial.number))]


def present_trial(study: "Study") -> "FrozenTrial | None":
    """Return the finished trial with the settings of ``params.yaml``, if there is one."""
    found = (t for t in study.get_trials(deepcopy=False) if t.user_attrs.get(PRESENT))
    trial = next(found, None)
    return trial if trial and trial.state.name == "COMPLETE" else None


class _StudyLog:
    """Writes the state of a study to its run in MLflow, until that fails once."""

    def __init__(
        self, opened: OpenStudy, root: Path, values: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._opened, self._root, self._say = opened, root, say
        self._enabled = bool(values["tracking.enabled"])
        self._experiment = str(values["tracking.experiment"])
        self._started = int(time.time() * 1000)

    def write(self, is_finished: bool) -> None:
        if not self._enabled:
            return
        try:
            log_study(
                self._root,
                self._experiment,
                self._opened.search.study,
                tags=self._tags(),
                metrics=self._metrics(),
                started=self._started,
                is_finished=is_finished,
            )
        except AtelierError as error:
            self._enabled = False
            self._say(f"WARNING: {error} The search goes on; trials are logged as always.")

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
        counts: dict[str, float] = {}
        for trial in self._opened.study.get_trials(deepcopy=False):
            name = f"trials/{trial.state.name.lower()}"
            counts[name] = counts.get(name, 0) + 1
        best = best_trials(self._opened.study)
        if len(best) == 1:
            values = zip(self._opened.search.objectives, best[0].values or (), strict=True)
            return dict(values) | counts
        return counts
