"""Keeper: writes the rows of a run into the store, and never stops the run.

Input: rows as they are done. Output: parts in the store, written by a thread of its own. When the store fails
there is one warning; rows wait, at most `WAITING` of them, and are written when the store is back. A store
that works, but falls so far behind, is waited for. Knows nothing of photos.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from clipsam.errors import StoreError
from clipsam.runs.manifest import STORY, read_manifest
from clipsam.store.records import Run
from clipsam.store.station import Station
from clipsam.store.writing import as_text

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0
WAITING = 10_000  # rows, about 20 MB; beyond it the oldest are given up, and counted
PATIENCE = 1.0  # seconds that a row waits for room; writing `AT_ONCE` rows takes a small part of it
AT_ONCE = 100  # rows in one transaction, when so many wait

Row = Mapping[str, Any]


class Keeper:
    """Keeps one run; any thread may call. `close` it, so that what waits is written.

    `run` may be a function that registers it: it is called when the first row is written, so that a store
    which is away just then is no trouble either. `earlier` are rows of the run from before, which are added
    where the store lacks them. `warn` gets one sentence when the store fails, and one when it is back, from
    the thread that writes. `lost` rows were given up.
    """

    def __init__(
        self,
        station: Station,
        run: Run | Callable[[], Run],
        warn: Callable[[str], None],
        *,
        earlier: Iterable[Row] = (),
    ) -> None:
        self.lost = 0
        self._station = station
        self._run = run
        self._known: set[tuple[str, str | None]] | None = None
        self._warn = warn
        self._earlier = deque(earlier)
        self._rows: deque[Row] = deque()
        self._in_hand = 0
        self._failing = self._closing = self._told = False
        self._singly = 0  # so many rows are written one by one, to find the one that cannot be stored
        self._changed = threading.Condition()
        self._writer = threading.Thread(target=self._write_all, name="keeper", daemon=True)
        self._writer.start()

    @property
    def waiting(self) -> int:
        """Rows that are not in the store yet."""
        with self._changed:
            return len(self._earlier) + len(self._rows) + self._in_hand

    def keep(self, row: Row) -> None:
        """Take a row of `results.jsonl`; returns at once, but for a store that works and lags far behind."""
        with self._changed:
            self._changed.wait_for(self._has_room, PATIENCE)
            self._rows.append(row)
            while len(self._rows) > WAITING:
                self._rows.popleft()
                self.lost += 1
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._rows) < WAITING or self._failing or self._closing

    def close(self) -> bool:
        """Write what waits, or try once more if the store fails; whether all of the run is in the store."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._writer.join()
        return not self.waiting and not self.lost

    def _write_all(self) -> None:
        while some := self._next():
            try:
                self._add(some)
            except Exception as error:
                if _is_of_the_rows(error):
                    self._set_aside(some, error)
                    continue
                self._put_back(some)
                self._say_failing(error)
                if self._closing:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
                continue
            with self._changed:
                self._in_hand = 0
                self._changed.notify_all()
            if self._failing:
                self._failing = False
                self._warn(f"the store {self._station.name} is back")

    def _next(self) -> list[Row]:
        """The rows to write next, oldest first; none when all is done and the keeper is closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._earlier or self._rows or self._closing)
            count = 1 if self._singly else AT_ONCE
            self._singly = max(self._singly - 1, 0)
            some: list[Row] = []
            while len(some) < count and (self._earlier or self._rows):
                some.append(self._earlier.popleft() if self._earlier else self._rows.popleft())
            self._in_hand = len(some)
            return some

    def _put_back(self, some: list[Row]) -> None:
        with self._changed:
            self._earlier.extendleft(reversed(some))
            self._in_hand = 0

    def _say_failing(self, error: Exception) -> None:
        if not self._failing:
            with self._changed:
                self._failing = True
                self._changed.notify_all()
            self._warn(f"{error}; the run goes on, and its parts are stored when the store is back")

    def _set_aside(self, some: list[Row], error: Exception) -> None:
        """Give up a row that no store will ever take, so that it does not hold up the others."""
        if len(some) > 1:
            self._put_back(some)
            self._singly = len(some)
            return
        log.debug("%s: not stored", some[0].get("path"), exc_info=error)
        with self._changed:
            self._in_hand = 0
            self.lost += 1
        if not self._told:
            self._told = True
            self._warn(f"{some[0].get('path')} cannot be stored: {error}")

    def _add(self, some: list[Row]) -> None:
        run = self._run = self._run() if callable(self._run) else self._run
        if self._known is None:
            self._known = self._station.known(run)
        if fresh := [row for row in some if not self._is_known(row)]:
            self._station.add_many(run, fresh)

    def _is_known(self, row: Row) -> bool:
        assert self._known is not None
        return bool(row.get("sha256")) and (as_text(str(row["path"])), row["sha256"]) in self._known


def _is_of_the_rows(error: Exception) -> bool:
    """Whether it is a fault of what is written, and not of the store."""
    cause = error.__cause__
    if isinstance(cause, DataError | IntegrityError):
        return True
    return not isinstance(error, StoreError) or (
        isinstance(cause, StatementError) and not isinstance(cause, DBAPIError)
    )


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
