"""Differences between groups of runs, by closed forms and published values."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy import stats

from atelier.tracking.compared_run import ComparedRun
from atelier.web.compare_differences import (
    KID,
    VALIDATION_KID,
    Difference,
    Metric,
    Summary,
    compare_groups,
    compared_metrics,
    main_metric,
    prediction_margin,
    summarize,
    welch_margin,
)
from atelier.web.compare_groups import group_runs

from ..support.compared_runs import CONDITIONS, HASHES, make_run, seeds_of

# 97.5% quantiles of Student's t by degrees of freedom, from printed tables.
T_975 = {1: 12.706, 2: 4.303, 4: 2.776}
T_9875_OF_4 = 3.495  # for two comparisons


def compare(runs: Sequence[ComparedRun], metric: str = "kid") -> list[Difference]:
    return [each for each in compare_groups(group_runs(runs)) if each.metric.key == metric]


def test_welch_margin_has_the_error_and_the_degrees_of_freedom_of_welch() -> None:
    # Equal counts and variances: sqrt(s²/n + s²/n) and 2 (n - 1) degrees of freedom.
    assert welch_margin([1.0, 2.0, 3.0], [11.0, 12.0, 13.0], 0.95) == pytest.approx(
        T_975[4] * math.sqrt(2 / 3), rel=1e-3
    )
    # One group without deviation: its error and degrees of freedom do not count.
    assert welch_margin([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], 0.95) == pytest.approx(
        T_975[2] * math.sqrt(1 / 3), rel=1e-3
    )
    assert welch_margin([1.0, 1.0], [2.0, 2.0], 0.95) == 0.0


@pytest.mark.parametrize("level", [0.95, 0.99])
def test_welch_margin_agrees_with_the_interval_of_scipy(level: float) -> None:
    one, other = [1.0, 4.0, 2.0, 2.5], [7.0, 7.5]
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(level)
    expected = (interval.high - interval.low) / 2
    assert welch_margin(one, other, level) == pytest.approx(expected)


def test_prediction_margin_is_that_of_one_more_value() -> None:
    margin = prediction_margin([1.0, 2.0, 3.0], 0.95)
    assert margin == pytest.approx(T_975[2] * math.sqrt(1 + 1 / 3), rel=1e-3)


def test_summary_has_mean_and_sample_deviation_of_the_seeds() -> None:
    (group,) = group_runs(seeds_of("0.0002", {1: 1.0, 2: 2.0, 3: 4.5}))
    summary = summarize(group, KID)
    assert summary is not None
    assert summary.values == (1.0, 2.0, 4.5)
    assert summary.mean == 2.5
    assert summary.deviation == pytest.approx(math.sqrt((1.5**2 + 0.5**2 + 2.0**2) / 2))
    assert summary.text(KID) == "2.5 ± 1.8"
    assert summary.error is None  # the seeds' deviation includes it


def test_a_single_seed_has_the_error_of_its_kid() -> None:
    (group,) = group_runs([make_run(metrics={"kid": 2.0, "kid_error": 0.123, "fid": 91.27})])
    kid = summarize(group, KID)
    assert kid is not None
    assert (kid.deviation, kid.error) == (None, 0.123)
    assert kid.text(KID) == "2.00 ± 0.12"
    fid = summarize(group, Metric("fid", "FID", "lower"))
    assert fid is not None
    assert fid.text(Metric("fid", "FID", "lower")) == "91.3"
    assert Summary((0.0, 0.0)).text(Metric("memorised", "", "", is_share=True)) == "0.0% ± 0.0%"
    assert Summary((757e6, 760e6)).text(KID) == "758.5M ± 2.1M"
    assert Summary((12_000.0, 15_000.0)).text(KID) == "13,500 ± 2,100"
    assert summarize(group, Metric("swd", "SWD", "lower")) is None


def test_shares_are_percentages() -> None:
    metric = Metric("recall", "Recall", "higher", is_share=True)
    assert Summary((0.25, 0.35)).text(metric) == "30.0% ± 7.1%"


def test_a_difference_that_is_larger_than_its_error() -> None:
    runs = [
        *seeds_of("0.0002", {1: 3.0, 2: 3.1, 3: 3.2}),
        *seeds_of("0.0004", {1: 2.0, 2: 2.1, 3: 2.2}),
    ]
    (found,) = compare(runs)
    assert found.outcome == "larger"
    assert found.value == pytest.approx(-1.0)
    assert found.margin == pytest.approx(T_975[4] * 0.1 * math.sqrt(2 / 3), rel=1e-3)
    assert found.sentence == (
        "Distance (KID): B (lr 0.0004) is 1.00 ± 0.23 lower (better) than A (lr 0.0002). The"
        " difference is larger than its error."
    )


def test_a_difference_within_its_error() -> None:
    runs = [
        *seeds_of("0.0002", {1: 1.0, 2: 2.0, 3: 3.0}),
        *seeds_of("0.0004", {1: 1.5, 2: 2.5, 3: 3.5}),
    ]
    (found,) = compare(runs)
    assert found.outcome == "within"
    assert found.sentence == (
        "Distance (KID): B (lr 0.0004) is 0.5 ± 2.3 higher (worse) than A (lr 0.0002). The"
        " difference is not larger than its error."
    )


def test_several_comparisons_have_wider_intervals() -> None:
    runs = [
        *seeds_of("0.0002", {1: 1.0, 2: 2.0, 3: 3.0}),
        *seeds_of("0.0004", {1: 6.0, 2: 7.0, 3: 8.0}),
        *seeds_of("0.0008", {1: 4.1, 2: 5.1, 3: 6.1}),
    ]
    first, second = compare(runs)
    assert first.sentence == (
        "Distance (KID): B (lr 0.0004) is 5.0 ± 2.9 higher (worse) than A. The difference is larger"
        " than its error."
    )
    margins = [first.margin, second.margin]
    assert margins == pytest.approx([T_9875_OF_4 * math.sqrt(2 / 3)] * 2, rel=1e-3)


def test_comparisons_without_an_interval_do_not_widen_the_others() -> None:
    runs = [
        *seeds_of("0.0002", {1: 6.0}),
        *seeds_of("0.0004", {1: 1.0, 2: 2.0, 3: 3.0}),
        *seeds_of("0.0008", {1: 5.0}),
    ]
    first, second = compare(runs)
    assert first.margin == pytest.approx(T_975[2] * math.sqrt(4 / 3), rel=1e-3)
    assert second.outcome == "unknown"


def test_a_small_difference_keeps_a_digit() -> None:
    runs = [*seeds_of("1", {1: 1.0, 2: 90.0}), *seeds_of("2", {1: 1.3, 2: 90.3})]
    (found,) = compare(runs)
    assert "B (lr 2) is 0.3 ± 270 higher" in found.sentence


def test_one_seed_is_compared_with_the_range_of_the_seeds_of_the_other() -> None:
    runs = [*seeds_of("0.0002", {1: 1.0, 2: 2.0, 3: 3.0}), *seeds_of("0.0004", {1: 6.0})]
    (found,) = compare(runs)
    assert found.outcome == "within"
    assert found.margin == pytest.approx(T_975[2] * math.sqrt(4 / 3), rel=1e-3)
    assert "not larger than the seeds alone explain (B has one seed)" in found.sentence
    (found,) = compare([*seeds_of("0.0004", {1: 8.0}), *seeds_of("0.0002", {1: 1, 2: 2, 3: 3})])
    assert (found.outcome, found.value) == ("larger", -6.0)
    assert "is larger than the seeds alone explain (A has one seed)" in found.sentence


@pytest.mark.parametrize(("kid", "verdict"), [(1.7, "more than"), (1.75, "not more than")])
def test_two_single_runs_show_no_difference_between_settings(kid: float, verdict: str) -> None:
    # The standard error of the difference is sqrt(2) * 0.1, and twice of it 0.283.
    (found,) = compare([*seeds_of("0.0002", {1: 2.0}), *seeds_of("0.0004", {1: kid})])
    assert found.outcome == "unknown"
    assert found.margin == pytest.approx(2 * math.sqrt(0.02))
    assert f"{verdict} twice the standard error of 0.14. One seed each cannot" in found.sentence
    if verdict == "more than":
        assert "not more than" not in found.sentence


def test_metrics_without_an_error_yield_no_statement_on_single_runs() -> None:
    runs = [make_run(metrics={"fid": 1.0}), make_run("b", {"train.lr": "1"}, {"fid": 2.0})]
    (found,) = compare(runs, "fid")
    assert (found.outcome, found.sentence) == ("unknown", "")


def test_equal_values_are_named_equal() -> None:
    kids = {1: 2.0, 2: 3.0}
    runs = [*seeds_of("0.0002", kids), *seeds_of("0.0004", kids)]
    (found,) = compare(runs)
    assert found.sentence == "Distance (KID) is the same in B (lr 0.0004) and A (lr 0.0002)."
    assert found.outcome == "within"


def test_seeds_without_deviation_allow_no_statement() -> None:
    runs = [*seeds_of("0.0002", {1: 2.0, 2: 2.0}), *seeds_of("0.0004", {1: 3.0, 2: 3.0})]
    (found,) = compare(runs)
    assert found.outcome == "unknown"
    assert "the error is not known" in found.sentence


def test_metrics_measured_in_another_way_are_not_compared() -> None:
    other = CONDITIONS | {"features": "random"}
    runs = [make_run(), make_run("b", {"train.lr": "1"}, measured_with=other)]
    (found,) = compare(runs)
    assert found.outcome == "unknown"
    assert found.sentence == (
        "Distance (KID) of B (lr 1) and A (lr 0.0002) is not compared: it was measured differently"
        " (evaluate.features vgg19_caffe and random)."
    )
    (found,) = compare([make_run(), make_run("b", {"train.lr": "1"}, measured_with={})])
    assert "not compared: the conditions of a measurement are not recorded" in found.sentence


def test_metrics_with_other_real_images_are_not_compared() -> None:
    other = make_run("b", hashes=HASHES | {"data/test.npz": "d" * 32})
    (found,) = compare([make_run(), other])
    assert "not compared: their real images differ" in found.sentence


@pytest.mark.parametrize(
    ("reference", "path", "is_compared"),
    [
        ("test", "data/images.npz", True),
        ("test", "data/validation.npz", True),
        ("test", "data/start/generator.safetensors", True),
        ("test", "data/test.npz", False),
        ("training", "data/images.npz", False),
        ("training", "data/test.npz", True),
    ],
)
def test_trainings_on_other_data_are_compared_with_the_same_real_images(
    reference: str, path: str, is_compared: bool
) -> None:
    conditions = CONDITIONS | {"reference": reference}
    runs = [
        run
        for digit, kids in (("d", {1: 3.0, 2: 3.1, 3: 3.2}), ("e", {1: 2.0, 2: 2.1, 3: 2.2}))
        for run in seeds_of(
            "0.1", kids, hashes=HASHES | {path: digit * 32}, measured_with=conditions
        )
    ]
    (found,) = compare(runs)
    assert found.outcome == ("larger" if is_compared else "unknown")


def test_style_losses_are_compared_if_the_style_transfer_is_the_same() -> None:
    def runs(**changes: str) -> list[ComparedRun]:
        return [
            make_run(
                f"{lr} {seed}",
                {"train.lr": lr, "train.seed": str(seed)} | (changes if lr == "1" else {}),
                {"style_loss": 100.0 * float(lr) + seed},
            )
            for lr in ("1", "2")
            for seed in (1, 2, 3)
        ]

    (found,) = compare(runs(), "style_loss")
    assert (found.outcome, found.value) == ("larger", 100.0)
    (found,) = compare(runs(**{"stylize.iterations": "99"}), "style_loss")
    assert "not compared: it was measured differently (stylize.iterations 99 and 50)" in (
        found.sentence
    )


def validation_of(lr: str, values: dict[int, float], **changes: str) -> list[ComparedRun]:
    settings = {"train.lr": lr, "train.kid_features": "random", "train.kid_samples": "500"}
    return [
        make_run(
            metrics={"validation_kid": value},
            settings=settings | {"train.seed": str(seed)} | changes,
            measured_with={},
        )
        for seed, value in values.items()
    ]


def test_trainings_without_evaluation_are_compared_by_their_validation_kid() -> None:
    one = validation_of("0.0002", {1: 3.0, 2: 3.1, 3: 3.2})
    other = validation_of("0.0004", {1: 2.0, 2: 2.1, 3: 2.2})
    groups = group_runs([*one, *other])
    assert main_metric(groups) is VALIDATION_KID
    assert compared_metrics(groups) == [VALIDATION_KID]
    (found,) = compare_groups(groups)
    assert found.outcome == "larger"
    assert found.sentence.startswith(
        "Distance from validation images (KID): B (lr 0.0004) is 1.00 ± 0.23 lower (better) than A"
    )


def test_kid_of_the_test_images_goes_before_the_validation_kid() -> None:
    runs = [
        make_run(metrics={"kid": 2.0, "validation_kid": 1.0}, settings={"train.lr": lr})
        for lr in ("0.1", "0.2")
    ]
    assert main_metric(group_runs(runs)) is KID
    assert compared_metrics(group_runs(runs)) == [KID]
    trial = make_run(metrics={"validation_kid": 1.5}, settings={"train.lr": "0.3"})
    groups = group_runs([*runs, trial])
    assert main_metric(groups) is KID, "two groups have it"
    assert compared_metrics(groups) == [KID, VALIDATION_KID]
    pairs = [(each.metric, each.group.letter) for each in compare_groups(groups)]
    assert pairs == [(KID, "B"), (VALIDATION_KID, "C")]
    assert main_metric(group_runs([runs[0], trial])) is VALIDATION_KID
    assert main_metric(group_runs([trial, runs[0]])) is VALIDATION_KID
    without = make_run(metrics={"kid": 2.0}, settings={"train.lr": "0.4"})
    assert main_metric(group_runs([without, trial])) is KID
    assert compared_metrics(group_runs([without, trial])) == [KID, VALIDATION_KID]


def test_single_trainings_have_no_known_error() -> None:
    runs = [*validation_of("0.0002", {1: 3.0}), *validation_of("0.0004", {1: 2.5})]
    (found,) = compare_groups(group_runs(runs))
    assert found.outcome == "unknown"
    assert found.sentence == (
        "Distance from validation images (KID): the generator of B (lr 0.0004) is 0.50 lower"
        " (better) than that of A (lr 0.0002). The error of one seed each is not known."
    )


def test_validation_kid_of_other_images_or_features_is_not_compared() -> None:
    base = validation_of("0.1", {1: 1.0, 2: 2.0})
    features = validation_of("0.2", {1: 1.0, 2: 2.0}, **{"train.kid_features": "vgg19_caffe"})
    (found,) = compare_groups(group_runs([*base, *features]))
    assert found.outcome == "unknown"
    assert found.sentence.endswith(
        "it was measured differently (train.kid_features random and vgg19_caffe)."
    )
    for path, name in (("validation", "validation"), ("images", "training")):
        images = [
            replace(run, hashes=HASHES | {f"data/{path}.npz": digest * 32})
            for run, digest in zip(validation_of("0.2", {1: 1.0, 2: 2.0}), "de", strict=True)
        ]
        (found,) = compare_groups(group_runs(images))
        assert found.sentence.endswith(f"is not compared: their {name} images differ.")


@pytest.mark.parametrize(
    ("key", "value"), [("train.kid_samples", "200"), ("train.select_model", "best")]
)
def test_validation_kid_of_other_measurements_is_not_compared(key: str, value: str) -> None:
    base = validation_of("0.1", {1: 1.0, 2: 2.0}, **{"train.select_model": "last"})
    other = validation_of("0.1", {1: 1.0, 2: 2.0}, **{"train.select_model": "last"} | {key: value})
    (found,) = compare_groups(group_runs([*base, *other]))
    assert f"it was measured differently ({key} " in found.sentence
