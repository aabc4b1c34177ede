"""Curves of a running training."""

import numpy as np
import pytest

from atelier.tracking.live_curves import MAX_POINTS, LiveCurves


def test_short_training_keeps_every_step() -> None:
    curves = LiveCurves()
    curves.add_steps(0, ("loss/d", "loss/g"), np.array([[1, 4], [2, 5]], np.float32))
    curves.add_steps(2, ("loss/d", "loss/g"), np.array([[3.14159, 6]], np.float32))
    assert curves.as_json() == {
        "names": ["loss/d", "loss/g"],
        "steps": [1, 2, 3],
        "values": [[1, 2, 3.142], [4, 5, 6]],
        "kid": [],
    }


@pytest.mark.parametrize(
    ("steps", "width"), [(MAX_POINTS, 1), (MAX_POINTS + 1, 2), (2 * MAX_POINTS, 2), (10_007, 32)]
)
def test_long_training_has_means_of_equal_bins(steps: int, width: int) -> None:
    rows = np.random.default_rng(0).normal(size=(steps, 2)).astype(np.float32)
    curves = LiveCurves()
    for first in range(0, steps, 37):
        curves.add_steps(first, ("a", "b"), rows[first : first + 37])
    found = curves.as_json()
    means = [rows[i : i + width].astype(np.float64).mean(axis=0) for i in range(0, steps, width)]
    np.testing.assert_allclose(np.transpose(found["values"]), means, rtol=1e-3, atol=1e-7)
    assert found["steps"] == [min(i + width, steps) for i in range(0, steps, width)]
    assert len(found["steps"]) <= MAX_POINTS


def test_values_that_are_not_finite_are_gaps() -> None:
    curves = LiveCurves()
    curves.add_steps(0, ("a",), np.array([[1], [np.nan], [np.inf], [2]], np.float32))
    assert curves.as_json()["values"] == [[1, None, None, 2]]


def test_scores_are_sorted_by_epoch() -> None:
    curves = LiveCurves()
    curves.add_scores({5: [0.123456]})
    curves.add_scores({2: [0.5]})
    assert curves.as_json()["kid"] == [[2, 0.5], [5, 0.1235]]


def test_number_of_scores_is_limited() -> None:
    curves = LiveCurves()
    for epoch in range(1, 2001):
        curves.add_scores({epoch: [float(epoch)]})
    kid = curves.as_json()["kid"]
    assert MAX_POINTS / 2 <= len(kid) <= MAX_POINTS
    assert kid[-1] == [2000, 2000.0]
    assert kid == sorted(kid)
