"""Work on many items by threads, in order and in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def map_in_order(
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
        under_way: deque[tuple[Future[Made], int]] = deque()
        held = 0
        try:
            for item in items:
                item_size = size(item)
                while under_way and (len(under_way) >= 4 * workers or held + item_size > most):
                    future, done = under_way.popleft()
                    yield future.result()
                    held -= done
                under_way.append((pool.submit(work, item), item_size))
                held += item_size
            while under_way:
                yield under_way.popleft()[0].result()
        finally:
            pool.shutdown(cancel_futures=True)
