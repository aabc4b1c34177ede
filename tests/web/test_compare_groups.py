"""Groups of compared runs."""

from dataclasses import replace

import pytest

from atelier.web.compare_groups import (
    canonical,
    differing_settings,
    group_notes,
    group_runs,
    seeds_text,
)

from ..support.compared_runs import HASHES, make_run, seeds_of


def test_runs_that_differ_only_in_the_seed_are_one_group() -> None:
    runs = [
        *seeds_of("0.0002", {1: 3.0, 2: 3.1}),
        *seeds_of("0.0004", {1: 2.0}),
        *seeds_of("0.0002", {3: 3.2}),
    ]
    first, second = group_runs(runs)
    assert [run.seed for run in first.runs] == ["1", "2", "3"]
    assert (first.letter, first.number, first.label) == ("A", 1, "lr 0.0002")
    assert (second.letter, second.number, second.label) == ("B", 2, "lr 0.0004")
    assert second.name == "B (lr 0.0004)"
    assert seeds_text(first) == "1, 2, 3"
    settings = differing_settings([first, second])
    assert [(each.key, each.values) for each in settings] == [
        ("train.lr", ("0.0002", "0.0004")),
        ("train.seed", ("1, 2, 3", "1")),
    ]
    assert group_notes([first, second]) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"runtime.device": "cpu"},
        {"tracking.enabled": "False"},
        {"convert.share_images": "none"},
        {"train.lr": "2e-4"},
        {"train.batch_size": "32.0"},
    ],
)
def test_settings_that_change_no_result_and_equal_numbers_do_not_split_a_group(
    settings: dict[str, str],
) -> None:
    groups = group_runs([make_run(), make_run("b", {"train.seed": "2"} | settings)])
    assert len(groups) == 1
    assert [each.key for each in differing_settings(groups)] == ["train.seed"]


def test_other_code_and_other_images_are_other_groups_and_are_named() -> None:
    runs = [
        make_run(),
        make_run("b", {"train.seed": "2"}, code="0ther", commit="fedcba9876543210", is_dirty=True),
        make_run("c", {"train.seed": "3"}, hashes=HASHES | {"data/images.npz": "d" * 32}),
        make_run("d", {"train.seed": "4"}, hashes=HASHES | {"data/start/x/g": "e" * 32}),
        make_run("e", {"train.seed": "5"}, hashes=HASHES | {"data/start/x/g": "f" * 32}),
    ]
    groups = group_runs(runs)
    assert [[run.name for run in group.runs] for group in groups] == [
        ["run", "d"],
        ["b"],
        ["c"],
        ["e"],
    ]
    assert groups[1].label == "commit fedcba98, images aaaaaaaa"
    assert group_notes(groups) == [
        "A and B were made by different code (commits 12345678 and fedcba98 with changes).",
        "A and C differ in training images.",
        "A and D differ in the networks of train.start_from.",
    ]


def test_unknown_code_and_data_count_as_equal_and_are_named() -> None:
    groups = group_runs([make_run(), make_run("old", {"train.seed": "2"}, code="", hashes={})])
    assert len(groups) == 1
    assert group_notes(groups) == [
        "The code of A (seed 2) is not known; it counts as equal.",
        "The images of A (seed 2) are not recorded; they count as equal.",
    ]


def test_repetitions_of_a_seed_count_once() -> None:
    runs = seeds_of("0.0002", {1: 3.0, 2: 3.1})
    repeated = make_run("again", {"train.seed": "2"}, {"kid": 3.3})
    unmeasured = make_run("failed", {"train.seed": "3"}, {}, status="FAILED")
    (group,) = group_runs([*runs, repeated, unmeasured])
    assert [run.metrics["kid"] for run in group.measured()] == [3.0, 3.3]
    partial = make_run("no KID", {"train.seed": "1"}, {"style_loss": 1.0})
    (group,) = group_runs([*runs, repeated, partial])
    assert [run.metrics["kid"] for run in group.measured("kid")] == [3.0, 3.3]
    assert [run.name for run in group.measured("style_loss")] == ["no KID"]
    (group,) = group_runs([*runs, repeated])
    assert group_notes([group])[0].startswith("A has 1 more measured run of seeds that are counted")


def test_a_run_without_a_known_seed_is_not_counted_among_seeds() -> None:
    runs = seeds_of("0.0002", {1: 3.0, 2: 3.1})
    settings = {key: value for key, value in runs[0].settings.items() if key != "train.seed"}
    unknown = replace(runs[0], settings=settings, metrics={"kid": 9.0})
    (group,) = group_runs([*runs, unknown])
    assert [run.metrics["kid"] for run in group.measured("kid")] == [3.0, 3.1]
    (group,) = group_runs([unknown])
    assert [run.metrics["kid"] for run in group.measured("kid")] == [9.0]


def test_a_long_label_is_shortened() -> None:
    many = {f"train.option_{number}": "x" * 50 for number in range(5)}
    _, group = group_runs([make_run(), make_run("b", many | {"evaluate.samples": "9"})])
    assert group.label == ", ".join(f"option_{n} {'x' * 23}…" for n in range(3)) + ", 3 more"


def test_missing_settings_are_named() -> None:
    groups = group_runs([make_run(), make_run("b", {"train.new": "1"})])
    (row,) = differing_settings(groups)
    assert (row.key, row.values) == ("train.new", ("not recorded", "1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30", "30"), ("30.0", "30"), ("1e-3", "0.001"), ("nan", "nan"), ("1_0", "1_0"), ("x", "x")],
)
def test_numbers_have_one_notation(text: str, expected: str) -> None:
    assert canonical(text) == expected


def test_more_groups_than_letters() -> None:
    groups = group_runs([make_run(str(n), {"train.lr": str(n)}) for n in range(1, 28)])
    assert [groups[25].letter, groups[26].letter] == ["Z", "A2"]
