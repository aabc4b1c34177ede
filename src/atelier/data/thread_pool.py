"""Work on many items by threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ordered_thread_map(
    work: Callable[[Given], Made],
    items: Iterable[Given],
    workers: int,
    size: Callable[[Given], int],
    most: int,
) -> Iterator[Made]:
    """Yield ``work(item)`` of every item, in the items' order.

    Never are more than four items per worker under way, nor items of more than ``most`` bytes
    together, but for one alone that is larger. One more item may have been read and be waiting.

    Args:
        work: called on threads.
        items: read one by one, as results are taken.
        workers: threads.
        size: how many bytes an item holds.
        most: bytes that may be under way.
    """
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from ordered_map(
                lambda item: pool.submit(work, item).result, items, 4 * workers, size, most
            )
        finally:
            pool.shutdown(cancel_futures=True)


def ordered_map(
    start: Callable[[Given], Callable[[], Made]],
    items: Iterable[Given],
    count: int,
    size: Callable[[Given], int],
    most: int,
) -> Iterator[Made]:
    """Start work on every item and yield what it makes, in the items' order.

    Args:
        start: starts work on an item elsewhere; what it returns waits for the result.
        items: read one by one, as results are taken.
        count: items that may be under way.
        size: how many bytes an item holds.
        most: bytes that may be under way; an item that is larger goes alone.
    """
    under_way: deque[tuple[Callable[[], Made], int]] = deque()
    held = 0
    for item in items:
        item_size = size(item)
        while under_way and (len(under_way) >= count or held + item_size > most):
            finish, done = under_way.popleft()
            yield finish()
            held -= done
        under_way.append((start(item), item_size))
        held += item_size
    while under_way:
        yield under_way.popleft()[0]()
