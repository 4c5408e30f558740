"""Working ahead: a function over a sequence in threads, results in order, a bounded amount in flight.

Input: items, a function, the weight of each item. Output: an iterator of results. Knows nothing of photos.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Flight:
    """Futures in the order they were started, at most `depth` of them and of a total weight below `limit`.

    A single future may be heavier than the limit: it then flies alone.
    """

    def __init__(self, depth: int, limit: float) -> None:
        self._depth = depth
        self._limit = limit
        self._flying: deque[tuple[Future, float]] = deque()
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._flying)

    def has_room(self, weight: float) -> bool:
        """Whether one more of this weight may start."""
        return not self._flying or (len(self) < self._depth and self._weight + weight <= self._limit)

    def add(self, future: Future, weight: float) -> None:
        """Remember a future that was started."""
        self._flying.append((future, weight))
        self._weight += weight

    def next(self) -> Future:
        """The oldest future; it counts no more."""
        future, weight = self._flying.popleft()
        self._weight -= weight
        return future


def map_ahead(
    executor: Executor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    weight: Callable[[Item], float],
    depth: int,
    limit: float,
) -> Iterator[Result]:
    """Like `map`, but the next few calls are under way in `executor` while the caller uses a result."""
    flight = Flight(depth, limit)
    for item in items:
        heft = weight(item)
        while not flight.has_room(heft):
            yield flight.next().result()
        flight.add(executor.submit(function, item), heft)
    while len(flight):
        yield flight.next().result()
