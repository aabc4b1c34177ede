"""Charts of the report of a study: positions of trials."""

import math
import re

import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from atelier.pages.charts import Axis, Chart, Point, Tick
from atelier.search.report_charts import (
    Charted,
    curves_chart,
    front_chart,
    history_chart,
    parallel_chart,
    slice_charts,
)
from atelier.search.report_trials import Objective, best_first, record_of, settings_of

from ..support.studies import KID, PRESENT, SPACE, a_trial

PRUNED = TrialState.PRUNED


def charted(*trials: FrozenTrial, objectives: tuple[Objective, ...] = (Objective(KID),)) -> Charted:
    for number, trial in enumerate(trials):
        trial.number = number
    records = [record_of(trial, objectives, PRESENT) for trial in trials]
    best = best_first(records, objectives)
    return Charted(records, best if len(objectives) > 1 else best[:2], objectives)


def at(ticks: tuple[Tick, ...], label: str) -> float:
    return next(tick.at for tick in ticks if tick.label == label)


def by_name(points: tuple[Point, ...]) -> dict[str, Point]:
    return {point.name.partition(":")[0]: point for point in points}


def coordinates(path: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"[ML](-?\d+) (-?\d+)", path)]


@pytest.fixture
def four() -> Charted:
    """The best trial, the second one, the present settings, and a pruned trial."""
    return charted(
        a_trial(4.0, curve={1: 8.0, 2: 4.0}),
        a_trial(2.0, changes={"train.lr": 1e-2, "train.batch_size": 64}, curve={1: 4.0, 2: 2.0}),
        a_trial(state=PRUNED, changes={"train.lr": 1e-4, "train.batch_size": 16}, curve={1: 9.0}),
        a_trial(3.0, changes={"train.ema_decay": 1.0}, curve={1: 6.0, 2: math.nan}),
    )


def test_history_has_all_trials_and_the_best_value_so_far(four: Charted) -> None:
    chart = history_chart(four)
    assert chart is not None
    assert chart.title == "Validation KID by trial"
    points = by_name(chart.points)
    assert {name: point.kind for name, point in points.items()} == {
        "trial 0": "present",
        "trial 1": "best",
        "trial 2": "pruned",
        "trial 3": "top",
    }
    assert [point.kind for point in chart.points] == ["pruned", "present", "top", "best"]
    assert points["trial 0"].y == pytest.approx(at(chart.y_ticks, "4"), abs=0.02)
    assert points["trial 3"].y == pytest.approx(at(chart.y_ticks, "3"), abs=0.02)
    assert points["trial 1"].y == pytest.approx(at(chart.y_ticks, "2"), abs=0.02)
    assert points["trial 2"].y == at(chart.y_ticks, "pruned") < points["trial 0"].y - 8
    assert [points[f"trial {n}"].x for n in range(4)] == [
        pytest.approx(at(chart.x_ticks, str(n)), abs=0.02) for n in range(4)
    ]
    assert points["trial 1"].name == "trial 1: validation KID 2.00"
    assert points["trial 0"].name == "trial 0: validation KID 4.00, present settings"
    assert points["trial 2"].name == "trial 2: pruned after epoch 1 with 9"
    (line,) = chart.lines
    heights = [y for _, y in coordinates(line.path)]
    four_at, two_at = (round(10 * points[f"trial {n}"].y) for n in (0, 1))
    assert heights == pytest.approx([four_at, four_at, two_at, two_at, two_at, two_at], abs=1)
    assert chart.legend is not None
    assert [(key.kind, key.is_line) for key in chart.legend] == [
        *(("best", False), ("top", False), ("present", False), ("pruned", False)),
        ("record", True),
    ]


def test_best_value_so_far_of_a_maximized_objective() -> None:
    trials = [a_trial(1.0), a_trial(3.0), a_trial(2.0)]
    chart = history_chart(charted(*trials, objectives=(Objective("recall", is_minimized=False),)))
    assert chart is not None
    heights = [y for _, y in coordinates(chart.lines[0].path)]
    assert heights[0] == heights[1] > heights[2] == heights[-1]
    assert chart.points[0].y < 100
    assert not any(tick.label == "pruned" for tick in chart.y_ticks)


def test_values_of_different_magnitude_have_a_logarithmic_axis() -> None:
    chart = history_chart(charted(a_trial(100.0), a_trial(10.0), a_trial(1.0)))
    assert chart is not None
    y = [by_name(chart.points)[f"trial {n}"].y for n in range(3)]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.02)
    negative = history_chart(charted(a_trial(100.0), a_trial(-1.0), a_trial(49.5)))
    assert negative is not None
    y = [by_name(negative.points)[f"trial {n}"].y for n in range(3)]
    assert y[2] == pytest.approx((y[0] + y[1]) / 2, abs=0.02)


def test_equal_values_are_in_the_middle() -> None:
    for value in (0.0, 2.0, -3.0, 1e9):
        chart = history_chart(charted(a_trial(value), a_trial(value)))
        assert chart is not None
        assert [point.y for point in chart.points] == [50.0, 50.0]


def test_curves_of_pruned_trials_end_with_a_circle(four: Charted) -> None:
    chart = curves_chart(four)
    assert chart is not None
    assert [line.kind for line in chart.lines] == ["pruned", "present", "top", "best"]
    pruned, present, top, best = (coordinates(line.path) for line in chart.lines)
    assert (len(pruned), len(present), len(top), len(best)) == (1, 2, 1, 2), "NaN is left out"
    (end,) = chart.points
    assert (end.kind, pruned[0]) == ("pruned", (round(10 * end.x), round(10 * end.y)))
    assert best[0][1] > present[0][1] > pruned[0][1], "lower values are below"
    assert best[0][0] == present[0][0] < best[1][0]
    assert best[1][0] == pytest.approx(10 * at(chart.x_ticks, "2"), abs=1)
    assert curves_chart(charted(a_trial(1.0), a_trial(2.0, curve={1: math.nan}))) is None


def test_slices_have_one_chart_for_each_setting(four: Charted) -> None:
    settings = settings_of([a_trial(1.0)], [])
    charts = {chart.title: chart for chart in slice_charts(four, settings, 0)}
    assert list(charts) == list(SPACE)
    lr, batch = charts["train.lr"], charts["train.batch_size"]
    points = by_name(lr.points)
    middle, right, left = (points[f"trial {n}"].x for n in range(3))
    assert right - middle == pytest.approx(middle - left, abs=0.02), "logarithmic"
    assert 0 < left < right < 100
    assert middle == pytest.approx(at(lr.x_ticks, "0.001"), abs=0.02)
    assert points["trial 1"].name == "trial 1: validation KID 2.00, train.lr 0.01"
    assert points["trial 1"].y == by_name(batch.points)["trial 1"].y
    assert [(tick.at, tick.label) for tick in batch.x_ticks] == [
        (16.67, "16"),
        (50.0, "32"),
        (83.33, "64"),
    ]
    assert [by_name(batch.points)[f"trial {n}"].x for n in range(3)] == [50.0, 83.33, 16.67]
    assert slice_charts(charted(a_trial(1.0), a_trial(state=PRUNED)), settings, 0) == []


def test_labels_below_a_small_chart_do_not_overlap() -> None:
    names = [f"a_long_choice_{n}" for n in range(5)]
    space = {"train.loss": CategoricalDistribution(names)}
    trials = [
        a_trial(1.0 + n, space=space, changes={"train.loss": n_}) for n, n_ in enumerate(names)
    ]
    (chart,) = slice_charts(charted(*trials), settings_of(trials, []), 0)
    assert [tick.label for tick in chart.x_ticks] == ["a_long_choice_0", "a_long_choice_3"]
    assert len({point.x for point in chart.points}) == 5


@pytest.mark.parametrize(
    ("choices", "labels"),
    [
        (["[]", "[color, translation]", "a"], ["[]", "col., tra.", "a"]),
        (["[]", "[translation]", "[translation, cutout]"], ["[]", "translati.", "tra., cut."]),
        (["bce", "hinge", "wgan"], ["bce", "hinge", "wgan"]),
        (["a", "one_long_name", "one_long_noun"], ["a", "...ng_name", "...ng_noun"]),
    ],
)
def test_long_choices_are_shortened_so_that_they_differ(
    choices: list[str], labels: list[str]
) -> None:
    space = {"a": CategoricalDistribution(choices)}
    trials = [a_trial(1.0, space=space, changes={"a": choice}) for choice in choices]
    (chart,) = slice_charts(charted(*trials), settings_of(trials, []), 0)
    assert [tick.label for tick in chart.x_ticks] == labels


def test_parallel_lines_pass_the_values_of_their_trial(four: Charted) -> None:
    plot = parallel_chart(four, settings_of([a_trial(1.0)], []))
    assert plot is not None
    assert [axis.name for axis in plot.axes] == [*SPACE, "validation KID"]
    assert [line.kind for line in plot.lines] == ["pruned", "present", "top", "best"]
    pruned, present, top, best = (coordinates(line.path) for line in plot.lines)
    assert best[:4] == [(1000, 100), (900, 300), (833, 500), (900, 700)]
    assert pruned == [(0, 100), (900, 300), (167, 500), (900, 700)], "it has no objective"
    assert top[1] == (1000, 300)
    assert best[4][0] < top[4][0] < present[4][0]
    assert best[4][0] == pytest.approx(10 * at(plot.axes[4].ticks, "2"), abs=1)
    ticks = plot.axes[0].ticks
    assert [at(ticks, label) for label in ("0.0001", "0.001", "0.01")] == [0.0, 50.0, 100.0]
    assert parallel_chart(charted(a_trial(1.0)), settings_of([a_trial(1.0)], [])) is None


def test_trial_without_a_setting_skips_its_axis() -> None:
    some = {"train.lr": SPACE["train.lr"], "train.ema_decay": SPACE["train.ema_decay"]}
    trials = [a_trial(1.0), a_trial(2.0, space=some)]
    charts = charted(*trials)
    settings = settings_of(trials, [])
    plot = parallel_chart(charts, settings)
    assert plot is not None
    assert {line.name[:7]: len(coordinates(line.path)) for line in plot.lines} == {
        "trial 0": 5,
        "trial 1": 3,
    }
    batch = slice_charts(charts, settings, 0)[2]
    assert len(batch.points) == 1


@pytest.mark.parametrize("is_minimized", [True, False])
def test_edge_of_the_pareto_front_has_the_worse_values(is_minimized: bool) -> None:
    kids = (1.0, 2.0, 3.0) if is_minimized else (3.0, 2.0, 1.0)
    pairs = zip(kids, (30.0, 20.0, 10.0), strict=True)
    objectives = (Objective(KID), Objective("seconds", is_minimized))
    chart = front_chart(
        charted(*(a_trial(*p) for p in pairs), a_trial(3.5, 25.0), objectives=objectives)
    )
    assert chart is not None
    assert chart.x_label == "training time in seconds"
    points = by_name(chart.points)
    assert [points[f"trial {n}"].kind for n in range(3)] == ["top"] * 3
    assert points["trial 0"].x == pytest.approx(at(chart.x_ticks, "30"), abs=0.02)
    assert points["trial 1"].y == pytest.approx(at(chart.y_ticks, "2"), abs=0.02)
    corners = coordinates(chart.lines[0].path)
    assert len(corners) == 5
    x = {n: round(10 * points[f"trial {n}"].x) for n in range(3)}
    y = {n: round(10 * points[f"trial {n}"].y) for n in range(3)}
    # From the shortest time on; the corner is worse than both neighbors.
    between = (x[1], y[2]) if is_minimized else (x[2], y[1])
    expected = [(x[2], y[2]), between, (x[1], y[1])]
    assert corners[:3] == [pytest.approx(corner, abs=1) for corner in expected]


def test_axis_of_a_short_logarithmic_range_has_labels() -> None:
    labels = [tick.label for tick in Axis(2.1, 4.9, logarithmic=True).ticks(from_top=True)]
    assert labels == ["2.5", "3", "3.5", "4", "4.5"]
    labels = [tick.label for tick in Axis(0.9, 60, logarithmic=True).ticks(from_top=True)]
    assert labels == ["1", "2", "5", "10", "20", "50"]


def test_charts_of_300_trials_have_all_of_them() -> None:
    trials = [a_trial(1.0 + n % 7, curve={1: 2.0, 2: 1.0}) for n in range(300)]
    found = charted(*trials)
    charts: list[Chart | None] = [history_chart(found), curves_chart(found)]
    assert [len(chart.points) + len(chart.lines) for chart in charts if chart] == [301, 300]
