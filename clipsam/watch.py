"""The loop over a hot folder: photos are inspected as they arrive, and their rows appended to the day's run.

Input: a segmenter, a `HotFolder`, a `DailyRuns`. Output: rows, pictures, moved photos. A photo that cannot be
decoded may still be on its way: it is waited for, and an error row after `patience` seconds. Stopped at any
moment, killed too, it goes on where it was: no photo is lost, none has two rows. Knows nothing of terminals.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipsam.errors import PhotoError, UsageError
from clipsam.hotfolder import Arrival, HotFolder
from clipsam.images import Photo, read_photo
from clipsam.runs.ahead import map_ahead
from clipsam.runs.daily import DailyRuns
from clipsam.runs.store import Row, error_row, is_suspicious

if TYPE_CHECKING:
    from clipsam.result import Segmentation
    from clipsam.runs.photowork import Segmenter

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3  # of the segmenter, not of photos
HALF_WRITTEN = (
    "empty",
    "truncated",
    "not-an-image",
    "unreadable",
)  # what a file can be that is still written


@dataclass(frozen=True)
class WatchOptions:
    """How the loop goes; times in seconds."""

    interval: float = 0.5  # between two looks into the folder
    patience: float = 30.0  # how long a photo that cannot be decoded is waited for
    bit_depth: int | None = None  # as in `read_photo`
    once: bool = False  # end when nothing waits any more

    def __post_init__(self) -> None:
        if not (self.interval > 0 and self.patience >= 0):
            raise UsageError(
                f"interval = {self.interval} and patience = {self.patience}; expected seconds above 0"
            )


@dataclass(frozen=True)
class WatchSummary:
    """What came of a call: counts of photos, and seconds from its start to its end."""

    ok: int
    ng: int
    errors: int
    seconds: float

    @property
    def photos(self) -> int:
        return self.ok + self.ng + self.errors


class Watch:
    """The loop; `run` works until `stop` is called, from a signal or another thread."""

    def __init__(
        self,
        segmenter: Segmenter,
        folder: HotFolder,
        runs: DailyRuns,
        options: WatchOptions | None = None,
        on_row: Callable[[Row], None] | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._folder = folder
        self._runs = runs
        self._options = options or WatchOptions()
        self._on_row = on_row
        self._stopped = threading.Event()
        self._counts = {"ok": 0, "ng": 0, "error": 0}
        self._failures = 0
        self._unmoved: list[tuple[str, Path]] = []  # SHA-256 and place of photos that have a row

    def stop(self) -> None:
        """End after the photo that is being inspected."""
        self._stopped.set()

    def run(self) -> WatchSummary:
        """Inspect what is there and what comes. Raises what the segmenter raises three times in a row."""
        start = time.monotonic()
        state = "interrupted"
        try:
            self._finish_what_was_left()
            while not self._stopped.is_set():
                arrivals = self._folder.arrivals()
                self._batch(arrivals)
                if self._options.once and not arrivals and not self._folder.waiting:
                    break
                if not arrivals:
                    self._stopped.wait(self._options.interval)
            state = "finished"
        finally:
            self._runs.close(state)
        seconds = time.monotonic() - start
        return WatchSummary(self._counts["ok"], self._counts["ng"], self._counts["error"], seconds)

    def _finish_what_was_left(self) -> None:
        """Photos that an earlier process picked; of some it wrote the row, and only the move is missing."""
        left = self._folder.left_behind()
        if left:
            places = [(sha256, Path(path)) for path, sha256 in self._runs.known if sha256]
            self._unmoved = [(sha256, path) for sha256, path in places if not path.exists()]
        self._batch(left)
        self._unmoved = []

    def _batch(self, arrivals: Sequence[Arrival]) -> None:
        """Inspect some photos, the next one being read meanwhile."""
        with ThreadPoolExecutor(1, "read") as reader:
            readings = map_ahead(
                reader, self._read, arrivals, weight=lambda arrival: arrival.size, depth=2, limit=64e6
            )
            for arrival, reading in readings:
                if self._stopped.is_set():
                    break
                self._handle(arrival, reading)

    def _read(self, arrival: Arrival) -> tuple[Arrival, Photo | PhotoError]:
        try:
            return arrival, read_photo(arrival.path, bit_depth=self._options.bit_depth)
        except PhotoError as error:
            return arrival, error

    def _handle(self, arrival: Arrival, reading: Photo | PhotoError) -> None:
        if isinstance(reading, PhotoError):
            self._refused(arrival, reading)
            return
        picked = self._folder.pick(arrival)
        if picked is None:
            return
        arrival = picked
        if (done := self._done_before(arrival, reading.sha256)) is not None:
            self._folder.finish(arrival, done)
            return
        start = time.perf_counter()
        result = self._segment(arrival, reading)
        if isinstance(result, Exception):
            self._error(arrival, "failed", f"the segmenter failed: {type(result).__name__}: {result}")
            return
        suspicious = bool(result.regions) if result.is_defective is None else result.is_defective
        bucket = "ng" if suspicious else "ok"
        place = self._folder.place(arrival, bucket)
        row = self._runs.keep(place, reading, result, time.perf_counter() - start)
        assert is_suspicious(row) == suspicious
        self._finish(arrival, place, bucket, row)

    def _done_before(self, arrival: Arrival, sha256: str | None) -> Path | None:
        """The place of a photo whose row was written by a process that was killed right then."""
        if self._folder.move_to is None:
            return arrival.path if (str(arrival.path), sha256) in self._runs.known else None
        same = (path for other, path in self._unmoved if other == sha256)
        return next((path for path in same if path.name.startswith(arrival.name.stem)), None)

    def _segment(self, arrival: Arrival, photo: Photo) -> Segmentation | Exception:
        try:
            result = self._segmenter.segment(photo)
            self._failures = 0
            return result
        except PhotoError as error:
            return error
        except Exception as error:
            self._failures += 1
            if self._failures == FAILURES_IN_A_ROW:
                raise
            log.exception("%s: the segmenter failed", arrival.path)
            return error

    def _refused(self, arrival: Arrival, error: PhotoError) -> None:
        if error.kind == "missing":  # somebody took it away
            self._folder.forget(arrival)
        elif error.kind in HALF_WRITTEN and self._folder.stood_still(arrival) < self._options.patience:
            self._folder.wait_for(arrival, min(1.0, self._options.patience / 4))
        elif (picked := self._folder.pick(arrival)) is not None:
            self._error(picked, error.kind, str(error))

    def _error(self, arrival: Arrival, kind: str, message: str) -> None:
        place = self._folder.place(arrival, "error")
        row = self._runs.add(error_row(place, None, kind, message))
        self._finish(arrival, place, "error", row)

    def _finish(self, arrival: Arrival, place: Path, bucket: str, row: Row) -> None:
        self._folder.finish(arrival, place)
        self._counts[bucket] += 1
        if self._on_row is not None:
            self._on_row(row)
