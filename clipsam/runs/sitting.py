"""One sitting of a run: takes the row of each photo as it is done, in whatever order they come.

Input: rows. Output: the results file, a `Step` for each row, the watch for drift, which sees the photos in
their order. Knows nothing of how photos are read and segmented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsam.drift import DriftWatch
from clipsam.runs.manifest import now
from clipsam.runs.store import ResultStore, Row


@dataclass(frozen=True)
class Step:
    """One photo is done, or was done before (`resumed`): its row, and how far the run is."""

    row: Row
    resumed: bool
    number: int  # from 1
    total: int


class Sitting:
    """The rows of one call. `take` is called by one thread; `done` by any."""

    def __init__(
        self,
        store: ResultStore,
        photos: Sequence[Path],
        watch: DriftWatch | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.photos = photos
        self.resumed = 0
        self._store = store
        self._place = {str(path): place for place, path in enumerate(photos)}
        self._rows: dict[int, Row] = {}
        self._watched = 0  # photos whose scores the watch has seen
        self._watch = watch
        self._on_step = on_step

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows so far, in the order of the photos."""
        return tuple(self._rows[place] for place in sorted(self._rows))

    def done(self, path: Path) -> str | None:
        """The SHA-256 of the bytes for which this photo has a row, if it has one."""
        row = self._store.rows.get(str(path))
        return None if row is None else row["sha256"]

    def old(self, path: Path) -> Row:
        """The row that a photo has from an earlier sitting."""
        return self._store.rows[str(path)]

    def take(self, row: Row) -> None:
        """Keep a new row, whose pictures are whole, or count one that `old` gave."""
        resumed = self._store.rows.get(row["path"]) is row
        if not resumed:
            row["time"] = now()
            self._store.append(row)
        self.resumed += resumed
        self._rows[self._place[row["path"]]] = row
        self._show_watch()
        if self._on_step is not None:
            self._on_step(Step(row, resumed, len(self._rows), len(self.photos)))

    def _show_watch(self) -> None:
        """Drift is a matter of what follows what, so a row waits for those of the photos before it."""
        while (row := self._rows.get(self._watched)) is not None:
            self._watched += 1
            if self._watch is not None and "score" in row:
                self._watch.add(row["score"])
