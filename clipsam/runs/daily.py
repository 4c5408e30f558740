"""A run without an end: one run folder per day, appended to photo by photo, in constant memory.

Input: results as they come. Output: folders OUT/2026-11-21 ... as `clipsam inspect` writes them, and rows in
the station's store, if there is one. Knows nothing of where photos come from.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsam.drift import DriftWatch
from clipsam.images import Photo
from clipsam.runs.manifest import (
    Manifest,
    OtherSettings,
    now,
    open_run,
    run_settings,
    story_of,
    write_manifest,
)
from clipsam.runs.pictures import PictureOptions, shortened, write_pictures
from clipsam.runs.store import ResultStore, Row, result_row

if TYPE_CHECKING:
    from clipsam.calibrate import Calibration
    from clipsam.result import Segmentation
    from clipsam.store import Keeper, Station

log = logging.getLogger(__name__)

MANIFEST_SECONDS = 5.0  # between two writes of run.json


class DailyRuns:
    """The run of today; call from one thread. Close it at the end.

    `settings` is what decides the results (the segmenter's manifest), `root` a folder above all photos. The
    run of a day goes on after a restart; under other settings another one is begun beside it. `warn` takes a
    sentence where the scores of passed parts drift away from the `calibration`, or the store fails. `known`
    holds path and SHA-256 of what the newest run had when this one was opened.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        *,
        root: Path,
        inputs: list[str],
        kind: str = "watch",
        options: PictureOptions | None = None,
        bit_depth: int | None = None,
        station: Station | None = None,
        calibration: Calibration | None = None,
        warn: Callable[[str], None] = log.warning,
        day: Callable[[], str] | None = None,
    ) -> None:
        self.folder = out  # of the day that is open
        self.known: set[tuple[str, str | None]] = set()
        self._out = out
        self._root = root
        self._inputs = inputs
        self._kind = kind
        self._options = options or PictureOptions()
        self._settings = run_settings(settings, bit_depth, self._options)
        self._station = station
        self._calibration = calibration
        self._drift = DriftWatch.over(calibration, bit_depth)
        self._warn = warn
        self._day = day or (lambda: datetime.now().strftime("%Y-%m-%d"))
        self._open_day = ""
        self._results: ResultStore | None = None
        self._keeper: Keeper | None = None
        self._manifest: Manifest = {}
        self._story: Manifest = {}
        self._written = 0.0
        self._before = self._newest()
        self._turn()

    def keep(self, path: Path, photo: Photo, result: Segmentation, seconds: float) -> Row:
        """Write the pictures and the row of one photo that was inspected; `path` must be below the root."""
        self._turn()
        start = time.perf_counter()
        name = shortened(path.relative_to(self._root)).as_posix()
        files = write_pictures(self.folder, name, photo.pixels, result, self._options)
        row = result_row(path, photo.sha256, result, seconds)
        row["stages"] = {name: spent for name, spent in row["stages"].items() if spent > 0}
        row["stages"]["write"] = round(time.perf_counter() - start, 4)
        return self._append(row | {"files": files})

    def add(self, row: Row) -> Row:
        """Write a row that has no pictures; gives it as it was written."""
        self._turn()
        return self._append(row)

    def _append(self, row: Row) -> Row:
        assert self._results is not None
        row = {**row, "time": now()}
        self._results.append(row)
        self._results.rows.clear()  # the file has them; a day may have more than the memory takes
        self._story = _sum(self._story, story_of([row]))
        if self._keeper is not None:
            self._keeper.keep(row)
        if self._drift is not None and "score" in row and (found := self._drift.add(row["score"])):
            self._warn(str(found))
        if time.monotonic() - self._written > MANIFEST_SECONDS:
            self._write_manifest("running")
        return row

    @property
    def counts(self) -> dict[str, Any]:
        """Of the open day: photos, suspicious, defective, errors ..."""
        return dict(self._story["counts"])

    @property
    def drift_warnings(self) -> int:
        """How often the scores of passed parts were found to have drifted."""
        return 0 if self._drift is None else len(self._drift.warnings)

    def close(self, state: str = "finished") -> None:
        """End the run of the open day, which goes on when it is opened again today."""
        if self._results is None:
            return
        self._write_manifest(state)
        self._results.__exit__(None, None, None)
        self._results = None
        if self._keeper is not None and not self._keeper.close():
            self._warn(
                f"{self._keeper.waiting + self._keeper.lost} rows of {self.folder} are not in the store"
            )

    # ---- the turn of the day

    def _turn(self) -> None:
        day = self._day()
        if day == self._open_day:
            return
        self.close()
        self._open_day = day
        self._manifest = self._open(day)
        self._results = ResultStore(self.folder / "results.jsonl")
        rows = list(self._results.rows.values())
        self._story = story_of(rows)
        self._results.rows.clear()
        if self._drift is not None:  # what passed before a restart counts; it was told then
            for row in rows:
                if "score" in row:
                    self._drift.add(row["score"])
        if not self.known:
            self.known = {(row["path"], row["sha256"]) for row in rows} | self._before
        self._keeper = self._kept(rows) if self._station is not None else None
        self._write_manifest("running")

    def _open(self, day: str) -> Manifest:
        """Today's run under these settings: a station that was calibrated anew at noon has two."""
        for number in count(1):
            self.folder = self._out / (day if number == 1 else f"{day}-{number}")
            try:
                return open_run(self.folder, self._settings, root=self._root, inputs=self._inputs)
            except OtherSettings:
                continue
        raise AssertionError  # counting has no end

    def _kept(self, earlier: list[Row]) -> Keeper:
        """A keeper of the day; it registers the run itself, since the store may be away just now."""
        from clipsam.store import Keeper

        assert self._station is not None
        register = partial(
            self._station.run,
            product=str(self._manifest.get("product", "object")),
            kind=self._kind,
            key=self._manifest["id"],
            threshold=None if self._calibration is None else self._calibration.score_threshold,
            folder=self.folder,
            settings=self._settings,
        )
        return Keeper(self._station, register, self._warn, earlier=earlier)

    def _newest(self) -> set[tuple[str, str | None]]:
        """What the newest run in `out` has: a photo that a crash left between two days is there."""
        runs = sorted(path.parent for path in self._out.glob("*-*-*/results.jsonl"))
        if not runs:
            return set()
        from clipsam.runs.store import read_rows

        return {(row["path"], row["sha256"]) for row in read_rows(runs[-1] / "results.jsonl")}

    def _write_manifest(self, state: str) -> None:
        story = {**self._story, "state": state}
        if self._drift is not None:
            story["drift"] = self._drift.summary()
        write_manifest(self.folder, {**self._manifest, **story})
        self._written = time.monotonic()


def _sum(first: Any, second: Any) -> Any:
    """Two stories as one: numbers of the same name are added."""
    if isinstance(first, dict):
        merged = {name: _sum(first[name], second[name]) for name in first.keys() & second.keys()}
        return {**first, **second, **merged}
    return round(first + second, 3)
