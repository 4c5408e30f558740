"""What every engine does with one photo: read it, segment it, make its row.

Input: a segmenter, a path. Output: a `Reading`, then a `Segmentation` or an error row, then the row. A bad
photo gives an error row and never an exception. Knows nothing of run folders, threads and other machines.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clipsam.errors import PhotoError
from clipsam.images import Photo, decode_file, open_photo
from clipsam.runs.store import Row, error_row, result_row

if TYPE_CHECKING:
    from clipsam.result import Segmentation
    from clipsam.runs.pictures import PictureOptions
    from clipsam.runs.sitting import Sitting

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 3  # of the segmenter, not of photos: then the fault is general, and no use going on


class Segmenter(Protocol):
    """What a run needs of `AnomalySegmenter`."""

    def segment(self, image: Photo) -> Segmentation: ...

    def manifest(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Job:
    """All that an engine is given: what does the work, on which photos (those of `sitting`), and where
    pictures go: `names` has the name of each photo's, below `out`.
    """

    segmenter: Segmenter
    out: Path
    sitting: Sitting
    names: Mapping[Path, str]
    options: PictureOptions
    bit_depth: int | None = None


class Engine(Protocol):
    """Does a job: every photo gets its pictures and then its row, through `Sitting.take`."""

    def run(self, job: Job) -> None: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Reading:
    """A photo as it was read: decoded, known to be bad, or (neither) of the very bytes that are done."""

    path: Path
    sha256: str | None
    seconds: float
    photo: Photo | None = None
    error: PhotoError | None = None

    @property
    def error_row(self) -> Row | None:
        """The row of a photo that cannot be read."""
        if self.error is None:
            return None
        return error_row(self.path, self.sha256, self.error.kind, str(self.error))


def read(path: Path, done: str | None = None, bit_depth: int | None = None) -> Reading:
    """Read a photo once; without decoding it where its SHA-256 is `done`, for which there is a row."""
    start = time.perf_counter()
    sha256 = photo = fault = None
    try:
        with open_photo(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != done:
                photo = decode_file(file, path, sha256, bit_depth=bit_depth)
    except PhotoError as error:
        fault = error
    except OSError as error:  # the disk or the network failed in the middle
        fault = PhotoError(f"{path}: cannot be read: {error}", "unreadable")
    return Reading(path, sha256, time.perf_counter() - start, photo, fault)


class PhotoWork:
    """A segmenter at work on photo after photo, in one thread or several; raises when it fails on `patience`
    in a row (0: goes on for ever).
    """

    def __init__(self, segmenter: Segmenter, patience: int = FAILURES_IN_A_ROW) -> None:
        self._segmenter = segmenter
        self._patience = patience
        self._failures = 0
        self._counting = threading.Lock()

    def segment(self, reading: Reading) -> Segmentation | Row:
        """The result, or an error row when the segmenter fails on this photo only."""
        assert reading.photo is not None
        try:
            result = self._segmenter.segment(reading.photo)
            self._failures = 0
            # Nothing that a run keeps shows the coarse map: a large photo's need not stay in memory.
            return replace(result, coarse_map=result.anomaly_map)
        except PhotoError as error:
            return error_row(reading.path, reading.sha256, error.kind, str(error))
        except Exception as error:
            with self._counting:
                self._failures += 1
                if self._failures == self._patience:
                    raise
            log.exception("%s: the segmenter failed", reading.path)
            message = f"{reading.path}: the segmenter failed: {type(error).__name__}: {error}"
            return error_row(reading.path, None, "failed", message)  # no hash: a later call tries it again


def finished_row(
    reading: Reading, result: Segmentation, seconds: float, write: Callable[[], dict[str, str]]
) -> Row:
    """The row of a segmented photo, after `write` has written (or encoded) its pictures and named them."""
    start = time.perf_counter()
    files = write()
    row = result_row(reading.path, reading.sha256, result, seconds)
    row["stages"] = {
        "read": round(reading.seconds, 4),
        **{name: spent for name, spent in row["stages"].items() if spent > 0},
        "write": round(time.perf_counter() - start, 4),
    }
    return row | {"files": files}
