"""Where frames come from: cameras and video files through OpenCV, a source that is reopened, a steady pace.

Input: a device number, an address or a file. Output: iterables of uint8 [H, W, 3] RGB frames. OpenCV is the
extra `video`, imported when a source is opened. Knows nothing of models.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipsam.errors import MissingExtra, SourceError, UsageError

log = logging.getLogger(__name__)

Frame = TypeVar("Frame")

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})


class Camera:
    """Frames of a camera for ever; `SourceError` when it cannot be opened or gives no more.

    `device` is a number, or an address that OpenCV opens (rtsp://..., http://..., /dev/video0). `width`,
    `height`, `per_second` are asked of the camera, which may give others. `patience` bounds, in seconds,
    how long opening and each frame of an address may take (where OpenCV's backend can tell).
    """

    live = True

    def __init__(
        self,
        device: int | str,
        *,
        width: int | None = None,
        height: int | None = None,
        per_second: float | None = None,
        patience: float = 5.0,
    ) -> None:
        self.device = device
        self._wanted = {"FRAME_WIDTH": width, "FRAME_HEIGHT": height, "FPS": per_second}
        self._patience = patience
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        cv2 = _opencv()
        capture = self._open(cv2)
        try:
            while not self._closed.is_set():
                good, frame = capture.read()
                if not good:
                    raise SourceError(f"camera {self.device!r} gives no more frames; is it still connected?")
                yield _rgb(cv2, frame)
        finally:
            capture.release()

    def close(self) -> None:
        """End with the next frame."""
        self._closed.set()

    def _open(self, cv2: Any) -> Any:
        if isinstance(self.device, str):
            limit = round(1e3 * self._patience)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
            capture = cv2.VideoCapture(self.device, cv2.CAP_ANY, limits)
        else:
            capture = cv2.VideoCapture(self.device)
        if not capture.isOpened():
            raise SourceError(
                f"camera {self.device!r} cannot be opened; expected the number of a camera (0, 1 ...) or an "
                "address such as rtsp://...; is it connected, and not in use by another program?"
            )
        for name, value in self._wanted.items():
            if value is not None:
                capture.set(getattr(cv2, f"CAP_PROP_{name}"), value)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # old frames are of no use
        return capture


class Video:
    """Every `every`-th frame of a video file, from its first; may be iterated again.

    Raises `SourceError` where the file cannot be read.
    """

    def __init__(self, path: str | Path, *, every: int = 1) -> None:
        if every < 1:
            raise UsageError(f"every = {every}; expected 1 for all frames, 2 for every second one ...")
        self.path = Path(path)
        self.every = every

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        cv2 = _opencv()
        if not self.path.is_file():
            raise SourceError(f"{self.path}: no such file; expected a video")
        capture = cv2.VideoCapture(os.fspath(self.path))
        try:
            if not capture.isOpened():
                raise SourceError(f"{self.path}: not a video that OpenCV can read")
            number = 0
            while capture.grab():
                if number % self.every == 0:
                    good, frame = capture.retrieve()
                    if not good:
                        raise SourceError(f"{self.path}: frame {number} is damaged")
                    yield _rgb(cv2, frame)
                number += 1
            if number == 0:
                raise SourceError(f"{self.path}: a video without a frame")
        finally:
            capture.release()


class Reconnecting:
    """A source that is opened anew whenever it raises or ends, after a wait that doubles each time.

    `open_source` gives an iterable of frames: `Reconnecting(lambda: Camera(0))`. Waits are in seconds. After
    `patience` seconds without a frame it gives up with `SourceError`; None: never. `reconnects` counts.
    """

    live = True

    def __init__(
        self,
        open_source: Callable[[], Iterable[Any]],
        *,
        first_wait: float = 0.5,
        longest_wait: float = 30.0,
        patience: float | None = None,
    ) -> None:
        if not 0 < first_wait <= longest_wait:
            raise UsageError(
                f"first_wait = {first_wait} and longest_wait = {longest_wait}; expected seconds above 0, "
                "the first not above the longest"
            )
        self.reconnects = 0
        self._open = open_source
        self._waits = (first_wait, longest_wait)
        self._patience = patience
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Any]:
        wait, last_frame = self._waits[0], time.monotonic()
        while not self._closed.is_set():
            failure: Exception | None = None
            try:
                for frame in self._open():
                    yield frame
                    wait, last_frame = self._waits[0], time.monotonic()
                    if self._closed.is_set():
                        return
            except MissingExtra:
                raise
            except Exception as error:
                failure = error
            reason = str(failure) if failure else "it ended"
            gone = time.monotonic() - last_frame
            if self._patience is not None and gone > self._patience:
                raise SourceError(f"the source gave no frame for {gone:.1f} s ({reason})") from failure
            log.warning("the source is gone (%s); opened anew in %.1f s", reason, wait)
            if self._closed.wait(wait):
                return
            self.reconnects += 1
            wait = min(2 * wait, self._waits[1])

    def close(self) -> None:
        """Open it no more."""
        self._closed.set()


def paced(frames: Iterable[Frame], per_second: float) -> Iterator[Frame]:
    """`frames`, one every 1 / `per_second` seconds, as a line would give them."""
    if not per_second > 0:
        raise UsageError(f"per_second = {per_second}; expected frames per second above 0")
    start = time.perf_counter()
    for number, frame in enumerate(frames):
        ahead = start + number / per_second - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        yield frame


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("reading cameras and video files", "video") from error
    return cv2


def _rgb(cv2: Any, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB if frame.ndim == 2 else cv2.COLOR_BGR2RGB)
