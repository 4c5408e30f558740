"""The line loop: order, exact counts, deadlines, and sources that fail, vanish and return."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import resource
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_stream import TimedSegmenter
from PIL import Image

from clipsam.errors import PhotoError, SourceError, UsageError
from clipsam.sources import Reconnecting, paced
from clipsam.stream import Stream


def frame(number: int = 0) -> np.ndarray:
    return np.full((8, 12, 3), number % 256, np.uint8)


def frames(count: int) -> Iterator[np.ndarray]:
    return (frame(number) for number in range(count))


def check_counts(stream: Stream, indices: list[int]) -> None:
    """Every frame is accounted for, and what is missing from the answers is what was dropped."""
    stats = stream.stats
    assert stats.received == stats.answered + stats.errors + stats.dropped + stats.waiting
    assert stats.waiting == 0
    assert len(indices) == stats.answered + stats.errors
    assert all(before < after for before, after in pairwise(indices))


def test_without_a_deadline_every_frame_is_answered_in_order() -> None:
    stream = Stream(TimedSegmenter(0.0005), frames(200))
    answers = list(stream)
    assert [answer.index for answer in answers] == list(range(200))
    assert [round(255 * answer.result.score) for answer in answers] == [n % 256 for n in range(200)]
    assert not any(answer.late or answer.degraded for answer in answers)
    check_counts(stream, [answer.index for answer in answers])
    assert stream.stats.dropped == 0
    assert list(stream) == []  # it is over


def test_too_many_frames_are_dropped_and_counted_exactly() -> None:
    segmenter = TimedSegmenter(0.002, 0.001)
    stream = Stream(segmenter, paced(frames(3000), 3000), deadline_ms=60)
    answers = [(answer.index, answer.latency, answer.late, answer.result.score) for answer in stream]
    indices = [answer[0] for answer in answers]
    check_counts(stream, indices)
    stats = stream.stats
    assert stats.received == 3000
    assert 100 < stats.answered < 1000
    assert stats.dropped == 3000 - len(answers)
    assert max(indices) >= 2997  # the newest is never lost
    assert all(round(255 * score) == index % 256 for index, _, _, score in answers)
    assert stats.stages["latency"].p99 < 0.060
    assert stats.late == sum(late for _, _, late, _ in answers)
    assert stats.as_dict()["stages"]["clip"]["p50_ms"] == pytest.approx(2, rel=0.03)


def test_memory_stays_flat() -> None:
    big = np.zeros((600, 800, 3), np.uint8)
    stream = Stream(TimedSegmenter(0.002), (big.copy() for _ in range(1500)), deadline_ms=1000)
    peaks = []
    for count, _ in enumerate(stream):
        if count in (20, 60):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert stream.stats.received == 1500  # 2 GB went through
    assert peaks[-1] < 1.05 * peaks[0] + 30_000


def test_where_sam_would_be_late_the_coarse_map_answers() -> None:
    stream = Stream(TimedSegmenter(0.005, 0.2), paced(frames(60), 50), deadline_ms=100)
    answers = list(stream)
    assert len(answers) > 30
    assert all(answer.degraded and answer.result.degraded for answer in answers)
    assert sum(answer.late for answer in answers) <= 1  # the machine may hiccup
    assert stream.stats.degraded == len(answers)
    assert answers[0].result.to_dict()["degraded"] is True


def test_with_time_enough_nothing_is_degraded() -> None:
    stream = Stream(TimedSegmenter(0.002, 0.01), paced(frames(20), 40), deadline_ms=2000)
    answers = list(stream)
    assert len(answers) == 20
    assert not any(answer.degraded for answer in answers)
    assert "degraded" not in answers[0].result.to_dict()


def test_a_deadline_that_cannot_be_kept_is_said_and_not_silently_empty() -> None:
    stream = Stream(TimedSegmenter(0.03), paced(frames(40), 60), deadline_ms=5)
    answers = list(stream)
    assert answers
    assert all(answer.late for answer in answers)
    check_counts(stream, [answer.index for answer in answers])


def test_it_warms_up_with_the_first_frame_and_loses_none() -> None:
    segmenter = TimedSegmenter()
    assert len(list(Stream(segmenter, frames(5)))) == 5
    assert segmenter.warmed == [(8, 12, 3)]
    assert list(Stream(segmenter, [])) == []
    cold = TimedSegmenter()
    assert len(list(Stream(cold, frames(2), warm_up=False))) == 2
    assert cold.warmed == []


def test_bad_frames_are_answered_with_their_error(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.fromarray(frame(7)).save(good)
    broken.write_bytes(good.read_bytes()[:40])
    given: list[Any] = [broken, good, tmp_path / "gone.png", np.zeros((4, 4, 7)), frame(9)]
    stream = Stream(TimedSegmenter(), given)
    answers = list(stream)
    kinds = [type(answer.error) for answer in answers]
    assert kinds == [PhotoError, type(None), PhotoError, UsageError, type(None)]
    assert answers[2].error.kind == "missing"
    assert answers[1].photo.path == good
    check_counts(stream, [answer.index for answer in answers])


def test_a_segmenter_that_fails_once_goes_on_and_one_that_always_fails_stops() -> None:
    segmenter = TimedSegmenter()
    segmenter.failing = 2
    answers = list(Stream(segmenter, frames(5)))
    assert [answer.result is None for answer in answers] == [True, True, False, False, False]
    assert "out of memory" in str(answers[0].error)
    segmenter.failing = 99
    with pytest.raises(RuntimeError, match="out of memory"):
        list(Stream(segmenter, frames(5)))


def test_the_error_of_the_source_comes_after_its_frames() -> None:
    def dying() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise OSError("cable pulled")

    stream = Stream(TimedSegmenter(), dying())
    with pytest.raises(OSError, match="cable pulled"):
        list(stream)
    assert stream.stats.answered == 3
    assert list(stream) == []


def test_a_camera_that_vanishes_and_returns_is_survived() -> None:
    opened: list[float] = []

    def camera() -> Iterator[np.ndarray]:
        opened.append(time.perf_counter())
        if len(opened) in (2, 3):
            raise SourceError("not there yet")
        yield from paced(frames(20), 500)
        if len(opened) == 1:
            raise SourceError("unplugged")

    source = Reconnecting(camera, first_wait=0.02, longest_wait=0.05)
    with Stream(TimedSegmenter(), source, deadline_ms=1000) as stream:
        answers = []
        for answer in stream:
            answers.append(answer.index)
            if len(answers) == 50:
                break
    assert source.reconnects >= 3
    assert all(before < after for before, after in pairwise(answers))
    stats = stream.stats
    assert stats.received == stats.answered + stats.errors + stats.dropped + stats.waiting
    waits = np.diff(opened)
    assert waits[1] >= 0.04  # the wait doubles


def test_leaving_the_loop_lets_the_source_go() -> None:
    released = threading.Event()

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield frame()
                time.sleep(0.001)
        finally:
            released.set()

    before = threading.active_count()
    for answer in Stream(TimedSegmenter(), endless(), deadline_ms=500):
        if answer.index > 3:
            break
    del answer
    gc.collect()
    assert released.wait(5)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


@pytest.mark.slow
def test_the_embedded_pair_behind_a_camera_that_gives_too_much() -> None:
    """The short version of eval/bench_stream.py, which takes 20,000 frames."""
    path = Path(__file__).parent.parent / "eval" / "bench_stream.py"
    spec = importlib.util.spec_from_file_location("bench_stream", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    options = {"frames": 3000, "rate": 100.0, "deadline_ms": 4000.0, "side": 256, "preset": "nano"}
    found = bench.measure(argparse.Namespace(**options))
    assert all(found["holds"].values()), found


@pytest.mark.parametrize("wrong", [{"deadline_ms": 0}, {"deadline_ms": float("nan")}, {"queue": 0}])
def test_wrong_settings_are_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Stream(TimedSegmenter(), [], **wrong)
