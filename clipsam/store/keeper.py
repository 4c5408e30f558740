"""Keeper: writes the rows of a run into the store, and never stops or slows the run.

Input: rows as they are done. Output: parts in the store, written by a thread of its own. When the store fails
there is one warning; rows wait, at most `WAITING` of them, and are written when the store is back. Knows
nothing of photos.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clipsam.errors import ClipsamError
from clipsam.runs.manifest import STORY, read_manifest
from clipsam.store.records import Run
from clipsam.store.station import Station
from clipsam.store.writing import as_text

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
WAITING = 10_000  # rows, about 20 MB; beyond it the oldest are given up, and counted

Row = Mapping[str, Any]


class Keeper:
    """Keeps one run; any thread may call. `close` it, so that what waits is written.

    `run` may be a function that registers it: it is called with the first row, so that a store which is away
    just then is no trouble either. `warn` gets one sentence when the store fails, and one when it is back,
    from the thread that writes. `lost` rows were given up.
    """

    def __init__(self, station: Station, run: Run | Callable[[], Run], warn: Callable[[str], None]) -> None:
        self.lost = 0
        self._station = station
        self._run = run
        self._known: set[tuple[str, str | None]] | None = None
        self._warn = warn
        self._rows: deque[Row] = deque()
        self._in_hand = 0
        self._failing = self._closing = False
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="keeper", daemon=True)
        self._writer.start()

    @property
    def waiting(self) -> int:
        """Rows that are not in the store yet."""
        with self._changed:
            return len(self._rows) + self._in_hand

    def keep(self, row: Row) -> None:
        """Take a row of `results.jsonl`; returns at once."""
        with self._changed:
            self._rows.append(row)
            self._bound()
            self._changed.notify()

    def close(self) -> bool:
        """Write what waits, or try once more if the store fails; whether all of the run is in the store."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()
        return not self._rows and not self.lost

    def _write_all(self) -> None:
        while (row := self._next()) is not None:
            try:
                self._add(row)
            except Exception as error:
                self._put_back(row, error)
                if self._closing:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
                continue
            self._in_hand = 0
            if self._failing:
                self._failing = False
                self._warn(f"the store {self._station.name} is back")

    def _next(self) -> Row | None:
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closing)
            self._in_hand = int(bool(self._rows))
            return self._rows.popleft() if self._rows else None

    def _put_back(self, row: Row, error: Exception) -> None:
        with self._changed:
            self._rows.appendleft(row)
            self._in_hand = 0
            self._bound()
        if not isinstance(error, ClipsamError):
            log.error("%s: not stored", row.get("path"), exc_info=error)
        if not self._failing:
            self._failing = True
            self._warn(f"{error}; the run goes on, and its parts are stored when the store is back")

    def _bound(self) -> None:
        while len(self._rows) > WAITING:
            self._rows.popleft()
            self.lost += 1

    def _add(self, row: Row) -> None:
        run = self._run = self._run() if callable(self._run) else self._run
        if self._known is None:
            self._known = self._station.known(run)
        if not row.get("sha256") or (as_text(str(row["path"])), row["sha256"]) not in self._known:
            self._station.add(run, row)


def keeper_of_folder(
    station: Station, folder: Path, warn: Callable[[str], None], *, threshold: float | None = None
) -> Keeper:
    """A keeper of the run in a run folder, whose run.json is read with the first row.

    `threshold` is that of the calibration on the score, in [0, 1].
    """

    def register() -> Run:
        manifest = read_manifest(folder)
        return station.run(
            product=str(manifest.get("product", "object")),
            key=manifest.get("id"),
            threshold=threshold,
            folder=folder,
            settings={key: value for key, value in manifest.items() if key not in STORY},
        )

    return Keeper(station, register, warn)
