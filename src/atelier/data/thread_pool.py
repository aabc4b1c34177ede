"""Ordered parallel map with bounded memory, over threads or other workers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Pending = TypeVar("Pending")


def ordered_thread_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    size: Callable[[Item], int],
    max_bytes: int,
) -> Iterator[Result]:
    """Yield ``function(item)`` of every item, in the items' order.

    At most four items per worker are in flight, and at most ``max_bytes`` bytes together; an item
    that is larger is processed alone. One more item may have been read ahead.

    Args:
        function: called on threads.
        items: read one by one, as results are consumed.
        workers: number of threads.
        size: returns the number of bytes of an item.
        max_bytes: limit for the bytes in flight.
    """
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from ordered_map(
                lambda item: pool.submit(function, item),
                Future.result,
                items,
                max_items=4 * workers,
                size=size,
                max_bytes=max_bytes,
            )
        finally:
            pool.shutdown(cancel_futures=True)


def ordered_map(
    submit: Callable[[Item], Pending],
    wait: Callable[[Pending], Result],
    items: Iterable[Item],
    max_items: int,
    size: Callable[[Item], int],
    max_bytes: int,
) -> Iterator[Result]:
    """Submit every item and yield the results, in the items' order.

    Args:
        submit: submits an item and returns a future.
        wait: waits for the result of a future and returns it.
        items: read one by one, as results are consumed.
        max_items: limit for the number of items in flight.
        size: returns the number of bytes of an item.
        max_bytes: limit for the bytes in flight; a larger item is submitted alone.
    """
    in_flight: deque[tuple[Pending, int]] = deque()
    bytes_in_flight = 0
    for item in items:
        item_size = size(item)
        while in_flight and (
            len(in_flight) >= max_items or bytes_in_flight + item_size > max_bytes
        ):
            future, finished_size = in_flight.popleft()
            yield wait(future)
            bytes_in_flight -= finished_size
        in_flight.append((submit(item), item_size))
        bytes_in_flight += item_size
    while in_flight:
        yield wait(in_flight.popleft()[0])
