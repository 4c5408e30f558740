"""The queue between threads: what it keeps, drops and counts, and who is let go at the end."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from clipsam.dropqueue import DropQueue


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_full_queue_drops_the_oldest_and_counts() -> None:
    queue: DropQueue[int] = DropQueue(3, drop=True)
    assert all(queue.put(number) for number in range(10))
    assert queue.counts == (10, 7)
    queue.end()
    assert [queue.get() for _ in range(4)] == [7, 8, 9, None]


def test_without_dropping_the_giver_waits() -> None:
    queue: DropQueue[int] = DropQueue(1, drop=False)
    giver = in_thread(lambda: [queue.put(number) for number in range(100)])
    assert [queue.get() for _ in range(100)] == list(range(100))
    giver.join(5)
    assert queue.counts == (100, 0)


def test_the_end_brings_the_givers_error_after_the_items() -> None:
    queue: DropQueue[int] = DropQueue(2, drop=False)
    queue.put(1)
    queue.end(ValueError("the camera burns"))
    assert queue.get() == 1
    with pytest.raises(ValueError, match="the camera burns"):
        queue.get()


def test_closing_lets_both_sides_go() -> None:
    full: DropQueue[int] = DropQueue(1, drop=False)
    full.put(1)
    answers: list[Any] = []
    threads = [in_thread(lambda: answers.append(full.put(2)))]
    empty: DropQueue[int] = DropQueue(1, drop=False)
    threads.append(in_thread(lambda: answers.append(empty.get())))
    threads.append(in_thread(lambda: answers.append(full.wait_for_room())))
    full.close()
    empty.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert sorted(answers, key=str) == [False, False, None]
