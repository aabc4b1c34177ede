"""Loop of a search: trial after trial, until the study is complete."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError, count_text
from atelier.core.progress import duration_text, status_line
from atelier.data.dataset import load_images
from atelier.metrics.reference import MIN_REAL_IMAGES
from atelier.search.best import best_trials
from atelier.search.settings import SEARCH_FILE, SECONDS, SearchSettings, value_text
from atelier.search.study import OpenStudy
from atelier.search.study_log import StudyLog
from atelier.search.trials import REASON, TrialRun, output_folder
from atelier.tracking.cached_folders import require_cached_folders
from atelier.tracking.programs import git_output

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.trial import FrozenTrial

VALIDATION = Path("data/validation.npz")
_VALIDATION_KID = "quality/validation_kid"
_WAIT_SECONDS = 1.0
_MAX_FAILURES = 3  # in a row, after which the next trial would fail too
_MAX_NAMES = 3


def require_recorded(root: Path, file: Path = Path(SEARCH_FILE)) -> None:
    """Raise unless trials can start from the commit that is checked out.

    Args:
        root: the project.
        file: description of the study, which may have changed.

    Raises:
        AtelierError: tracked files have changed, or DVC's cache lacks folders that ``dvc.lock``
            names.
    """
    listed = git_output(root, "diff", "HEAD", "--name-only", "--relative", "-z")
    names = [name for name in listed.split("\0") if name and name != str(file)]
    if names:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        raise AtelierError(
            f"{', '.join(names[:_MAX_NAMES])}{more} changed since the last commit, from which"
            " trials start; commit the changes, e.g. by `git commit -a`."
        )
    require_cached_folders(root)


def require_validation_images(root: Path, search: SearchSettings) -> None:
    """Raise if there are too few validation images for the KID of epochs.

    The number in the workspace is checked; a study whose trials convert images anew is not.

    Args:
        root: the project.
        search: the study.

    Raises:
        AtelierError: ``data/validation.npz`` has fewer than 16 images.
    """
    path = root / VALIDATION
    is_converted = any(
        key.startswith(("download.", "convert.")) for key in (*search.settings, *search.fixed)
    )
    if _VALIDATION_KID not in search.objectives or is_converted or not path.is_file():
        return
    number = len(load_images(path, may_be_empty=True).pixels)
    if number < MIN_REAL_IMAGES:
        raise AtelierError(
            f"{VALIDATION} has {count_text(number, 'image')}, and the KID of epochs needs"
            f" {MIN_REAL_IMAGES}; add images or raise convert.validation_fraction, run `dvc repro`"
            " and commit the result."
        )


def run_search(
    opened: OpenStudy, root: Path, values: Mapping[str, Any], print_line: Callable[[str], None]
) -> None:
    """Run trials until none is left, and wait for those of other workers.

    Args:
        opened: the study.
        root: the project.
        values: all present settings by dotted key.
        print_line: receives lines for the terminal.

    Raises:
        AtelierError: three trials in a row failed, or the stages do not log an objective.
        KeyboardInterrupt: the next search continues the trial.
    """
    failures = 0
    log = StudyLog(opened, root, values, print_line)
    opened.wait_for_database(lambda message: print_line(f"WARNING: {message}"))
    print_line(f"trials write their output to {output_folder(opened, root)}/")
    with closing(opened.claims), log.ending():
        with opened.claims.asking():  # one process creates the run of the study
            log.write("RUNNING")
        while trial := _next_trial(opened, print_line):
            print_line(_start_line(opened, trial.number, opened.suggest(trial)))
            with status_line() as show:
                TrialRun(opened, trial, root, values, print_line, show).run()
            opened.claims.release(trial.number)
            ended = opened.frozen(trial.number)
            print_line(f"  {result_text(opened, ended)}")
            log.write("RUNNING")
            failures = failures + 1 if ended.state.name == "FAIL" else 0
            if failures == _MAX_FAILURES:
                reason = ended.user_attrs.get(REASON, "")
                raise AtelierError(
                    f"{_MAX_FAILURES} trials in a row failed, the last one: {reason}"
                )


def _next_trial(opened: OpenStudy, print_line: Callable[[str], None]) -> "Trial | None":
    """Return the next trial; ``None`` if all have ended, also those of other processes."""
    waits_for = set[int]()
    while True:
        trial = opened.next_trial()
        others = opened.unfinished()
        if trial is not None or not others:
            return trial
        numbers = {one.number for one in others}
        if numbers != waits_for:
            waits_for = numbers
            print_line(_waiting_line(opened, others))
        time.sleep(_WAIT_SECONDS)


def _waiting_line(opened: OpenStudy, others: "Sequence[FrozenTrial]") -> str:
    numbers = ", ".join(str(trial.number) for trial in others)
    trials = f"trial {numbers}" if len(others) == 1 else f"trials {numbers}"
    where = "another worker runs" if opened.search.git_remote else "another process runs"
    return f"waiting for {trials}, which {where}; Ctrl-C ends the wait"


def _start_line(opened: OpenStudy, number: int, settings: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{key} {value_text(value)}" for key, value in settings.items())
    last = opened.search.trials - 1
    return f"trial {number} (the last is {last}): {listed}"


def result_text(opened: OpenStudy, trial: "FrozenTrial") -> str:
    """Return the result of a trial as a line, with the best one so far."""
    seconds = trial.user_attrs.get(SECONDS, 0.0)
    is_restored = not seconds and trial.state.name == "COMPLETE"
    duration = "restored by DVC" if is_restored else duration_text(seconds)
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
    return f"{text}, {duration}{best_text}"
