"""The loop over photos: find, read ahead, segment, write behind; goes on where an earlier call stopped.

Input: a segmenter, what to inspect, a folder. Output: the run folder and a `RunSummary`. One bad photo gives
one error row and the loop goes on. Reading and writing have their own threads, so that the models never
wait; rows come in the order of the photos all the same. Knows nothing of models and terminals.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsam.drift import DriftWatch
from clipsam.errors import PhotoError, UsageError
from clipsam.finding import FoundPhotos, find_photos
from clipsam.images import photo_size
from clipsam.runs.ahead import Flight, map_ahead
from clipsam.runs.manifest import Manifest, open_run, run_settings, story_of, write_manifest
from clipsam.runs.photowork import FAILURES_IN_A_ROW, PhotoWork, Reading, Segmenter, finished_row, read
from clipsam.runs.pictures import PictureOptions, picture_names, write_pictures
from clipsam.runs.sitting import Sitting, Step
from clipsam.runs.store import ResultStore, Row, is_suspicious, ranked

if TYPE_CHECKING:
    from clipsam.drift import DriftWarning
    from clipsam.images import Photo
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
        sitting = Sitting(store, found.photos, watch, on_step)
        pictures = picture_names(found.photos, Path(manifest["root"]))
        start = time.perf_counter()
        state = "interrupted"
        try:
            _Loop(segmenter, out, sitting, pictures, options, bit_depth).run()
            state = "finished"
        finally:
            seconds = time.perf_counter() - start
            store.compact()
            if watch is not None:
                watch.finish()
                manifest["drift"] = watch.summary()
            _close(out, manifest, store, found, state, seconds)
    drift = watch.warnings[-1] if watch and watch.warnings else None
    return RunSummary(out, sitting.rows, sitting.resumed, found.skipped, seconds, drift)


class _Loop:
    """The engine of this machine: reads ahead, segments one photo after the other, writes behind."""

    def __init__(
        self,
        segmenter: Segmenter,
        out: Path,
        sitting: Sitting,
        names: Mapping[Path, str],
        options: PictureOptions,
        bit_depth: int | None,
    ) -> None:
        self._work = PhotoWork(segmenter, min(FAILURES_IN_A_ROW, len(sitting.photos)))
        self._out = out
        self._sitting = sitting
        self._names = names
        self._options = options
        self._bit_depth = bit_depth
        self._writing = Flight(DEPTH, PIXELS_IN_FLIGHT)

    def run(self) -> None:
        with ThreadPoolExecutor(2, "read") as readers, ThreadPoolExecutor(2, "write") as writers:
            try:
                readings = map_ahead(
                    readers,
                    self._read,
                    self._sitting.photos,
                    weight=_pixels,
                    depth=DEPTH,
                    limit=PIXELS_IN_FLIGHT,
                )
                for reading in readings:
                    self._handle(reading, writers)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                self._settle_all()  # what the models have done is kept, whatever happened

    def _read(self, path: Path) -> Reading:
        return read(path, self._sitting.done(path), self._bit_depth)

    def _handle(self, reading: Reading, writers: Executor) -> None:
        """Segment one photo, and start to write its pictures."""
        if reading.photo is None:
            row = reading.error_row or self._sitting.old(reading.path)
            self._put(writers, lambda: row, 0)
            return
        pixels = reading.photo.pixels.size / 3
        if pixels > PIXELS_IN_FLIGHT:  # its maps take all the memory that this loop may take
            self._settle_all()
        start = time.perf_counter()
        result = self._work.segment(reading)
        if isinstance(result, dict):
            failure = result
            self._put(writers, lambda: failure, 0)
            return
        seconds = time.perf_counter() - start
        photo = reading.photo
        self._put(writers, lambda: self._write(reading, photo, result, seconds), pixels)

    def _write(self, reading: Reading, photo: Photo, result: Segmentation, seconds: float) -> Row:
        def write() -> dict[str, str]:
            name = self._names[reading.path]
            return write_pictures(self._out, name, photo.pixels, result, self._options)

        return finished_row(reading, result, seconds, write)

    def _put(self, writers: Executor, work: Callable[[], Row], pixels: float) -> None:
        while not self._writing.has_room(pixels):
            self._settle()
        self._writing.add(writers.submit(work), pixels)

    def _settle(self) -> None:
        """Wait for the oldest pictures, then take their row: a row promises that its pictures are whole."""
        self._sitting.take(self._writing.next().result())

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
