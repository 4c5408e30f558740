"""The loop over photos: find, read ahead, segment, write behind; goes on where an earlier call stopped.

Input: a segmenter, what to inspect, a folder. Output: the run folder and a `RunSummary`. One bad photo gives
one error row and the loop goes on. Reading and writing have their own threads, so that the models never
wait; rows come in the order of the photos all the same. Knows nothing of models and terminals.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsam.drift import DriftWatch
from clipsam.errors import PhotoError, UsageError
from clipsam.finding import FoundPhotos, find_photos
from clipsam.images import photo_size
from clipsam.remote import RemotePath, as_path, is_url
from clipsam.runs.ahead import Flight, map_ahead
from clipsam.runs.manifest import Manifest, open_run, run_settings, story_of, write_manifest
from clipsam.runs.photowork import (
    FAILURES_IN_A_ROW,
    Engine,
    Job,
    PhotoWork,
    Reading,
    Segmenter,
    finished_row,
    read,
)
from clipsam.runs.pictures import PictureOptions, picture_names, write_pictures
from clipsam.runs.sitting import Sitting, Step
from clipsam.runs.store import ResultStore, Row, is_suspicious, ranked

if TYPE_CHECKING:
    from clipsam.drift import DriftWarning
    from clipsam.result import Segmentation

DEPTH = 4  # photos read ahead, and photos whose pictures are being written
PIXELS_IN_FLIGHT = 24e6  # of each of the two; a larger photo travels alone, so that memory stays bounded


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


def run_folder(out: str | Path) -> Path:
    """The folder of a run; `UsageError` for a URL: it is locked and appended to, which takes a local disk."""
    if is_url(out):
        raise UsageError(
            f"--out {out}: a run is written to a local disk; give a folder, and copy it afterwards"
        )
    return Path(out)


def photos_to_inspect(inputs: Sequence[str | Path]) -> FoundPhotos:
    """What `find_photos` finds; `UsageError` when that is nothing at all, or nothing that exists."""
    found = find_photos(inputs)
    if any(map(_is_there, found.photos)):
        return found
    names = ", ".join(str(given) for given in inputs)
    if found.photos:
        raise UsageError(f"there is no {names}; expected photos, folders or glob patterns that match some")
    other = f" ({len(found.skipped)} other files or folders were passed over)" if found.skipped else ""
    raise UsageError(f"no photos in {names}{other}; expected PNG, JPEG, BMP, TIFF, WebP, PGM or PPM files")


def _is_there(path: Path) -> bool:
    return path.exists() if isinstance(path, RemotePath) else os.path.lexists(path)


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
    streams: int = 1,
    engine: Engine | None = None,
) -> RunSummary:
    """Inspect photos, folders and globs into the run folder `out`, or go on with the run that is there.

    A photo counts as done when its path and bytes are those of a row with a result or an error. `maps` is
    "png16", "tiff" or "none"; `bit_depth` as in `read_photo`; `overwrite` removes an earlier run in `out`.
    `engine` is a `RayEngine`, or else the `LocalEngine` of `streams` threads. Raises `UsageError` when there
    is nothing to inspect and `RunError` when `out` cannot take this run.
    """
    out = run_folder(out)
    engine = engine or LocalEngine(streams)
    options = PictureOptions(maps, overlays)
    found = photos_to_inspect(inputs)
    settings = run_settings(segmenter.manifest(), bit_depth, options)
    names = [str(given) for given in inputs]
    watch = DriftWatch.over(getattr(segmenter, "calibration", None), bit_depth)
    manifest = open_run(out, settings, root=found.root, inputs=names, overwrite=overwrite)
    with ResultStore(out / "results.jsonl") as store:
        sitting = Sitting(store, found.photos, watch, on_step)
        pictures = picture_names(found.photos, as_path(manifest["root"]))
        start = time.perf_counter()
        state = "interrupted"
        try:
            engine.run(Job(segmenter, out, sitting, pictures, options, bit_depth))
            state = "finished"
        finally:
            seconds = time.perf_counter() - start
            store.compact()
            manifest["engine"] = engine.describe()
            if watch is not None:
                watch.finish()
                manifest["drift"] = watch.summary()
            _close(out, manifest, store, found, state, seconds)
    drift = watch.warnings[-1] if watch and watch.warnings else None
    return RunSummary(out, sitting.rows, sitting.resumed, found.skipped, seconds, drift)


class LocalEngine:
    """The engine of this machine: `streams` photos are segmented at once, each in a thread of its own."""

    def __init__(self, streams: int = 1) -> None:
        self._streams = streams

    def describe(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        return {"name": "local", "streams": self._streams}

    def run(self, job: Job) -> None:
        """Do all photos that are not done yet."""
        _Loop(job, self._streams).run()


class _Loop:
    """The local engine at work: reads ahead, segments, writes behind; rows are in the order of photos."""

    def __init__(self, job: Job, streams: int) -> None:
        self._job = job
        self._work = PhotoWork(job.segmenter, min(FAILURES_IN_A_ROW, len(job.sitting.photos)))
        self._streams = streams
        self._fault: BaseException | None = None  # of the segmenter; nothing is segmented after it
        self._under_way = Flight(DEPTH + streams, PIXELS_IN_FLIGHT)  # futures of the future of a row

    def run(self) -> None:
        with (
            ThreadPoolExecutor(2, "read") as readers,
            ThreadPoolExecutor(self._streams, "segment") as segmenters,
            ThreadPoolExecutor(2, "write") as writers,
        ):
            try:
                photos = self._job.sitting.photos
                for reading in map_ahead(
                    readers, self._read, photos, weight=_pixels, depth=DEPTH, limit=PIXELS_IN_FLIGHT
                ):
                    self._start(reading, segmenters, writers)
                self._settle_all()
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                segmenters.shutdown(wait=False, cancel_futures=True)
                self._keep_the_rest()

    def _read(self, path: Path) -> Reading:
        return read(path, self._job.sitting.done(path), self._job.bit_depth)

    def _start(self, reading: Reading, segmenters: Executor, writers: Executor) -> None:
        """Have one photo segmented and its pictures written, as soon as there is room for it."""
        pixels = 0.0 if reading.photo is None else reading.photo.pixels.size / 3
        while not self._under_way.has_room(pixels):
            self._settle()
        if reading.photo is None:
            row = reading.error_row or self._job.sitting.old(reading.path)
            self._under_way.add(_known(_known(row)), 0)
            return
        self._under_way.add(segmenters.submit(self._segment, reading, writers), pixels)
        if (
            pixels > PIXELS_IN_FLIGHT
        ):  # its maps take all the memory there should be: nothing is read beside it
            self._settle_all()

    def _segment(self, reading: Reading, writers: Executor) -> Future[Row]:
        """Segment one photo, and start to write its pictures."""
        if self._fault is not None:
            raise self._fault
        start = time.perf_counter()
        try:
            result = self._work.segment(reading)
        except BaseException as fault:
            self._fault = fault
            raise
        if isinstance(result, dict):
            return _known(result)
        return writers.submit(self._write, reading, result, time.perf_counter() - start)

    def _write(self, reading: Reading, result: Segmentation, seconds: float) -> Row:
        assert reading.photo is not None
        pixels, name = reading.photo.pixels, self._job.names[reading.path]

        def write() -> dict[str, str]:
            return write_pictures(self._job.out, name, pixels, result, self._job.options)

        return finished_row(reading, result, seconds, write)

    def _settle(self) -> None:
        """Wait for the oldest photo, then take its row: a row promises that its pictures are whole."""
        self._job.sitting.take(self._under_way.next().result().result())

    def _settle_all(self) -> None:
        while len(self._under_way):
            self._settle()

    def _keep_the_rest(self) -> None:
        """What the models have done is kept, whatever happened; the caller hears of that, not of more."""
        while len(self._under_way):
            try:
                self._settle()
            except Exception:
                continue
            except BaseException as error:
                if error is not self._fault:  # someone interrupts again
                    raise


def _known(result: Any) -> Future[Any]:
    """A future that has come."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _pixels(path: Path) -> float:
    if isinstance(path, RemotePath):
        return PIXELS_IN_FLIGHT / DEPTH  # not known before it is fetched, which is not done twice
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
