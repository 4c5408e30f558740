"""A bounded queue between two threads that drops the oldest item when it is full, or makes the giver wait.

Input: items, and at last an end, perhaps with the error that ended it. Output: the items in order, and how
many were dropped. Knows nothing of what the items are.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class DropQueue(Generic[Item]):
    """At most `size` items wait. Full, `put` drops the oldest with `drop`, else it waits for room."""

    def __init__(self, size: int, *, drop: bool) -> None:
        self._size = size
        self._drop = drop
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._received = self._dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def counts(self) -> tuple[int, int]:
        """How many items were put, and how many of them were dropped; both of one moment."""
        with self._changed:
            return self._received, self._dropped

    def put(self, item: Item) -> bool:
        """Add an item; False when nobody takes any more."""
        with self._changed:
            while len(self._items) >= self._size and not self._drop and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            self._received += 1
            if len(self._items) >= self._size:
                self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def wait_for_room(self) -> bool:
        """Wait until `put` would neither drop nor wait; False when nobody takes any more."""
        with self._changed:
            while len(self._items) >= self._size and not self._closed:
                self._changed.wait()
            return not self._closed

    def get(self) -> Item | None:
        """The oldest item, waited for; None at the end. Raises the error that the giver ended with."""
        with self._changed:
            while not self._items and not self._ended and not self._closed:
                self._changed.wait()
            if self._items and not self._closed:
                self._changed.notify_all()
                return self._items.popleft()
            if self._error is not None and not self._closed:
                raise self._error
            return None

    def end(self, error: BaseException | None = None) -> None:
        """No more items come; those that wait are still given out."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody takes any more: whoever waits is let go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
