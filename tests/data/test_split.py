"""Split of images: fractions, whole groups, and independence of the order."""

import hashlib
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.data.dataset import split


def hashes_of(contents: list[int]) -> list[bytes]:
    return [hashlib.sha256(bytes([content])).digest() for content in contents]


def numbered(labels: str) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array([ord(label) for label in labels], np.int64)


@pytest.mark.parametrize(
    ("count", "validation", "test", "sizes"),
    [
        (1, 0.5, 0.49, (1, 0, 0)),
        (3, 0.5, 0.49, (1, 1, 1)),
        (5, 0.1, 0.1, (5, 0, 0)),
        (20, 0.1, 0.1, (16, 2, 2)),
        (60, 0.1, 0.1, (48, 6, 6)),
        (60, 0.0, 0.1, (54, 0, 6)),
        (60, 0.1, 0.0, (54, 6, 0)),
        (60, 0.0, 0.0, (60, 0, 0)),
        (100, 0.29, 0.57, (14, 29, 57)),
        (100, 0.58, 0.07, (35, 58, 7)),
        (3, 0.3333333333333333, 0.0, (3, 0, 0)),
    ],
)
def test_fractions_are_rounded_down(
    count: int, validation: float, test: float, sizes: tuple[int, int, int]
) -> None:
    result = split(np.arange(count), hashes_of(list(range(count))), validation, test)
    assert (len(result.training), len(result.validation), len(result.test)) == sizes


@pytest.mark.parametrize(
    ("labels", "fraction", "most"),
    [("aab", 0.34, 1), ("aaa", 0.4, 0), ("aabb", 0.5, 2), ("aaab", 0.5, 1), ("aaabbb", 0.34, 0)],
)
def test_group_larger_than_set_is_for_training(labels: str, fraction: float, most: int) -> None:
    result = split(numbered(labels), hashes_of(list(range(len(labels)))), 0.0, fraction)
    assert len(result.test) == most


@given(st.data())
def test_sets_have_whole_groups_and_do_not_depend_on_the_order(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=40))
    validation, test = data.draw(
        st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)).filter(lambda both: sum(both) < 1)
    )
    count = len(labels)
    hashes = hashes_of(list(range(count)))
    result = split(np.array(labels, np.int64), hashes, validation, test)
    sets = (result.training, result.validation, result.test)
    assert sorted(index for members in sets for index in members) == list(range(count))
    assert result.training
    assert len(result.validation) <= Fraction(str(validation)) * count
    assert len(result.test) <= Fraction(str(test)) * count
    groups = [{labels[index] for index in members} for members in sets]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert all(members == sorted(members) for members in sets)
    order = data.draw(st.permutations(range(count)))
    renamed = np.array([9 - labels[index] for index in order], np.int64)
    other = split(renamed, [hashes[index] for index in order], validation, test)
    for members, others in zip(sets, (other.training, other.validation, other.test), strict=True):
        assert sorted(order[index] for index in others) == members


def test_test_set_does_not_depend_on_the_validation_fraction() -> None:
    hashes = hashes_of(list(range(50)))
    tests = [split(np.arange(50), hashes, fraction, 0.2).test for fraction in (0.0, 0.1, 0.5)]
    assert tests[0] == tests[1] == tests[2]


@given(st.integers(1, 999), st.integers(1, 5))
def test_fraction_is_computed_from_its_decimal_notation(thousandths: int, thousands: int) -> None:
    count = 1000 * thousands
    result = split(np.arange(count), [b"%d" % i for i in range(count)], 0.0, thousandths / 1000)
    assert len(result.test) == thousandths * thousands


def test_training_set_is_never_empty() -> None:
    result = split(np.arange(100), hashes_of(list(range(100))), 0.71, 0.29)
    assert (len(result.training), len(result.validation), len(result.test)) == (1, 70, 29)
