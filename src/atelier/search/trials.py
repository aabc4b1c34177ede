"""One trial of a study: its experiments, its pruning and its result."""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.search.settings import SECONDS, SearchSettings
from atelier.search.study import OpenStudy
from atelier.tracking.epoch_reports import EpochReport, has_ended, read_seconds
from atelier.tracking.experiment_record import record_settings
from atelier.tracking.experiment_remote import pull_experiment, push_experiment
from atelier.tracking.experiment_run import (
    Attempt,
    KilledError,
    Progress,
    epochs_file,
    run_experiment,
)
from atelier.tracking.experiments import experiment_file, experiment_metrics, finished_experiment

if TYPE_CHECKING:
    from optuna import Trial

EXPERIMENTS, STEPS, SEED_VALUES, REASON, PRUNED, KILLS = (
    "experiments",
    "steps",
    "seed_values",
    "reason",
    "pruned",
    "kills",
)
"""User attributes of a trial; its duration is in ``SECONDS``."""


_CLAIM_SECONDS = 2.0  # pause between checks of the claim


def output_folder(opened: OpenStudy, root: Path) -> Path:
    """Return the folder of the trials' output."""
    return root / ".atelier/search" / opened.key


class _LostError(Exception):
    """Another worker has taken the trial over."""


class _FailedError(Exception):
    """A training of the trial failed."""


class _PrunedError(Exception):
    """The trial is pruned.

    Args:
        name: of the experiment.
        changes: its settings.
    """

    def __init__(self, name: str, changes: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.name, self.changes = name, changes


@dataclass
class TrialRun:
    """Execution of one trial.

    Attributes:
        opened: its study.
        trial: of Optuna; this process has claimed it.
        root: the project.
        values: all present settings by dotted key.
        warn: receives sentences.
        show: receives the present state in words, several times per second.
    """

    opened: OpenStudy
    trial: "Trial"
    root: Path
    values: Mapping[str, Any]
    warn: Callable[[str], None]
    show: Callable[[str], None] = lambda text: None
    _seconds: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)
    _is_continued: bool = field(default=False, init=False)
    _is_lost: bool = field(default=False, init=False)
    _is_hopeless: bool = field(default=False, init=False)
    _next_check: float = field(default=0.0, init=False)
    _reported: set[int] | None = field(default=None, init=False)

    @property
    def _folder(self) -> Path:
        return output_folder(self.opened, self.root)

    @property
    def _search(self) -> SearchSettings:
        return self.opened.search

    def run(self) -> None:
        """Run what is missing of the trial, and tell Optuna its result.

        Raises:
            AtelierError: the stages do not log an objective.
            KeyboardInterrupt: the trial stays unfinished; the next search continues it.
        """
        settings = dict(self._search.fixed) | self.opened.suggest(self.trial)
        names = self._names()
        self._seconds = max(self.trial.user_attrs.get(SECONDS, 0.0), self._recorded_seconds(names))
        self._is_continued = EXPERIMENTS in self.trial.user_attrs
        self._set(EXPERIMENTS, list(names.values()))
        from optuna.exceptions import UpdateFinishedTrialError

        results: list[dict[str, float]] = []
        try:
            for seed, name in names.items():
                changes = settings | ({} if seed is None else {"train.seed": seed})
                results.append(self._train(name, changes, prunes=not results))
        except _PrunedError as pruned:
            record_settings(self.root, pruned.name, pruned.changes, "train", self.opened.commit)
            self._push(pruned.name)
            self._tell("PRUNED")
        except _FailedError as error:
            self._set(REASON, str(error))
            self._tell("FAIL")
        except (_LostError, UpdateFinishedTrialError):
            self._warn_of_loss()
        else:
            self._set(SEED_VALUES, [metrics[self._search.objectives[0]] for metrics in results])
            means = [
                self._seconds
                if objective == SECONDS
                else sum(metrics[objective] for metrics in results) / len(results)
                for objective in self._search.objectives
            ]
            self._tell("COMPLETE", means)

    def _recorded_seconds(self, names: Mapping[int | None, str]) -> float:
        """Return the duration of trainings on this machine, also of those without a search."""
        return sum(read_seconds(epochs_file(self._folder, name)) for name in names.values())

    def _names(self) -> dict[int | None, str]:
        """Return the names of the trial's experiments by seed; ``None`` is the present seed."""
        name = f"{self._search.study}-trial-{self.trial.number:03d}"
        if self._search.seeds == 1:
            return {None: name}
        first = int(self.values["train.seed"])
        return {first + i: f"{name}-seed-{first + i}" for i in range(self._search.seeds)}

    def _train(self, name: str, changes: Mapping[str, Any], prunes: bool) -> dict[str, float]:
        """Run an experiment, unless it has finished before; return its metrics."""
        if PRUNED in self.trial.user_attrs:  # before the search was killed
            raise _PrunedError(name, changes)
        before = self._seconds
        commit = self._finished(name, changes)
        if commit is None:
            commit = self._run_experiment(name, changes, prunes)
        if prunes:
            list(self._report(_measured(experiment_file(self.root, commit, "plots/quality.csv"))))
        self._steps += self._finished_steps(commit)
        self._set(STEPS, self._steps)
        has_duration = self._seconds > before or has_ended(epochs_file(self._folder, name))
        if SECONDS in self._search.objectives and not has_duration:
            raise _FailedError(
                f"DVC restored the training of {name} from its cache, so its duration is unknown"
            )
        metrics = experiment_metrics(self.root, commit) | {SECONDS: self._seconds}
        missing = [one for one in self._search.objectives if one not in metrics]
        if missing:
            self._set(REASON, f"{missing[0]} was not logged")
            self._tell("FAIL")
            log = self._folder / f"{name}.log"
            raise AtelierError(
                f"trial {self.trial.number} has finished, but its stages never logged {missing[0]};"
                f" {log} has their output, for example a warning about too few images."
            )
        return metrics

    def _finished(self, name: str, changes: Mapping[str, Any]) -> str | None:
        """Return the commit of an experiment that this or another machine has finished."""
        stages, remote = self._search.stages, self._search.git_remote
        baseline = self.opened.commit
        commit = finished_experiment(self.root, name, changes, stages, baseline)
        if commit is not None:
            self._push(name)  # the search may have been killed before
        elif SECONDS in self._search.objectives:
            return None  # the duration of a pulled training would be unknown
        elif remote and self._is_continued and pull_experiment(self.root, remote, name, baseline):
            commit = finished_experiment(self.root, name, changes, stages, baseline)
        return commit

    def _run_experiment(self, name: str, changes: Mapping[str, Any], prunes: bool) -> str:
        attempt = Attempt(
            name=name,
            changes=changes,
            stage=self._search.stages,
            folder=self._folder,
            study=self.opened.key,
            commit=self.opened.commit,
            descriptors=self.opened.claims.descriptors(self.trial.number),
            git_remote=self._search.git_remote,
        )
        last = None if self._value("train.steps", changes) else self._value("train.epochs", changes)
        before = self._seconds

        def observe(progress: Progress) -> bool:
            self._seconds = before + progress.seconds
            phase = "saving the results" if progress.steps else "starting DVC"
            self.show(f"trial {self.trial.number}: {str(progress) or phase}")
            try:
                if not self._is_ours():
                    return False
                if prunes:
                    self._judge(progress.reports, last)
                return not (self._is_hopeless and progress.is_training)
            except AtelierError:  # the database does not respond; the training needs none
                return True

        try:
            outcome = run_experiment(self.root, attempt, observe)
        except KilledError as error:
            self._count_kill(error)
            raise
        finally:
            if not self._is_lost:
                self._set(SECONDS, round(self._seconds, 2))
        if self._is_lost:
            raise _LostError
        self._seconds = before + outcome.seconds
        self._set(SECONDS, round(self._seconds, 2))
        if outcome.status == "finished":
            if not outcome.is_pushed:
                self._push(name)
            return outcome.commit
        self._steps += outcome.steps
        self._set(STEPS, self._steps)
        if outcome.status == "failed":
            raise _FailedError(outcome.reason)
        self._set(PRUNED, True)
        raise _PrunedError(name, changes)

    def _count_kill(self, error: KilledError) -> None:
        """Let the trial fail when its stage is killed for the second time.

        Raises:
            _FailedError: it is the second time.
        """
        kills = self.trial.user_attrs.get(KILLS, 0) + 1
        self._set(KILLS, kills)
        if kills > 1:
            raise _FailedError(str(error)) from None

    def _judge(self, reports: list[EpochReport], last_epoch: int | None) -> None:
        """Report new epochs to Optuna, and ask the pruner."""
        for report in self._report(reports):
            # After the last epoch nothing is saved, and the finished experiment would be lost.
            if report.epoch != last_epoch and self.trial.should_prune():
                self._is_hopeless = True

    def _report(self, reports: list[EpochReport]) -> Iterator[EpochReport]:
        """Report new epochs to Optuna, and yield each; none with two objectives."""
        if len(self._search.objectives) > 1:  # Optuna accepts no reports then
            return
        if reports and self._reported is None:
            self._reported = set(self.opened.frozen(self.trial.number).intermediate_values)
        for report in reports:
            if self._reported is not None and report.epoch not in self._reported:
                self.trial.report(report.kid, report.epoch)
                self._reported.add(report.epoch)
                self._set(SECONDS, round(self._seconds, 2))
                yield report

    def _is_ours(self) -> bool:
        """Return False if another worker has the trial; checked every few seconds."""
        if not self._is_lost and time.monotonic() >= self._next_check:
            self._is_lost = not self._is_claimed()
            self._next_check = time.monotonic() + _CLAIM_SECONDS
        return not self._is_lost

    def _is_claimed(self) -> bool:
        """Return True if this process has its claim, and no other one has ended the trial."""
        is_claimed = self.opened.claims.is_claimed(self.trial.number)
        return is_claimed and not self.opened.frozen(self.trial.number).state.is_finished()

    def _finished_steps(self, commit: str) -> int:
        content = experiment_file(self.root, commit, "metrics/details/train.json")
        return int(json.loads(content)["steps"]) if content else 0

    def _value(self, key: str, changes: Mapping[str, Any]) -> int:
        return int(changes.get(key, self.values[key]))

    def _set(self, name: str, value: Any) -> None:
        self.trial.set_user_attr(name, value)

    def _tell(self, state: str, values: list[float] | None = None) -> None:
        """Tell Optuna the end of the trial, unless another worker has taken it over."""
        from optuna.trial import TrialState

        if not self._is_claimed():
            self._warn_of_loss()
            return
        self.opened.study.tell(self.trial, values, TrialState[state])

    def _warn_of_loss(self) -> None:
        self.warn(
            "WARNING: the connection to the study's database was lost, and another worker has taken"
            f" trial {self.trial.number} over"
        )

    def _push(self, name: str) -> None:
        """Push an experiment to the git remote, if any, and its files to DVC's remote."""
        if not self._search.git_remote:
            return
        try:
            push_experiment(self.root, self._search.git_remote, name)
        except AtelierError as error:
            self.warn(f"WARNING: {error}")


def _measured(content: bytes | None) -> list[EpochReport]:
    """Return the epochs in ``plots/quality.csv``, which DVC may have restored from its cache."""
    rows = csv.DictReader(io.StringIO((content or b"").decode("utf-8", "replace")))
    return [EpochReport(int(row["epoch"]), float(row["kid"])) for row in rows]
