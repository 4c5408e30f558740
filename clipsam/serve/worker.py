"""The worker: one thread with the warm segmenter, behind a queue that is full at some point and says so.

Input: the bytes of a photo. Output: a future of what was found; the photo, its pictures and its row are kept
in the day's run, if there is one. A photo that fails harms no other. Knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from clipsam.errors import ClipsamError, PhotoError
from clipsam.images import Photo, decode_photo

if TYPE_CHECKING:
    from clipsam.result import Segmentation
    from clipsam.runs.daily import DailyRuns
    from clipsam.runs.photowork import Segmenter

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3  # of the models or the disk, not of photos: then the service is not ready

_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"RIFF": ".webp", b"P5": ".pgm"}
_SUFFIXES |= {b"P6": ".ppm", b"II": ".tiff", b"MM": ".tiff"}


class Busy(ClipsamError):
    """The queue is full; the same request may be made again later."""


@dataclass(frozen=True, eq=False)
class Inspected:
    """One photo's outcome. `path` is where the service keeps the photo, if it keeps any."""

    photo: Photo
    result: Segmentation
    seconds: float  # of decoding and the models
    waited: float  # seconds in the queue
    path: Path | None = None


@dataclass(frozen=True)
class _Job:
    data: bytes
    future: Future[Inspected]
    arrived: float


class Worker:
    """Start it, `submit` photos from any thread, `close` it. `runs` keeps what was inspected, in `photos`."""

    def __init__(
        self,
        segmenter: Segmenter,
        *,
        queue_size: int,
        max_pixels: int,
        runs: DailyRuns | None = None,
        photos: Path | None = None,
    ) -> None:
        self.segmenter = segmenter
        self._max_pixels = max_pixels
        self._runs = runs
        self._photos = photos
        self._jobs: queue.Queue[_Job | None] = queue.Queue(queue_size)
        self._failures = 0
        self._seconds = 1.0  # of a photo, lately
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="segmenter", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Photos in the queue."""
        return self._jobs.qsize()

    @property
    def drift_warnings(self) -> int:
        """How often the scores of passed parts were found to have drifted from the calibration."""
        return 0 if self._runs is None else self._runs.drift_warnings

    @property
    def trouble(self) -> str | None:
        """Why the service is not ready; None when it is."""
        if self._closing or not self._thread.is_alive():
            return "the service is shutting down"
        if self._failures >= FAILURES_IN_A_ROW:
            return f"the last {self._failures} photos could not be inspected or kept; see the log"
        return None

    @property
    def retry_after(self) -> int:
        """Seconds, about, until the queue has room again."""
        return max(1, round(self._seconds * max(1, self.waiting) / 2))

    def submit(self, data: bytes) -> Future[Inspected]:
        """Put a photo into the queue; its future may raise `PhotoError`. Raises `Busy` when it is full."""
        future: Future[Inspected] = Future()
        if self._closing:
            raise Busy("the service is shutting down; try again soon")
        try:
            self._jobs.put_nowait(_Job(data, future, time.monotonic()))
        except queue.Full as error:
            raise Busy(
                f"{self._jobs.maxsize} photos are waiting already; try again in {self.retry_after} s"
            ) from error
        return future

    def close(self) -> None:
        """Finish the photo in hand, refuse the others, end the day's run."""
        self._closing = True
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.future.cancel()
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if job.future.set_running_or_notify_cancel():  # who waited too long is gone
                    self._do(job)
        finally:
            if self._runs is not None:
                self._runs.close()

    def _do(self, job: _Job) -> None:
        start = time.monotonic()
        try:
            outcome = self._inspect(job, start - job.arrived)
        except PhotoError as error:
            job.future.set_exception(error)
        except Exception as error:
            self._failures += 1
            log.exception("an upload could not be inspected")
            job.future.set_exception(error)
        else:
            self._failures = 0
            self._seconds = 0.8 * self._seconds + 0.2 * outcome.seconds
            job.future.set_result(outcome)

    def _inspect(self, job: _Job, waited: float) -> Inspected:
        start = time.perf_counter()
        photo = decode_photo(job.data, "the upload", max_pixels=self._max_pixels)
        result = self.segmenter.segment(photo)
        seconds = time.perf_counter() - start
        path = self._keep(job.data, photo, result, seconds)
        return Inspected(photo, result, seconds, waited, path)

    def _keep(self, data: bytes, photo: Photo, result: Segmentation, seconds: float) -> Path | None:
        """Write the photo and its row. The name is ours: time and hash, nothing that a client said."""
        if self._runs is None or self._photos is None:
            return None
        moment = datetime.now(UTC)
        suffix = next((known for magic, known in _SUFFIXES.items() if data.startswith(magic)), ".png")
        name = f"{moment:%H%M%S}-{moment.microsecond:06d}-{(photo.sha256 or '')[:12]}{suffix}"
        path = self._photos / f"{moment:%Y-%m-%d}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._runs.keep(path, photo, result, seconds)
        return path
