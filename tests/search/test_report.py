"""Content of the report of a study."""

import json
import math
import subprocess
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from atelier.search.report import build_report
from atelier.search.report_importance import importances
from atelier.search.report_trials import (
    Objective,
    best_first,
    record_of,
    saved_steps,
    settings_of,
    short_duration,
)
from atelier.search.settings import value_text

from ..support.project import AUTHOR
from ..support.studies import KID, a_study, a_trial, random_study

PARAMS = """
train: {lr: 0.001, ema_decay: 0.99, batch_size: 32, latent_size: 100, epochs: 41, seed: 1}
"""
RECORDS = (Objective(KID),)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Git repository with a ``params.yaml``, and its commit."""
    root = tmp_path_factory.mktemp("repository")
    (root / "params.yaml").write_text(PARAMS)
    for command in (["init", "-q"], ["add", "."], [*AUTHOR, "commit", "-q", "-m", "settings"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return root, commit.strip()


def test_headline_compares_the_best_trial_with_the_present_settings(
    repository: tuple[Path, str],
) -> None:
    root, commit = repository
    trials = [
        a_trial(4.0),
        a_trial(2.5, changes={"train.lr": 0.002}),
        a_trial(3.0, changes={"train.lr": 0.003}),
    ]
    report = build_report(a_study(trials, commit=commit), root)
    assert report.title == "Search sizes"
    assert report.headline == (
        "Trial 1 has the lowest validation KID of 3 trials: 2.50, 0.62 times that of the present"
        " settings"
    )
    assert report.level == "good"
    reasons = dict(report.reasons)
    assert reasons["Present"] == "Trial 0 has the present settings: validation KID 4.00."
    assert reasons["Trials"] == "3 finished."
    assert reasons["Time"] == "30 minutes of training, 10 minutes per trial."
    assert reasons["Caution"].startswith("One seed each: the best of many trials is partly luck.")
    assert "Pruning" not in reasons
    assert [best.title for best in report.best] == [
        "Trial 1",
        "Trial 2",
        "Trial 0, the present settings",
    ]
    assert report.present is None
    assert report.present_settings["train.lr"] == "0.001"
    assert report.best[0].settings["train.lr"] == "0.002"
    assert report.commit == commit[:8]
    assert ("Objective", "lowest validation KID") in report.facts
    assert ("Ran", "2026-11-28 12:00 to 2026-11-28 12:10") in report.facts


def test_present_settings_that_are_the_best_are_no_success(repository: tuple[Path, str]) -> None:
    root, commit = repository
    trials = [a_trial(2.0), a_trial(2.5, changes={"train.lr": 0.002})]
    report = build_report(a_study(trials, commit=commit), root)
    assert report.headline == (
        "No trial has a lower validation KID than the present settings: 2.00"
    )
    assert report.level == "unknown"
    assert "Present" not in dict(report.reasons)


def test_present_settings_are_shown_if_five_trials_are_better(
    repository: tuple[Path, str],
) -> None:
    root, commit = repository
    better = [a_trial(2.0 + n / 10, changes={"train.lr": 0.002 + n / 1000}) for n in range(6)]
    report = build_report(a_study([a_trial(4.0), *better], commit=commit), root)
    assert [best.trial.number for best in report.best] == [1, 2, 3, 4, 5]
    assert report.present is not None
    assert report.present.trial.number == 0


def test_negative_values_are_not_divided(repository: tuple[Path, str]) -> None:
    root, commit = repository
    trials = [a_trial(0.02), a_trial(-0.01, changes={"train.lr": 0.002})]
    headline = build_report(a_study(trials, commit=commit), root).headline
    assert headline.endswith("2 trials: -0.0100; the present settings have 0.0200")


def test_without_the_commit_the_present_settings_are_those_marked(tmp_path: Path) -> None:
    trials = [a_trial(4.0, is_present=True), a_trial(2.0, changes={"train.lr": 0.002})]
    report = build_report(a_study(trials, fixed={"train.epochs": 4}), tmp_path)
    assert report.headline.endswith("2.00, 0.5 times that of the present settings")
    assert report.present_settings == {}
    assert [(each.key, each.value, each.earlier) for each in report.fixed] == [
        ("train.epochs", "4", "")
    ]
    unmarked = build_report(a_study([a_trial(4.0), a_trial(2.0)]), tmp_path)
    assert unmarked.headline == "Trial 1 has the lowest validation KID of 2 trials: 2.00"
    assert unmarked.level == "unknown"


def test_seeds_have_a_standard_error(repository: tuple[Path, str]) -> None:
    root, commit = repository
    close, clear = [2.0, 2.4, 2.8], [1.0, 1.1, 1.2]
    trials = [
        a_trial(2.6, seed_values=[2.2, 2.6, 3.0]),
        a_trial(2.4, seed_values=close, changes={"train.lr": 0.002}),
    ]
    report = build_report(a_study(trials, commit=commit, seeds=3), root)
    error = 0.4 / math.sqrt(3)
    assert report.best[0].trial.error == pytest.approx(error)
    assert report.best[0].objectives == [("validation KID", "2.4 ± 0.2")]
    assert report.level == "unknown"
    assert dict(report.reasons)["Present"].endswith(
        "2.6 ± 0.2. The difference is less than twice its standard error; it may be chance."
    )
    assert dict(report.reasons)["Caution"].startswith(
        "The number after ± is the standard error of 3"
    )
    trials.append(a_trial(1.1, seed_values=clear, changes={"train.lr": 0.003}))
    report = build_report(a_study(trials, commit=commit, seeds=3), root)
    assert report.level == "good"
    assert dict(report.reasons)["Present"].endswith("validation KID 2.6 ± 0.2.")
    sums = record_of(a_trial(30.0, seed_values=[10.0, 20.0]), (Objective("seconds"),), {})
    assert math.isnan(sums.error), "the seconds of all seeds are no mean"


def test_saved_steps_follow_from_epochs_and_from_the_batch_size() -> None:
    curve = dict.fromkeys(range(1, 11), 3.0)
    trials = [
        a_trial(2.0, curve=curve, steps=1000),
        # Twice the batch size: half of the steps per epoch.
        a_trial(state=TrialState.PRUNED, curve={1: 9.0, 2: 8.0}, steps=100),
        a_trial(state=TrialState.PRUNED, steps=300),  # no epochs were reported
        a_trial(state=TrialState.FAIL, steps=700),
    ]
    records = [record_of(trial, RECORDS, {}) for trial in trials]
    saved = saved_steps(records, seeds=1)
    assert saved is not None
    assert (saved.done, saved.full) == (1400, 1000 + 500 + 1000)
    assert saved.share == pytest.approx(1100 / 2500)
    three = saved_steps(records[:2], seeds=3)  # only the first seed is pruned
    assert three is not None
    assert three.full == 1000 + 3 * 500
    assert saved_steps(records[:1], seeds=1) is None
    assert saved_steps(records[1:], seeds=1) is None


def test_pruning_failures_and_running_trials_are_counted(tmp_path: Path) -> None:
    lost = "losses are not finite; see https://user:secret@host/log?token=x"
    trials = [
        a_trial(2.0, curve={1: 4.0, 2: 2.0}, steps=200),
        a_trial(state=TrialState.PRUNED, curve={1: 9.0}, steps=100),
        a_trial(state=TrialState.FAIL, reason=lost),
        a_trial(state=TrialState.FAIL, reason="the disk is full"),
        a_trial(state=TrialState.FAIL, reason=lost),
        a_trial(state=TrialState.FAIL),
        a_trial(state=TrialState.RUNNING),
        a_trial(math.inf),
    ]
    report = build_report(a_study(trials), tmp_path)
    reasons = dict(report.reasons)
    assert reasons["Trials"] == "1 finished, 1 pruned, 5 failed, 1 running."
    assert reasons["Pruning"] == "Saved about 25% of the training steps: 300 instead of 400."
    assert [(each.trials, each.reason) for each in report.failures] == [
        ("Trials 2, 4", "losses are not finite; see https://host/log"),
        ("Trial 3", "the disk is full"),
        ("Trial 5", "no reason was recorded"),
        ("Trial 7", "an objective is not a finite number"),
    ]
    assert [row.trial.number for row in report.rows] == [0, 6, 1, 2, 3, 4, 5, 7]
    assert report.rows[0].values == ["2.00"]
    assert report.rows[2].values == [""]
    assert (report.rows[0].epochs, report.rows[2].epochs) == ("2", "1")


def test_fixed_settings_to_set_back_are_those_that_differ(repository: tuple[Path, str]) -> None:
    root, commit = repository
    fixed = {"train.epochs": 4, "train.seed": 1, "train.new": [1, "a"]}
    report = build_report(a_study([a_trial(2.0)], commit=commit, fixed=fixed), root)
    assert [(each.key, each.value, each.earlier) for each in report.fixed] == [
        ("train.epochs", "4", "41"),
        ("train.new", "[1, a]", ""),
    ]


def test_pareto_front_of_two_objectives(repository: tuple[Path, str]) -> None:
    root, commit = repository
    pairs = [(4.0, 50.0), (2.0, 100.0), (3.0, 40.0), (5.0, 20.0), (2.5, 100.0), (5.0, 20.0)]
    trials = [
        a_trial(*pair, changes={"train.lr": 0.001 + n / 1000}) for n, pair in enumerate(pairs)
    ]
    report = build_report(a_study(trials, objectives=[KID, "seconds"], commit=commit), root)
    assert [best.trial.number for best in report.best] == [1, 2, 3, 5], "equal ones are all there"
    assert report.headline == (
        "4 of 6 trials are on the Pareto front of validation KID and training time"
    )
    assert dict(report.reasons)["Extremes"] == (
        "Trial 1 has the lowest validation KID: 2.00, with training time 100 s."
        " Trial 3 has the shortest training time: 20.0 s, with validation KID 5.00."
    )
    assert report.best[0].objectives == [("validation KID", "2.00"), ("training time", "100 s")]
    assert report.best_note == "All trials of the Pareto front."
    assert report.present is not None
    assert report.present.trial.number == 0, "it is not on the front"
    assert [name for name, _ in report.slices] == ["validation KID", "training time"]


def test_long_pareto_front_is_represented_by_five_trials(tmp_path: Path) -> None:
    trials = [a_trial(float(n), 30.0 - n) for n in range(21)]
    report = build_report(a_study(trials, objectives=[KID, "seconds"]), tmp_path)
    assert [best.trial.number for best in report.best] == [0, 5, 10, 15, 20]
    assert report.best_note == "5 of the 21 trials of the Pareto front, evenly spread."


def test_maximized_objective(tmp_path: Path) -> None:
    trials = [a_trial(0.4), a_trial(0.6), a_trial(0.5)]
    report = build_report(a_study(trials, ["recall"], directions=["maximize"]), tmp_path)
    assert report.headline == "Trial 1 has the highest recall of 3 trials: 0.600"
    records = [
        record_of(trial, (Objective("a"), Objective("b", is_minimized=False)), {})
        for trial in (a_trial(1.0, 1.0), a_trial(2.0, 3.0), a_trial(2.0, 2.0))
    ]
    front = best_first(records, (Objective("a"), Objective("b", is_minimized=False)))
    assert [trial.values for trial in front] == [(1.0, 1.0), (2.0, 3.0)]


@pytest.mark.parametrize(
    ("state", "headline"),
    [
        (None, "The search has no trials yet"),
        (TrialState.RUNNING, "No trial has finished yet"),
        (TrialState.FAIL, "No trial finished"),
    ],
)
def test_study_without_finished_trials(
    tmp_path: Path, state: TrialState | None, headline: str
) -> None:
    report = build_report(a_study([] if state is None else [a_trial(state=state)]), tmp_path)
    assert report.headline == headline
    assert (report.best, report.charts, report.slices, report.parallel) == ([], [], [], None)
    assert report.importances.shares == ()


def test_attributes_of_other_programs_are_ignored(tmp_path: Path) -> None:
    trial = a_trial(2.0, steps="many", seed_values={"a": 1}, experiments="one", seconds=math.nan)
    study = a_study([trial])
    study.set_user_attr("search", "[")
    study.set_user_attr("objectives", 3)
    study.set_user_attr("commit", "--output=file")
    report = build_report(study, tmp_path)
    assert report.headline == "Trial 0 has the lowest objective 1 of 1 trial: 2.00"
    record = report.best[0].trial
    assert (record.steps, record.seed_values, record.experiments) == (0, (), ())
    assert record.seconds == 600.0, "those between start and end"


def test_lists_and_booleans_are_compared_with_the_present_settings() -> None:
    space = {
        "train.augment": CategoricalDistribution([json.dumps(["color"]), json.dumps([])]),
        "train.flip": CategoricalDistribution([True, 1]),
    }
    present = {"train.augment": ["color"], "train.flip": True}
    same = a_trial(1.0, space=space, changes={"train.augment": '["color"]', "train.flip": True})
    assert record_of(same, RECORDS, present).is_present
    for changes in ({"train.augment": "[]"}, {"train.flip": 1}):
        values = {"train.augment": '["color"]', "train.flip": True} | changes
        assert not record_of(a_trial(1.0, space=space, changes=values), RECORDS, present).is_present
    assert value_text(["color", 1]) == value_text('["color", 1]') == "[color, 1]"
    assert value_text("[") == "["
    values = (True, 0.00123456, 20000, 0.5, 50000.0, 2.675, 1.0, 1e-05)
    texts = ["true", "0.001235", "20000", "0.5", "50000", "2.675", "1", "1e-05"]
    assert [value_text(value) for value in values] == texts
    assert value_text(0.00020001, 12) == "0.00020001"


def test_ranges_include_those_of_all_trials() -> None:
    def trial(distribution: FloatDistribution | CategoricalDistribution, value: object) -> object:
        return create_trial(value=1.0, params={"a": value}, distributions={"a": distribution})

    found = settings_of(
        [
            trial(FloatDistribution(1.0, 2.0, log=True), 1.5),
            trial(FloatDistribution(0.5, 1.0, log=True), 0.7),
        ],
        [],
    )
    assert [(s.key, s.low, s.high, s.is_logarithmic) for s in found] == [("a", 0.5, 2.0, True)]
    (choices,) = settings_of([trial(CategoricalDistribution([1, True, "x"]), 1)], [])
    assert choices.choices == (1, True, "x")
    order = settings_of([a_trial(1.0)], ["train.latent_size", "unknown"])
    assert [setting.key for setting in order] == [
        *("train.latent_size", "train.lr", "train.ema_decay", "train.batch_size")
    ]


def test_importances_are_reproducible_and_find_the_setting(tmp_path: Path) -> None:
    study = random_study(40)
    first, second = (build_report(study, tmp_path).importances for _ in range(2))
    assert first == second
    assert first.shares[0][0] == "train.lr"
    assert first.shares[0][1] > 0.5
    assert sum(share for _, share in first.shares) == pytest.approx(1.0)
    assert "the best 19% of the 27 finished trials" in first.note
    assert first.note.endswith("Importances of so few trials are uncertain.")


def test_importances_that_cannot_be_computed_have_a_reason(tmp_path: Path) -> None:
    few = build_report(random_study(12), tmp_path).importances
    assert few.shares == ()
    assert few.note == "Importances need 10 finished trials; this study has 9."
    equal = build_report(a_study([a_trial(1.0) for _ in range(12)]), tmp_path).importances
    assert equal.note == "The finished trials show no difference in importance."
    space = {"train.lr": FloatDistribution(1e-4, 1e-2, log=True)}
    single = a_study([a_trial(float(n), space=space) for n in range(12)])
    records = [record_of(trial, RECORDS, {}) for trial in single.get_trials()]
    settings = settings_of(single.get_trials(), [])
    assert importances(single, records, settings).note == (
        "Importances compare settings; this study varies fewer than two."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (99, "99 s"), (150, "2 min"), (7200, "2.0 h"), (math.nan, "")],
)
def test_short_duration(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text
