"""Tests of one trial: its settings, seeds, reports, pruning and result.

Trainings are replaced by a table of results, because each of them takes seconds; other tests run
them with the real dvc.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from atelier.core.errors import AtelierError
from atelier.search import loop, trials
from atelier.search.settings import SearchSettings
from atelier.search.study import OpenStudy, open_study
from atelier.search.trials import TrialRun
from atelier.tracking.epoch_reports import EpochReport
from atelier.tracking.experiment_run import Attempt, Outcome, Progress

from .test_study import PRESENT, SPACE, make_repository

VALUES = PRESENT | {
    "train.seed": 5, "train.epochs": 3, "train.steps": 0,
    "tracking.enabled": False, "tracking.experiment": "x",
}  # fmt: skip


class Trainings:
    """Stand-in for experiments: each measures three epochs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.attempts: list[Attempt] = []
        self.finished: dict[str, dict[str, float]] = {}
        self.recorded: list[tuple[str, str]] = []
        self.kids: Callable[[Attempt], list[float]] = lambda attempt: [3.0, 2.0, 1.0]
        self.failure = ""
        self.metrics: Mapping[str, float] | None = None
        monkeypatch.setattr(trials, "run_experiment", self._run)
        monkeypatch.setattr(trials, "finished_experiment", self._find)
        monkeypatch.setattr(trials, "experiment_metrics", lambda root, name: self.finished[name])
        monkeypatch.setattr(trials, "experiment_file", self._file)
        monkeypatch.setattr(trials, "record_settings", self._record)

    def _run(self, root: Path, attempt: Attempt, observe: Callable[[Progress], bool]) -> Outcome:
        self.attempts.append(attempt)
        if self.failure:
            return Outcome("failed", reason=self.failure)
        reports = []
        for number, kid in enumerate(self.kids(attempt), 1):
            reports.append(EpochReport(number, kid))
            if not observe(Progress(list(reports), 2.0 * number, 10 * number, is_training=True)):
                return Outcome("stopped", seconds=2.0 * number, steps=10 * number)
        kid = reports[-1].kid
        self.finished[attempt.name] = dict(self.metrics or {"quality/validation_kid": kid})
        return Outcome("finished", attempt.name, seconds=6.0, steps=30)

    def _find(self, root: Path, name: str, *other: object) -> str | None:
        return name if name in self.finished else None

    def _file(self, root: Path, name: str, path: str) -> bytes:
        if path.endswith(".json"):
            return json.dumps({"steps": 30}).encode()
        out = io.StringIO()
        rows = csv.writer(out)
        rows.writerows([("epoch", "kid"), (1, 3.0), (2, 2.0), (3, 1.0)])
        return out.getvalue().encode()

    def _record(self, root: Path, name: str, changes: object, stage: str, commit: str) -> None:
        self.recorded.append((name, commit))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("trials") / "project")


@pytest.fixture
def opened(repository: Path, tmp_path: Path) -> Callable[..., OpenStudy]:
    def open_(**changes: Any) -> OpenStudy:
        content = {"study": "first", "settings": SPACE, "trials": 2, "fixed": {"train.epochs": 3}}
        search = SearchSettings.model_validate(content | changes)
        return open_study(search, VALUES, repository, str(tmp_path / "s.db"))

    return open_


def run_next(study: OpenStudy, root: Path) -> FrozenTrial:
    trial = study.next_trial()
    assert trial is not None
    TrialRun(study, trial, root, VALUES, print).run()
    study.claims.release(trial.number)
    return study.study.get_trials()[trial.number]


def write_epochs(study: OpenStudy, root: Path, *lines: Mapping[str, Any]) -> None:
    """Write what the training of the first trial has reported."""
    folder = root / ".atelier/search" / study.key
    folder.mkdir(parents=True)
    content = "\n".join(map(json.dumps, lines))
    (folder / f"{study.search.study}-trial-000.epochs").write_text(content, "utf-8")


def test_attempt_has_the_searched_and_the_fixed_settings(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened()
    ended = run_next(study, repository)
    (attempt,) = trainings.attempts
    assert attempt.name == "first-trial-000"
    assert attempt.changes == PRESENT | {"train.epochs": 3}
    assert attempt.stage == "train"
    assert attempt.commit == study.commit
    assert attempt.study == study.key
    assert attempt.descriptors  # the command inherits the claim
    assert ended.state == TrialState.COMPLETE
    assert ended.value == 1.0
    assert ended.intermediate_values == {1: 3.0, 2: 2.0, 3: 1.0}
    assert ended.user_attrs["seconds"] == 6.0
    assert ended.user_attrs["steps"] == 30


def test_objective_is_the_mean_over_seeds(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    trainings.kids = lambda attempt: [9.0, 9.0, float(attempt.changes["train.seed"])]
    ended = run_next(opened(seeds=3), repository)
    names = [f"first-trial-000-seed-{seed}" for seed in (5, 6, 7)]
    assert [attempt.name for attempt in trainings.attempts] == names
    assert ended.user_attrs["experiments"] == names
    assert ended.user_attrs["seed_values"] == [5.0, 6.0, 7.0]
    assert ended.value == 6.0
    assert ended.user_attrs["seconds"] == 18.0
    assert ended.user_attrs["steps"] == 90
    assert ended.intermediate_values[3] == 5.0  # of the first seed only


def test_hopeless_training_is_stopped_and_recorded(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened()
    study.study.pruner = optuna.pruners.ThresholdPruner(upper=2.5)
    ended = run_next(study, repository)
    assert ended.state == TrialState.PRUNED
    assert ended.intermediate_values == {1: 3.0}
    assert ended.user_attrs["steps"] == 10
    assert trainings.recorded == [("first-trial-000", study.commit)]


def test_training_is_not_stopped_after_its_last_epoch(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened()
    study.study.pruner = optuna.pruners.ThresholdPruner(lower=1.5)
    assert run_next(study, repository).state == TrialState.COMPLETE


def test_search_killed_after_pruning_does_not_train_again(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened()
    trial = study.next_trial()
    assert trial is not None
    trial.set_user_attr("pruned", True)
    ended = run_next(study, repository)
    assert ended.state == TrialState.PRUNED
    assert not trainings.attempts
    assert trainings.recorded == [("first-trial-000", study.commit)]


def test_finished_experiment_of_a_killed_search_is_used(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    trainings.finished["first-trial-000"] = {"quality/validation_kid": 0.5}
    ended = run_next(opened(), repository)
    assert not trainings.attempts
    assert ended.value == 0.5
    assert ended.intermediate_values == {1: 3.0, 2: 2.0, 3: 1.0}  # of plots/quality.csv
    assert ended.user_attrs["steps"] == 30


def test_two_objectives_need_no_reports(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened(objectives=["quality/validation_kid", "seconds"], pruner="none")
    ended = run_next(study, repository)
    assert ended.values == [1.0, 6.0]


def test_restored_training_has_no_duration(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    trainings.finished["first-trial-000"] = {"quality/validation_kid": 0.5}
    ended = run_next(opened(objectives=["seconds"], pruner="none"), repository)
    assert ended.state == TrialState.FAIL
    assert "its duration is unknown" in ended.user_attrs["reason"]


def test_failed_training_has_a_reason(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    trainings.failure = "losses are not finite"
    study = opened()
    ended = run_next(study, repository)
    assert ended.state == TrialState.FAIL
    assert loop.result_text(study, ended) == "failed: losses are not finite, a few seconds"
    assert ended.user_attrs["reason"] == "losses are not finite"


def test_objective_that_is_never_logged_is_one_sentence(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    trainings.metrics = {"style/loss": 1.0}
    with pytest.raises(
        AtelierError, match=r"never logged quality/validation_kid; .*first-trial-000.log"
    ):
        run_next(opened(), repository)


def test_search_ends_after_three_failures_in_a_row(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    trainings.failure = "no disk"
    study = opened(trials=9)
    with pytest.raises(AtelierError, match=r"3 trials in a row failed, the last one: no disk"):
        loop.run_search(study, repository, VALUES, print)
    assert len(study.study.get_trials()) == 3


def test_lines_of_a_search(
    opened: Callable[..., OpenStudy],
    repository: Path,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []
    shown: list[str] = []
    monkeypatch.setattr(loop, "status_line", lambda: nullcontext(shown.append))
    loop.run_search(opened(), repository, VALUES, lines.append)
    study = opened()
    assert lines[0] == f"trials write their output to {repository}/.atelier/search/{study.key}/"
    assert lines[1].startswith("trial 0 (the last is 1): train.lr 0.001, train.batch_size 32, ")
    assert lines[2] == "  quality/validation_kid 1, 6 seconds; best: trial 0"
    assert len(lines) == 5
    assert shown[3] == "trial 1: step 10, KID 3 (epoch 1)"


def test_progress_is_shown_during_a_trial(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study, shown = opened(), list[str]()
    trial = study.next_trial()
    assert trial is not None
    TrialRun(study, trial, repository, VALUES, print, shown.append).run()
    assert shown[0] == "trial 0: step 10, KID 3 (epoch 1)"
    assert len(shown) == 3


def test_progress_in_words() -> None:
    reports = [EpochReport(1, 3.0), EpochReport(2, 2.5)]
    progress = Progress(reports, 9.0, steps=1500, total=3400, remaining=60.0, is_training=True)
    assert str(progress) == "step 1,500 of 3,400, about 60 seconds left, KID 2.5 (epoch 2)"
    assert len(f"trial 123: {progress} ...") < 80
    assert str(Progress(is_training=True)) == ""
    assert str(replace(progress, is_training=False)) == ""


def test_duration_includes_attempts_whose_search_was_killed(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened(objectives=["seconds"], pruner="none", study="killed")
    trial = study.next_trial()
    assert trial is not None
    trial.set_user_attr("seconds", 3.0)  # what the search had seen
    lines = [{"process": "a", "seconds": 2.0}, {"epoch": 1, "kid": 3.0}]
    lines += [{"process": "a", "seconds": 4.0}, {"process": "b", "seconds": 1.0}]
    write_epochs(study, repository, *lines)
    assert run_next(study, repository).value == 4.0 + 1.0 + 6.0


def test_finished_experiment_of_a_killed_search_has_its_duration(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened(objectives=["seconds"], pruner="none", study="orphan")
    trainings.finished["orphan-trial-000"] = {"quality/validation_kid": 0.5}
    write_epochs(study, repository, {"process": "a", "seconds": 7.5, "is_last": True})
    assert run_next(study, repository).value == 7.5


def test_begun_training_that_dvc_restored_has_no_duration(
    opened: Callable[..., OpenStudy], repository: Path, trainings: Trainings
) -> None:
    study = opened(objectives=["seconds"], pruner="none", study="begun")
    trainings.finished["begun-trial-000"] = {"quality/validation_kid": 0.5}
    write_epochs(study, repository, {"process": "a", "seconds": 7.5, "is_last": False})
    assert run_next(study, repository).state == TrialState.FAIL
