"""The line loop: frames as they come -> answers in order, within a deadline, for as long as the line runs.

Input: a warm segmenter and an iterable of frames (arrays, paths, PIL images; a camera of
`clipsam/sources.py`). Output: `Answer`s, counts and quantiles of every stage. One thread takes frames from
the source, one decodes ahead, and the models run where the answers are asked for. Knows nothing of cameras.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from clipsam.dropqueue import DropQueue
from clipsam.errors import ClipsamError, PhotoError, UsageError
from clipsam.images import Photo, as_photo
from clipsam.latency import CostEstimate, LatencyHistogram, Quantiles

if TYPE_CHECKING:
    from clipsam.result import Segmentation

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3  # of the segmenter, not of frames: then the fault is general


class StreamSegmenter(Protocol):
    """What the loop needs of `AnomalySegmenter`."""

    def segment(self, image: Photo, *, refine: Callable[[], bool] | None = None) -> Segmentation: ...

    def warm_up(self, image: Photo) -> dict[str, float]: ...


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of one frame: a `result`, or the `error` that says why there is none."""

    index: int  # of the frame, from 0, as the source gave them: gaps are dropped frames
    latency: float  # seconds from the frame's arrival to this answer
    late: bool  # after the deadline
    result: Segmentation | None = None
    error: Exception | None = None
    photo: Photo | None = None  # the decoded frame

    @property
    def degraded(self) -> bool:
        """Whether the coarse map had to do: see `Segmentation.degraded`."""
        return self.result is not None and self.result.degraded


@dataclass(frozen=True)
class StreamStats:
    """Counts since the start: `received` = `answered` + `errors` + `dropped` + `waiting`."""

    received: int  # frames that the source gave
    answered: int
    dropped: int  # never looked at, since newer ones had come
    waiting: int  # in the queue, being decoded or segmented; left over where the loop was closed early
    errors: int  # not readable, or the segmenter failed on them
    degraded: int  # of the answered: without SAM, for want of time
    late: int  # of the answered and the errors: after the deadline
    stages: dict[str, Quantiles]  # of the answered; "latency" is the whole way

    def as_dict(self) -> dict[str, Any]:
        """As plain values; times in ms."""
        names = ("received", "answered", "dropped", "waiting", "errors", "degraded", "late")
        stages = {name: quantiles.as_dict() for name, quantiles in self.stages.items()}
        return {name: getattr(self, name) for name in names} | {"stages": stages}


@dataclass
class _Frame:
    """A frame on its way."""

    index: int
    arrived: float
    image: Any
    photo: Photo | None = None
    error: ClipsamError | None = None
    decoding: float = 0.0  # seconds


@dataclass
class _Costs:
    """What the parts of `segment` are thought to take."""

    coarse: CostEstimate = field(default_factory=CostEstimate)  # up to the coarse map
    refining: CostEstimate = field(default_factory=CostEstimate)  # the rest, with SAM
    closing: CostEstimate = field(default_factory=CostEstimate)  # the rest, without


class Stream(Iterator[Answer]):
    """The loop as an iterator and a context manager; made by `AnomalySegmenter.stream`.

    Ends when the source ends; when the source raises, its error is raised after the frames that came before.
    """

    def __init__(
        self,
        segmenter: StreamSegmenter,
        frames: Iterable[Any],
        *,
        deadline_ms: float | None = None,
        queue: int = 2,
        drop: bool | None = None,
        warm_up: bool = True,
    ) -> None:
        if deadline_ms is not None and not deadline_ms > 0:
            raise UsageError(f"deadline_ms = {deadline_ms}; expected milliseconds above 0, or None for none")
        if queue < 1:
            raise UsageError(f"queue = {queue}; expected room for 1 frame or more")
        live = deadline_ms is not None or bool(getattr(frames, "live", False))
        self._segmenter = segmenter
        self._source = frames
        self._deadline = None if deadline_ms is None else deadline_ms / 1e3
        self._inbox: DropQueue[_Frame] = DropQueue(queue, drop=live if drop is None else drop)
        self._decoded: DropQueue[_Frame] = DropQueue(1, drop=False)
        self._warm_up = warm_up
        self._threads: list[threading.Thread] = []
        self._costs = _Costs()
        self._stages: dict[str, LatencyHistogram] = {}
        self._answered = self._errors = self._stale = self._degraded = self._late = 0
        self._failures = 0
        self._lock = threading.Lock()
        self._over = False

    # ---- for the caller

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Answer:
        if self._over:
            raise StopIteration
        if not self._threads:
            self._start()
        try:
            frame = self._fresh_frame()
        except BaseException:
            self.close()
            raise
        if frame is None:
            self.close()
            raise StopIteration
        return self._answer(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more frames and let the source go; the counts stay."""
        self._over = True
        self._inbox.close()
        self._decoded.close()
        close = getattr(self._source, "close", None)
        if callable(close):
            try:
                close()
            except ValueError:  # a generator that another thread is waiting in; it ends with its next frame
                log.debug("the source was waiting for a frame when the loop was closed")

    def __del__(self) -> None:
        if getattr(self, "_threads", None):
            self.close()

    @property
    def stats(self) -> StreamStats:
        """Counts and quantiles so far; may be asked from any thread."""
        with self._lock:
            received, dropped = self._inbox.counts
            dropped += self._stale
            done = self._answered + self._errors + dropped
            return StreamStats(
                received=received,
                answered=self._answered,
                dropped=dropped,
                waiting=received - done,
                errors=self._errors,
                degraded=self._degraded,
                late=self._late,
                stages={name: times.quantiles() for name, times in self._stages.items()},
            )

    # ---- the way of a frame

    def _start(self) -> None:
        frames = iter(self._source)
        if self._warm_up:
            first = next(frames, None)  # gives the size to warm up with; its clock starts afterwards
            if first is not None:
                self._warm(first)
                frames = chain([first], frames)
        for work, given in ((_receive, (frames, self._inbox)), (_decode, (self._inbox, self._decoded))):
            # Daemons, since a camera that hangs must not keep Python; they know nothing of this object, so
            # that it ends with the loop that used it.
            thread = threading.Thread(target=work, args=given, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _warm(self, first: Any) -> None:
        try:
            photo = as_photo(first)
        except ClipsamError:  # is told when its turn comes
            photo = Photo(np.full((480, 640, 3), 128, np.uint8))
        spent = self._segmenter.warm_up(photo)
        refining = sum(spent.get(stage, 0.0) for stage in ("regions", "sam", "fusion"))
        self._costs.coarse.add(sum(spent.values()) - refining)
        self._costs.refining.add(refining)

    def _fresh_frame(self) -> _Frame | None:
        """The next frame; one that cannot be in time any more is passed over where a newer one waits."""
        while (frame := self._decoded.get()) is not None:
            newer = len(self._inbox) + len(self._decoded) > 0
            if not (newer and self._is_hopeless(frame)):
                return frame
            with self._lock:
                self._stale += 1
        return None

    def _is_hopeless(self, frame: _Frame) -> bool:
        if self._deadline is None or frame.photo is None:
            return False
        return not self._costs.coarse.fits(self._left(frame) - self._costs.closing.seconds)

    def _left(self, frame: _Frame) -> float:
        assert self._deadline is not None
        return frame.arrived + self._deadline - time.perf_counter()

    def _answer(self, frame: _Frame) -> Answer:
        result: Segmentation | None = None
        error: Exception | None = frame.error
        taken = time.perf_counter()
        if frame.photo is not None:
            try:
                result = self._segment(frame, frame.photo, taken)
                self._failures = 0
            except PhotoError as refused:
                error = refused
            except Exception as failure:
                self._failures += 1
                if self._failures == FAILURES_IN_A_ROW:
                    self.close()
                    raise
                log.exception("frame %d: the segmenter failed", frame.index)
                error = failure
        latency = time.perf_counter() - frame.arrived
        late = self._deadline is not None and latency > self._deadline
        self._count(frame, result, taken, latency, late)
        return Answer(frame.index, latency, late, result, error, frame.photo)

    def _segment(self, frame: _Frame, photo: Photo, taken: float) -> Segmentation:
        asked: list[tuple[float, bool]] = []

        def refine() -> bool:
            now = time.perf_counter()
            wanted = self._deadline is None or self._costs.refining.fits(self._left(frame))
            asked.append((now, wanted))
            return wanted

        result = self._segmenter.segment(photo, refine=refine)
        end = time.perf_counter()
        coarse_done, wanted = asked[0] if asked else (end, False)
        self._costs.coarse.add(coarse_done - taken)
        (self._costs.refining if wanted else self._costs.closing).add(end - coarse_done)
        return result

    def _count(
        self, frame: _Frame, result: Segmentation | None, taken: float, latency: float, late: bool
    ) -> None:
        with self._lock:
            self._late += late
            if result is None:
                self._errors += 1
                return
            self._answered += 1
            self._degraded += result.degraded
            waited = (taken - frame.arrived) - frame.decoding
            times = {"wait": waited, **result.timings, "decode": frame.decoding, "latency": latency}
            for name, seconds in times.items():
                self._stages.setdefault(name, LatencyHistogram()).add(seconds)


def _receive(frames: Iterator[Any], inbox: DropQueue[_Frame]) -> None:
    """The first thread: frames from the source into `inbox`."""
    error: BaseException | None = None
    try:
        for index, image in enumerate(frames):
            if not inbox.put(_Frame(index, time.perf_counter(), image)):
                break
    except BaseException as raised:
        error = raised
    inbox.end(error)


def _decode(inbox: DropQueue[_Frame], decoded: DropQueue[_Frame]) -> None:
    """The second thread: one frame is decoded ahead."""
    error: BaseException | None = None
    try:
        # A frame is taken only when it can be handed on: until then a newer one may replace it.
        while decoded.wait_for_room() and (frame := inbox.get()) is not None:
            start = time.perf_counter()
            try:
                frame.photo = as_photo(frame.image)
            except (PhotoError, UsageError) as refused:
                frame.error = refused
            frame.image = None
            frame.decoding = time.perf_counter() - start
            decoded.put(frame)
    except BaseException as raised:
        error = raised
    decoded.end(error)
