"""Keeper: writes the rows of a run into the store, and never stops the run.

Input: rows as they are done. Output: parts in the store. When the store fails there is one warning; rows
wait, at most `WAITING` of them, and are written when the store is back. Any thread may call. Knows nothing
of photos.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from clipsam.errors import StoreError
from clipsam.store.records import Run
from clipsam.store.station import Station

RETRY_SECONDS = 30.0
WAITING = 10_000  # rows, about 20 MB; beyond it the oldest are given up, and counted

Row = Mapping[str, Any]


class Keeper:
    """Keeps one run. `warn` gets one sentence when the store fails, and one when it is back.

    `waiting` rows are not in the store yet; `lost` rows were given up.
    """

    def __init__(self, station: Station, run: Run, warn: Callable[[str], None]) -> None:
        self.lost = 0
        self._station = station
        self._run = run
        self._warn = warn
        self._rows: deque[Row] = deque()
        self._retry_at: float | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        return len(self._rows)

    def keep(self, row: Row) -> None:
        """Write a row, or let it wait while the store fails. Raises nothing that the store raises."""
        with self._lock:
            self._rows.append(row)
            while len(self._rows) > WAITING:
                self._rows.popleft()
                self.lost += 1
            if self._retry_at is None or time.monotonic() >= self._retry_at:
                self._write()

    def close(self) -> bool:
        """Try once more to write what waits; whether all of the run is in the store."""
        with self._lock:
            self._write()
            return not self._rows and not self.lost

    def _write(self) -> None:
        try:
            while self._rows:
                self._station.add(self._run, self._rows[0])
                self._rows.popleft()
        except StoreError as error:
            if self._retry_at is None:
                self._warn(f"{error}; the run goes on, and its parts are stored when the store is back")
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        if self._retry_at is not None:
            self._warn(f"the store {self._station.name} is back")
            self._retry_at = None
