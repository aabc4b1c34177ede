"""One trial of a study: its experiments, its pruning and its result."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier.core.errors import AtelierError
from atelier.search.settings import SECONDS, SearchSettings
from atelier.search.study import OpenStudy
from atelier.tracking.epoch_reports import EpochReport
from atelier.tracking.experiment_record import record_settings
from atelier.tracking.experiments import (
    Attempt,
    Progress,
    experiment_file,
    experiment_metrics,
    finished_experiment,
    run_experiment,
)

if TYPE_CHECKING:
    from optuna import Trial

EXPERIMENTS, STEPS, SEED_VALUES, REASON, PRUNED = (
    "experiments",
    "steps",
    "seed_values",
    "reason",
    "pruned",
)
"""User attributes of a trial; its duration is in ``SECONDS``."""


class _FailedError(Exception):
    """A training of the trial failed."""


class _PrunedError(Exception):
    """The pruner gave the trial up.

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
    """

    opened: OpenStudy
    trial: "Trial"
    root: Path
    values: Mapping[str, Any]
    warn: Callable[[str], None]
    _seconds: float = field(default=0.0, init=False)
    _steps: int = field(default=0, init=False)

    @property
    def _search(self) -> SearchSettings:
        return self.opened.search

    def run(self) -> None:
        """Run what is missing of the trial, and tell Optuna its result.

        Raises:
            AtelierError: the stages do not log an objective.
            KeyboardInterrupt: the trial stays unfinished; the next search continues it.
        """
        self._seconds = self.trial.user_attrs.get(SECONDS, 0.0)
        settings = dict(self._search.fixed) | self.opened.suggest(self.trial)
        names = self._names()
        self._set(EXPERIMENTS, list(names.values()))
        results: list[dict[str, float]] = []
        try:
            for seed, name in names.items():
                changes = settings | ({} if seed is None else {"train.seed": seed})
                results.append(self._train(name, changes, prunes=not results))
        except _PrunedError as pruned:
            record_settings(self.root, pruned.name, pruned.changes, "train")
            self._push(pruned.name)
            self._tell("PRUNED")
        except _FailedError as error:
            self._set(REASON, str(error))
            self._tell("FAIL")
        else:
            self._set(SEED_VALUES, [metrics[self._search.objectives[0]] for metrics in results])
            means = [
                self._seconds
                if objective == SECONDS
                else sum(metrics[objective] for metrics in results) / len(results)
                for objective in self._search.objectives
            ]
            self._tell("COMPLETE", means)

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
        commit = finished_experiment(self.root, name, changes, self._search.stages)
        if commit is None:
            commit = self._run_experiment(name, changes, prunes)
            self._push(name)
        if prunes:
            list(self._report(_measured(experiment_file(self.root, commit, "plots/quality.csv"))))
        self._steps += self._finished_steps(commit)
        self._set(STEPS, self._steps)
        metrics = experiment_metrics(self.root, commit) | {SECONDS: self._seconds}
        missing = [name for name in self._search.objectives if name not in metrics]
        if missing:
            self._set(REASON, f"{missing[0]} was not logged")
            self._tell("FAIL")
            raise AtelierError(
                f"trial {self.trial.number} has finished, but its stages never logged {missing[0]};"
                f" it logged {', '.join(sorted(set(metrics) - {SECONDS})) or 'nothing'}."
            )
        return metrics

    def _run_experiment(self, name: str, changes: Mapping[str, Any], prunes: bool) -> str:
        attempt = Attempt(
            name=name,
            changes=changes,
            stage=self._search.stages,
            folder=self.root / ".atelier/search" / self._search.study,
            study=self._search.study,
            descriptors=(self.opened.claims.descriptor(self.trial.number),),
        )
        last = None if self._value("train.steps", changes) else self._value("train.epochs", changes)
        before = self._seconds

        def observe(progress: Progress) -> bool:
            self._seconds = before + progress.seconds
            return not prunes or self._is_promising(progress.reports, last)

        outcome = run_experiment(self.root, attempt, observe)
        self._seconds = before + outcome.seconds
        self._set(SECONDS, round(self._seconds, 2))
        if outcome.status == "finished":
            return outcome.commit
        self._steps += outcome.steps
        self._set(STEPS, self._steps)
        if outcome.status == "failed":
            raise _FailedError(outcome.reason)
        self._set(PRUNED, True)
        raise _PrunedError(name, changes)

    def _is_promising(self, reports: list[EpochReport], last_epoch: int | None) -> bool:
        """Report new epochs to Optuna; return False if the pruner gives the trial up."""
        for report in self._report(reports):
            # After the last epoch nothing is saved, and the finished experiment would be lost.
            if report.epoch != last_epoch and self.trial.should_prune():
                return False
        return True

    def _report(self, reports: list[EpochReport]) -> Iterator[EpochReport]:
        """Report epochs to Optuna that it does not know; yield each after its report."""
        known = self._intermediate() if reports else {}
        for report in reports:
            if report.epoch not in known:
                self.trial.report(report.kid, report.epoch)
                self._set(SECONDS, round(self._seconds, 2))
                yield report

    def _intermediate(self) -> dict[int, float]:
        trials = self.opened.study.get_trials(deepcopy=False)
        return next(t for t in trials if t.number == self.trial.number).intermediate_values

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

        if not self.opened.claims.is_claimed(self.trial.number):
            self.warn(
                f"the connection to the study's database was lost; trial {self.trial.number} is"
                " left to other workers."
            )
            return
        self.opened.study.tell(self.trial, values, TrialState[state])

    def _push(self, name: str) -> None:
        """Push an experiment to the git remote, if any, and its files to DVC's remote."""
        if not self._search.git_remote:
            return
        command = [sys.executable, "-m", "dvc", "exp", "push", "--force", self._search.git_remote]
        done = subprocess.run(  # noqa: S603 - no shell; names are checked
            [*command, name], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = lines[-1].removeprefix("ERROR: ") if lines else "no message"
            self.warn(f"{name} cannot be pushed to {self._search.git_remote}: {reason}")


def _measured(content: bytes | None) -> list[EpochReport]:
    """Return the epochs in ``plots/quality.csv``, which DVC may have restored from its cache."""
    rows = csv.DictReader(io.StringIO((content or b"").decode("utf-8", "replace")))
    return [EpochReport(int(row["epoch"]), float(row["kid"])) for row in rows]
