"""Line charts of the report page."""

import re

import numpy as np
import pytest

from atelier.report.charts import kid_chart, training_chart


def coordinates(path: str) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in re.findall(r"[ML](-?\d+) (-?\d+)", path)]


def test_training_chart_places_values_and_ticks() -> None:
    steps = np.arange(1.0, 101.0)
    lines = {"up": steps / 100, "flat": np.full(100, 0.5)}
    chart = training_chart("Scores", "note", steps, lines, (0.0, 1.0))
    assert [(tick.at, tick.label) for tick in chart.y_ticks] == [
        (100.0, "0"),
        (80.0, "0.2"),
        (60.0, "0.4"),
        (40.0, "0.6"),
        (20.0, "0.8"),
        (0.0, "1"),
    ]
    assert [tick.label for tick in chart.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    up, flat = chart.lines
    assert (up.name, flat.name) == ("up", "flat")
    assert coordinates(up.pale) == [(10 * step, 1000 - 10 * step) for step in range(1, 101)]
    assert {y for _, y in coordinates(flat.path)} == {500}


def test_long_training_has_few_points() -> None:
    steps = np.arange(1.0, 100_001.0)
    chart = training_chart("Losses", "", steps, {"loss": np.sin(steps / 1000)})
    assert 200 < len(coordinates(chart.lines[0].path)) <= 300
    assert chart.x_ticks[-1].label == "100,000"


def test_values_that_are_not_finite_leave_a_gap() -> None:
    values = np.array([1.0, 2.0, np.nan, np.inf, 3.0, 1.0])
    chart = training_chart("Losses", "", np.arange(1.0, 7.0), {"loss": values})
    assert chart.lines[0].pale.count("M") == 2
    assert len(coordinates(chart.lines[0].pale)) == 4
    nothing = training_chart("Losses", "", np.arange(1.0, 3.0), {"loss": np.full(2, np.nan)})
    assert nothing.lines[0].path == ""


def test_kid_has_a_logarithmic_axis_with_the_band_of_real_images() -> None:
    chart = kid_chart([(1, 100.0, 5.0), (10, 10.0, 1.0), (20, 1.0, 0.3)], (0.02, 0.04))
    assert chart is not None
    assert [tick.label for tick in chart.y_ticks] == ["100", "10", "1", "0.1"][::-1]
    (line,) = chart.lines
    (_, first), (_, middle), (_, last) = coordinates(line.path)
    assert middle - first == pytest.approx(last - middle, abs=2), "equal factors, equal steps"
    ten, one = (next(t.at for t in chart.y_ticks if t.label == name) for name in ("10", "1"))
    assert (10 * ten, 10 * one) == (pytest.approx(middle, abs=1), pytest.approx(last, abs=1))
    assert chart.level is not None
    assert chart.level_name == "other real images (up to 0.1)"
    assert chart.level == pytest.approx(chart.y_ticks[0].at, abs=0.01)
    assert line.dots.count("h") == line.bars.count("V") == 3


def test_kid_without_real_images_or_positive_values() -> None:
    assert kid_chart([], (0.0, 0.1)) is None
    chart = kid_chart([(1, 4.0, 1.0), (2, 2.0, 1.0)], None)
    assert chart is not None
    assert chart.level is None
    equal = kid_chart([(1, -0.01, 0.0), (2, -0.02, 0.0)], (-0.3, 0.1))
    assert equal is not None
    assert equal.level is None
    assert len(coordinates(equal.lines[0].path)) == 2
    constant = kid_chart([(1, 0.0, 0.0)], None)
    assert constant is not None
    assert len(coordinates(constant.lines[0].path)) == 1
