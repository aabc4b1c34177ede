"""Tests of studies: storage, identity, claims and the next trial."""

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from atelier.core.errors import AtelierError
from atelier.search.best import best_trials, present_trial
from atelier.search.claims import Claims
from atelier.search.settings import SearchSettings, Space
from atelier.search.study import (
    OpenStudy,
    distribution,
    open_study,
    parameter,
    setting_value,
    trial_settings,
)

PRESENT = {"train.lr": 0.001, "train.batch_size": 32, "train.augment": []}
SPACE = {
    "train.lr": {"low": 0.0001, "high": 0.01, "log": True},
    "train.batch_size": {"low": 8, "high": 64},
    "train.augment": {"choices": [[], ["color", "cutout"]]},
}
Open = Callable[..., OpenStudy]


def make_repository(folder: Path) -> Path:
    folder.mkdir()
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", str(folder),
         "--allow-empty"],
    ):  # fmt: skip
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("study") / "project")


@pytest.fixture
def opened(repository: Path, tmp_path: Path) -> Open:
    def open_(root: Path = repository, create: bool = True, **changes: Any) -> OpenStudy:
        search = SearchSettings.model_validate(
            {"study": "first", "settings": SPACE, "trials": 3} | changes
        )
        return open_study(search, PRESENT, root, str(tmp_path / "s.db"), may_create=create)

    return open_


def test_first_trial_has_the_present_settings(opened: Open) -> None:
    study = opened()
    trial = study.next_trial()
    assert trial is not None
    assert trial.number == 0
    assert study.suggest(trial) == PRESENT
    study.study.tell(trial, 2.0)
    present = present_trial(study.study)
    assert present is not None
    assert present.value == 2.0


def test_present_settings_outside_the_ranges_are_no_trial(opened: Open) -> None:
    study = opened(settings={"train.lr": {"low": 0.1, "high": 0.2}})
    trial = study.next_trial()
    assert trial is not None
    assert 0.1 <= study.suggest(trial)["train.lr"] <= 0.2
    assert present_trial(study.study) is None


def test_trials_end_at_their_number_and_continue_when_it_is_raised(opened: Open) -> None:
    study = opened()
    numbers = []
    while trial := study.next_trial():
        numbers.append(trial.number)
        study.study.tell(trial, 1.0)
        study.claims.release(trial.number)
    assert numbers == [0, 1, 2]
    more = opened(trials=4, create=False)
    trial = more.next_trial()
    assert trial is not None
    assert trial.number == 3


def test_trials_end_after_their_hours(opened: Open) -> None:
    study = opened(hours=0.5)
    trial = study.next_trial()
    assert trial is not None
    trial.set_user_attr("seconds", 1800.0)
    study.study.tell(trial, 1.0)
    assert study.next_trial() is None


def test_killed_search_continues_its_trial_with_the_same_settings(opened: Open) -> None:
    study = opened()
    for _ in range(2):
        trial = study.next_trial()
        assert trial is not None
        settings = study.suggest(trial)
        if trial.number == 0:
            study.study.tell(trial, 1.0)
            study.claims.release(0)
    study.claims.close()  # as at the end of the process
    again = opened()
    trial = again.next_trial()
    assert trial is not None
    assert (trial.number, again.suggest(trial)) == (1, settings)


def test_search_killed_before_the_settings_were_drawn_draws_the_same(opened: Open) -> None:
    study = opened(trials=8)
    first = study.next_trial()
    assert first is not None
    study.study.tell(first, 1.0)
    study.study.ask()  # killed here
    second = opened(trials=8)
    trial = second.next_trial()
    assert trial is not None
    assert trial.number == 1
    other = opened(study="second", trials=8)
    for _ in range(2):
        expected = other.next_trial()
        assert expected is not None
        if expected.number == 0:
            other.study.tell(expected, 1.0)
    assert second.suggest(trial) == other.suggest(expected)


def test_two_searches_never_have_the_same_trial(opened: Open) -> None:
    one, two = opened(), opened()
    first, second = one.next_trial(), two.next_trial()
    assert first is not None
    assert second is not None
    assert {first.number, second.number} == {0, 1}
    third = one.next_trial()  # a process works on one at a time, so this is the first again
    assert third is not None
    assert third.number == 0
    two.claims.close()
    one.study.tell(first, 1.0)
    one.claims.release(0)
    fourth = one.next_trial()
    assert fourth is not None
    assert fourth.number == 1  # left by the other search


def test_unfinished_trial_of_a_running_search_is_waited_for(opened: Open) -> None:
    one, two = opened(trials=1), opened(trials=1)
    assert one.next_trial() is not None
    assert two.next_trial() is None
    assert [trial.number for trial in two.unfinished()] == [0]


def test_claim_ends_with_its_process_and_those_that_inherit_it(tmp_path: Path) -> None:
    claims, other = Claims(tmp_path, "s"), Claims(tmp_path, "s")
    assert claims.claim(4)
    assert claims.is_claimed(4)
    assert not other.claim(4)
    assert other.claim(5)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=claims.descriptors(4)) as child:
        claims.close()
        assert not other.claim(4)
        child.communicate(b"")
    assert other.claim(4)
    assert not claims.is_claimed(4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"settings": {"train.lr": {"low": 0.1, "high": 0.2}}},
            r"settings\.train\.lr\.low in search\.yaml is 0\.1, but the study first started with"
            r" 0\.0001; change it back, or name a new study",
        ),
        (
            {"fixed": {"train.epochs": 9}},
            r"fixed\.train\.epochs .* is 9, but .* started without it;",
        ),
        ({"seeds": 2}, r"seeds in search\.yaml is 2, but the study first started with 1;"),
        ({"pruner": "none"}, "pruner .* is none, but .* with median;"),
        ({"sampler": "random"}, "sampler .* is random, but .* with tpe;"),
    ],
)
def test_changed_description_is_a_new_study(
    opened: Open, change: dict[str, Any], message: str
) -> None:
    opened()
    with pytest.raises(AtelierError, match=message):
        opened(**change)


def test_study_of_another_project_is_refused(opened: Open, tmp_path: Path) -> None:
    opened()
    other = make_repository(tmp_path / "other")
    with pytest.raises(AtelierError, match=r"belongs to another project; name another file"):
        opened(root=other)


def test_study_of_another_commit_is_refused(opened: Open, tmp_path: Path) -> None:
    root = make_repository(tmp_path / "moved")
    opened(root=root)
    command = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"]
    subprocess.run(["git", *command], cwd=root, check=True)
    with pytest.raises(AtelierError, match=r"started from commit [0-9a-f]{10}, but [0-9a-f]{10}"):
        opened(root=root)


def test_study_of_another_program_is_refused(opened: Open, tmp_path: Path) -> None:
    import optuna

    optuna.create_study(storage=f"sqlite:///{tmp_path / 's.db'}", study_name="first").ask()
    with pytest.raises(AtelierError, match=r"a study first that another program made"):
        opened()


def test_worker_joins_only_an_existing_study(opened: Open) -> None:
    opened()
    with pytest.raises(AtelierError, match=r"s\.db has no study firs; did you mean first\?"):
        opened(study="firs", create=False)


def test_new_study_must_not_find_experiments_of_an_earlier_one(
    tmp_path: Path, opened: Open
) -> None:
    root = make_repository(tmp_path / "used")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    sha = head.stdout.strip()
    for number in range(2):
        reference = f"refs/exps/{sha[:2]}/{sha[2:]}/first-trial-00{number}"
        subprocess.run(["git", "update-ref", reference, sha], cwd=root, check=True)
    with pytest.raises(AtelierError, match=r"2 experiments of an earlier study first are there"):
        opened(root=root)
    opened(root=root, study="second")


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("text.db", r"text\.db is no study file \(no SQLite database\)"),
        ("other.db", r"other\.db is the database of another program"),
        (".", r" is a folder; name the study's SQLite file"),
        ("mysql://u:secret@h/d", r"is neither a file nor the address of a PostgreSQL database;"),
    ],
)
def test_wrong_storage_is_one_sentence(
    repository: Path, tmp_path: Path, storage: str, message: str
) -> None:
    (tmp_path / "text.db").write_text("no database", "utf-8")
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE runs (x)")
        database.commit()
    where = storage if "://" in storage else str(tmp_path / storage)
    search = SearchSettings.model_validate({"study": "first", "settings": SPACE})
    with pytest.raises(AtelierError, match=message) as raised:
        open_study(search, PRESENT, repository, where)
    assert "secret" not in str(raised.value)


def test_numbers_are_rounded_to_four_digits_within_the_range() -> None:
    space = Space(low=0.00012345, high=0.5)
    assert setting_value(space, 0.0312345678) == 0.03123
    assert setting_value(space, 0.00012345) == 0.00012345
    assert setting_value(Space(low=2, high=70000), 65537) == 65537


@pytest.mark.parametrize("choices", [[[], ["color"]], [True, False], [1, True], ["a", "b"]])
def test_choices_survive_the_storage(choices: list[Any]) -> None:
    space = Space.model_construct(choices=choices)
    for choice in choices:
        value = setting_value(space, parameter(space, choice))
        assert value == choice
        assert type(value) is type(choice)


def test_best_trial_is_the_first_with_the_lowest_value(opened: Open) -> None:
    study = opened(trials=6)
    for value in (2.0, 1.0, 1.0, None):
        trial = study.next_trial()
        assert trial is not None
        state = TrialState.COMPLETE if value else TrialState.FAIL
        study.study.tell(trial, value, state)
        study.claims.release(trial.number)
    best = best_trials(study.study)
    assert [trial.number for trial in best] == [1]
    assert set(trial_settings(study, best[0])) == set(SPACE)
    assert distribution(Space(low=1, high=2)).to_internal_repr(2) == 2.0
