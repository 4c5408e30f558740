"""The loop over photos: find, read ahead, segment, write behind; goes on where an earlier call stopped.

Input: a segmenter, what to inspect, a folder. Output: the run folder and a `RunSummary`. One bad photo gives
one error row and the loop goes on. Reading and writing have their own threads, so that the models never
wait; rows come in the order of the photos all the same. Knows nothing of models and terminals.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from clipsam.drift import DriftWatch
from clipsam.errors import PhotoError, UsageError
from clipsam.finding import FoundPhotos, find_photos
from clipsam.images import Photo, file_sha256, photo_size, read_photo
from clipsam.runs.ahead import Flight, map_ahead
from clipsam.runs.manifest import Manifest, now, open_run, run_settings, story_of, write_manifest
from clipsam.runs.pictures import PictureOptions, picture_names, write_pictures
from clipsam.runs.store import ResultStore, Row, error_row, is_suspicious, ranked, result_row

if TYPE_CHECKING:
    from clipsam.drift import DriftWarning
    from clipsam.result import Segmentation

log = logging.getLogger(__name__)

DEPTH = 4  # photos read ahead, and photos whose pictures are being written
PIXELS_IN_FLIGHT = 24e6  # of each of the two; a larger photo travels alone, so that memory stays bounded
FAILURES_IN_A_ROW = 3  # of the segmenter, not of photos: then the fault is general, and no use going on


class Segmenter(Protocol):
    """What the loop needs of `AnomalySegmenter`."""

    def segment(self, image: Photo) -> Segmentation: ...

    def manifest(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Step:
    """One photo is done, or was done before (`resumed`): its row, and how far the run is."""

    row: Row
    resumed: bool
    number: int  # from 1
    total: int


@dataclass(frozen=True)
class RunSummary:
    """What came of a call: the rows of its photos, in order; those `resumed` were there before."""

    folder: Path
    rows: tuple[Row, ...]
    resumed: int
    skipped: tuple[tuple[Path, str], ...]
    seconds: float
    drift: DriftWarning | None = (
        None  # the last warning that passed parts are not like the good ones any more
    )

    @property
    def errors(self) -> list[Row]:
        """Rows of photos that have no result."""
        return [row for row in self.rows if "error" in row]

    @property
    def suspicious(self) -> list[Row]:
        """Rows that a person should look at, the highest score first."""
        return [row for row in ranked(self.rows) if is_suspicious(row)]

    @property
    def photos_per_second(self) -> float:
        """Of the photos that were worked on in this call, from the first read to the last write."""
        return (len(self.rows) - self.resumed) / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The summary as plain values, as `--json` prints it."""
        return {
            "run": str(self.folder),
            "photos": len(self.rows),
            "done": len(self.rows) - len(self.errors),
            "resumed": self.resumed,
            "suspicious": [
                {key: row[key] for key in ("path", "score", "is_defective")}
                | {"regions": len(row["regions"])}
                for row in self.suspicious
            ],
            "errors": [{"path": row["path"], **row["error"]} for row in self.errors],
            "skipped": [{"path": str(path), "reason": reason} for path, reason in self.skipped],
            "seconds": round(self.seconds, 3),
            "photos_per_second": round(self.photos_per_second, 3),
            "drift": self.drift.to_dict() if self.drift else None,
        }


def photos_to_inspect(inputs: Sequence[str | Path]) -> FoundPhotos:
    """What `find_photos` finds; `UsageError` when that is nothing at all, or nothing that exists."""
    found = find_photos(inputs)
    if any(map(os.path.lexists, found.photos)):
        return found
    names = ", ".join(str(given) for given in inputs)
    if found.photos:
        raise UsageError(f"there is no {names}; expected photos, folders or glob patterns that match some")
    other = f" ({len(found.skipped)} other files or folders were passed over)" if found.skipped else ""
    raise UsageError(f"no photos in {names}{other}; expected PNG, JPEG, BMP, TIFF, WebP, PGM or PPM files")


def inspect_photos(
    segmenter: Segmenter,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    maps: str = "png16",
    overlays: bool = True,
    bit_depth: int | None = None,
    overwrite: bool = False,
    on_step: Callable[[Step], None] | None = None,
) -> RunSummary:
    """Inspect photos, folders and globs into the run folder `out`, or go on with the run that is there.

    A photo counts as done when its path and bytes are those of a row with a result or an error. `maps` is
    "png16", "tiff" or "none"; `bit_depth` as in `read_photo`; `overwrite` removes an earlier run in `out`.
    Raises `UsageError` when there is nothing to inspect and `RunError` when `out` cannot take this run.
    """
    out = Path(out)
    options = PictureOptions(maps, overlays)
    found = photos_to_inspect(inputs)
    settings = run_settings(segmenter.manifest(), bit_depth, options)
    names = [str(given) for given in inputs]
    watch = DriftWatch.over(getattr(segmenter, "calibration", None), bit_depth)
    manifest = open_run(out, settings, root=found.root, inputs=names, overwrite=overwrite)
    with ResultStore(out / "results.jsonl") as store:
        loop = _Loop(segmenter, out, store, found, Path(manifest["root"]), options, bit_depth, on_step, watch)
        start = time.perf_counter()
        state = "interrupted"
        try:
            loop.run()
            state = "finished"
        finally:
            seconds = time.perf_counter() - start
            store.compact()
            if watch is not None:
                watch.finish()
                manifest["drift"] = watch.summary()
            _close(out, manifest, store, found, state, seconds)
    drift = watch.warnings[-1] if watch and watch.warnings else None
    return RunSummary(out, tuple(loop.rows), loop.resumed, found.skipped, seconds, drift)


@dataclass(frozen=True)
class _Reading:
    """A photo as the reading thread hands it over: decoded, or known to be bad, or done before."""

    path: Path
    sha256: str | None
    seconds: float
    photo: Photo | None = None
    error: PhotoError | None = None
    row: Row | None = None


class _Loop:
    """The state of one call: what is in flight, and the rows so far."""

    def __init__(
        self,
        segmenter: Segmenter,
        out: Path,
        store: ResultStore,
        found: FoundPhotos,
        root: Path,
        options: PictureOptions,
        bit_depth: int | None,
        on_step: Callable[[Step], None] | None,
        watch: DriftWatch | None = None,
    ) -> None:
        self.rows: list[Row] = []
        self.resumed = 0
        self._segmenter = segmenter
        self._out = out
        self._store = store
        self._photos = found.photos
        self._names = picture_names(found.photos, root)
        self._options = options
        self._bit_depth = bit_depth
        self._on_step = on_step
        self._watch = watch
        self._writing = Flight(DEPTH, PIXELS_IN_FLIGHT)
        self._failures = 0

    def run(self) -> None:
        with ThreadPoolExecutor(2, "read") as readers, ThreadPoolExecutor(2, "write") as writers:
            try:
                readings = map_ahead(
                    readers, self._read, self._photos, weight=_pixels, depth=DEPTH, limit=PIXELS_IN_FLIGHT
                )
                for reading in readings:
                    self._handle(reading, writers)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                self._settle_all()  # what the models have done is kept, whatever happened

    def _read(self, path: Path) -> _Reading:
        start = time.perf_counter()
        sha256 = None
        try:
            sha256 = file_sha256(path)
            if (row := self._store.done(path, sha256)) is not None:
                return _Reading(path, sha256, 0.0, row=row)
            photo = read_photo(path, bit_depth=self._bit_depth)
            return _Reading(path, photo.sha256, time.perf_counter() - start, photo=photo)
        except PhotoError as error:
            return _Reading(path, sha256, time.perf_counter() - start, error=error)

    def _handle(self, reading: _Reading, writers: Executor) -> None:
        """Segment one photo, and start to write its pictures."""
        if reading.photo is None:
            row = reading.row
            if reading.error is not None:
                row = error_row(reading.path, reading.sha256, reading.error.kind, str(reading.error))
            self._put(writers, lambda: row, 0)
            return
        start = time.perf_counter()
        result = self._segment(reading)
        if isinstance(result, dict):
            failure = result
            self._put(writers, lambda: failure, 0)
            return
        seconds = time.perf_counter() - start
        photo = reading.photo
        self._put(writers, lambda: self._write(reading, photo, result, seconds), photo.pixels.size / 3)

    def _segment(self, reading: _Reading) -> Segmentation | Row:
        """The result, or an error row when the segmenter fails on this photo only."""
        assert reading.photo is not None
        try:
            result = self._segmenter.segment(reading.photo)
            self._failures = 0
            return result
        except PhotoError as error:
            return error_row(reading.path, reading.sha256, error.kind, str(error))
        except Exception as error:
            self._failures += 1
            if self._failures == min(FAILURES_IN_A_ROW, len(self._photos)):
                raise
            log.exception("%s: the segmenter failed", reading.path)
            message = f"{reading.path}: the segmenter failed: {type(error).__name__}: {error}"
            return error_row(reading.path, None, "failed", message)  # no hash: a later call tries it again

    def _write(self, reading: _Reading, photo: Photo, result: Segmentation, seconds: float) -> Row:
        start = time.perf_counter()
        files = write_pictures(self._out, self._names[reading.path], photo.pixels, result, self._options)
        row = result_row(reading.path, reading.sha256, result, seconds)
        row["stages"] = {
            "read": round(reading.seconds, 4),
            **{name: spent for name, spent in row["stages"].items() if spent > 0},
            "write": round(time.perf_counter() - start, 4),
        }
        return row | {"files": files}

    def _put(self, writers: Executor, work: Callable[[], Row | None], pixels: float) -> None:
        while not self._writing.has_room(pixels):
            self._settle()
        self._writing.add(writers.submit(work), pixels)

    def _settle(self) -> None:
        """Wait for the oldest pictures, then add their row: a row promises that its pictures are whole."""
        row: Row = self._writing.next().result()
        resumed = self._store.rows.get(row["path"]) is row
        if not resumed:
            row["time"] = now()
            self._store.append(row)
        self.rows.append(row)
        self.resumed += resumed
        if self._watch is not None and "score" in row:
            self._watch.add(row["score"])
        if self._on_step is not None:
            self._on_step(Step(row, resumed, len(self.rows), len(self._photos)))

    def _settle_all(self) -> None:
        while len(self._writing):
            self._settle()


def _pixels(path: Path) -> float:
    try:
        width, height = photo_size(path)
    except PhotoError:
        return 0.0  # reading it will say what is wrong
    return float(width * height)


def _close(
    out: Path, manifest: Manifest, store: ResultStore, found: FoundPhotos, state: str, seconds: float
) -> None:
    story = story_of(store.rows.values())
    wall = manifest["wall_seconds"] + seconds
    manifest.update(story, state=state, skipped=len(found.skipped), wall_seconds=round(wall, 3))
    manifest["photos_per_second"] = round(story["counts"]["photos"] / wall, 3)
    if (peak := _peak_memory_mb()) is not None:
        manifest["peak_memory_mb"] = max(peak, manifest.get("peak_memory_mb", 0))
    write_manifest(out, manifest)


def _peak_memory_mb() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)
