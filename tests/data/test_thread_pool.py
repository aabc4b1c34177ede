"""Ordered thread map: order, limits and exceptions."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.data.thread_pool import ordered_thread_map


@given(st.lists(st.integers(0, 30)), st.integers(1, 5), st.integers(1, 60))
def test_results_are_ordered_and_bounded(sizes: list[int], workers: int, max_bytes: int) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for size in sizes:
            read.append(size)
            yield size

    results = []
    for result in ordered_thread_map(
        lambda size: -size, items(), workers, lambda size: size, max_bytes
    ):
        # The last item may have been read ahead.
        in_flight = read[len(results) :][:-1]
        assert len(in_flight) <= 4 * workers
        assert sum(in_flight) <= max_bytes or len(in_flight) == 1
        results.append(result)
    assert results == [-size for size in sizes]


def test_order_does_not_depend_on_completion() -> None:
    def work(item: int) -> int:
        time.sleep(0.01 * (item % 2))
        return item

    assert list(ordered_thread_map(work, range(20), 4, lambda _: 1, 100)) == list(range(20))


def test_exception_is_raised_in_place_of_the_result() -> None:
    results = ordered_thread_map(lambda item: 6 // item, [3, 2, 0, 1], 2, lambda _: 1, 100)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
