"""The station's store for the verbs: opening what `--store` names, and keeping a run while it goes on.

Input: the option, steps of a run. Output: an open `Station`, lines for people. Knows nothing of databases.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from clipsam.errors import StoreError, UsageError

if TYPE_CHECKING:
    from clipsam.runs.sitting import Step
    from clipsam.store import Station

NONE = "none"


def open_station(store: str | None) -> Station | None:
    """The store that a run is written into, or None for "none".

    A store that was asked for by `--store` must open. The store that is simply there may fail: that is said,
    and the run goes on without.
    """
    from clipsam.store import Station
    from clipsam.store.connect import default_store

    where = default_store() if store is None else store
    if where == NONE:
        return None
    try:
        return Station.open(where)
    except StoreError as error:
        if store is not None:
            raise
        warn(f"{error}; this run is not stored (the same command stores it later; --store none is silent)")
        return None


def station_to_read(store: str | None) -> Station:
    """The store that a question is put to; `UsageError` where there is none yet."""
    from clipsam.store import Station
    from clipsam.store.connect import default_store

    where = default_store() if store is None else store
    if where == NONE:
        raise UsageError("the store is 'none'; give --store FILE or a PostgreSQL URL, or set CLIPSAM_STORE")
    if "://" not in where and not Path(where).expanduser().exists():
        raise UsageError(f"there is no store {where} yet; clipsam inspect makes it, or give --store")
    return Station.open(where)


class Keeping:
    """Writes the steps of a run into a station, if there is one; a context manager that closes both."""

    def __init__(self, station: Station | None, folder: Path, segmenter: Any) -> None:
        from clipsam.store import keeper_of_folder

        self._station = station
        self._keeper = None
        self._whole = True
        if station is not None:
            calibration = getattr(segmenter, "calibration", None)
            threshold = None if calibration is None else calibration.score_threshold
            self._keeper = keeper_of_folder(station, folder, warn, threshold=threshold)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._station is None or self._keeper is None:
            return
        self._whole = self._keeper.close()
        self._station.close()
        if not self._whole:
            missing = self._keeper.waiting + self._keeper.lost
            warn(f"{missing} parts are not in the store {self._station.name}; the same command adds them")

    def step(self, step: Step) -> None:
        """Take one photo that is done, or was done before."""
        if self._keeper is not None:
            self._keeper.keep(step.row)

    @property
    def words(self) -> str:
        """A line for the summary; empty without a store."""
        return f"\nstored in: {self._station.name}" if self._station and self._whole else ""

    def as_dict(self) -> dict[str, Any]:
        """For the summary as JSON: the store, and whether it has all parts of the run."""
        return {"store": None if self._station is None else self._station.name, "stored": self._whole}


def warn(sentence: str) -> None:
    """One line on stderr."""
    typer.echo(f"clipsam: {sentence}", err=True)
