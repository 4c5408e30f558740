"""Station: writes parts and verdicts into the store, and reads them back.

Input: results or rows of `results.jsonl`, verdicts, filters. Output: records. Each part is written in one
transaction, with its regions; the same photo of the same run is written once. Any thread may call. Knows
nothing of models, pages and terminals.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from clipsam.errors import UsageError
from clipsam.store import reading, writing
from clipsam.store.connect import default_store, in_words, open_engine, shown, store_url
from clipsam.store.history import History, history_of
from clipsam.store.records import CONFIRM, ERROR, REJECT, Part, Run, WhatIf
from clipsam.store.tables import parts, regions, runs, verdicts

if TYPE_CHECKING:
    from clipsam.result import Segmentation

Row = Mapping[str, Any]

PAGE = 1000  # parts that `each` reads at once


class Station:
    """An open store. A context manager; the methods may be called from any thread.

    Every method raises `StoreError` when the database refuses, and `UsageError` for what makes no sense.
    """

    def __init__(self, where: str | Path | None = None) -> None:
        url = store_url(default_store() if where is None else where)
        self.name = shown(url)  # the file, or the URL without its password
        self._engine = open_engine(url)

    @classmethod
    def open(cls, where: str | Path | None = None) -> Station:
        """Open the store at a path or PostgreSQL URL, and make it if there is none.

        By default `$CLIPSAM_STORE`, or `clipsam/station.sqlite` in the user's data folder.
        """
        return cls(where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # ---- writing

    def run(
        self,
        *,
        product: str,
        kind: str = "inspect",
        key: str | None = None,
        station: str | None = None,
        threshold: float | None = None,
        folder: str | Path | None = None,
        settings: Row | None = None,
    ) -> Run:
        """Register a run, or find the one with this `key` again.

        `station` is the machine's name by default ($CLIPSAM_STATION, or the host's). `threshold` is that of
        the calibration on the score, in [0, 1]. `settings` is what decides the results, as in run.json.
        """
        values = {
            "key": key or uuid.uuid4().hex,
            "kind": kind,
            "product": writing.as_text(product),
            "station": writing.as_text(station or station_name()),
            "threshold": threshold,
            "folder": None if folder is None else writing.as_text(str(Path(folder).absolute())),
            "started": datetime.now(UTC),
            "settings": dict(settings or {}),
        }
        with self._transaction(writes=True) as connection:
            connection.execute(self._insert(runs).values(values).on_conflict_do_nothing())
            return reading.run_of(
                connection.execute(select(runs).where(runs.c.key == values["key"])).mappings().one()
            )

    def add(
        self,
        run: Run,
        result: Segmentation | Row,
        *,
        path: str | Path | None = None,
        time: datetime | None = None,
        threshold: float | None = None,
    ) -> int:
        """Write one part with its regions, whole or not at all; gives its id.

        `result` is what `segment` returned, or a row of `results.jsonl` (one with `error` too). Path and
        SHA-256 together name a part within its run: one that is there already is not written again. Parts of
        a camera or of an upload need a `path` of their own. `time` (aware) is now by default, `threshold`
        that of the run. An earlier inspection of the same photo is `superseded` by this one.
        """
        row: Row = result if isinstance(result, Mapping) else result.to_dict()
        values = writing.part_values(run, row, path, time, threshold)
        with self._transaction(writes=True) as connection:
            return self._add(connection, values, row)

    def add_many(self, run: Run, rows: Sequence[Row]) -> list[int]:
        """Write parts as `add` does, all or none of them: quicker, since the disk is waited for once."""
        values = [writing.part_values(run, row) for row in rows]
        with self._transaction(writes=True) as connection:
            return [self._add(connection, *both) for both in zip(values, rows, strict=True)]

    def _add(self, connection: Connection, values: Row, row: Row) -> int:
        statement = self._insert(parts).values(values).on_conflict_do_nothing().returning(parts.c.id)
        part = connection.execute(statement).scalar_one_or_none()
        if part is None:
            known = select(parts.c.id).where(writing.same_part(values))
            return int(connection.execute(known).scalar_one())
        if found := [writing.region_values(part, region) for region in row.get("regions", ())]:
            connection.execute(insert(regions), found)
        writing.supersede(connection, part, values)
        return int(part)

    def verdict(
        self,
        part: int,
        *,
        reviewer: str,
        verdict: str,
        region: int | None = None,
        comment: str = "",
        time: datetime | None = None,
    ) -> int:
        """Write what a reviewer says; gives the verdict's id. The newest counts, all are kept.

        "confirm" agrees with the store and "reject" contradicts it: of a part, its decision (its flag while
        nothing is calibrated); of a `region`, that it is a defect.
        """
        if verdict not in (CONFIRM, REJECT):
            raise UsageError(f"a verdict is {verdict!r}; expected {CONFIRM!r} or {REJECT!r}")
        if not reviewer.strip():
            raise UsageError("a verdict has no reviewer; give the name or number of the person")
        values = {
            "part_id": part,
            "region_id": region,
            "reviewer": writing.as_text(reviewer.strip()),
            "time": time or datetime.now(UTC),
            "verdict": verdict,
            "comment": writing.as_text(comment),
        }
        with self._transaction(writes=True) as connection:
            found = connection.execute(select(parts).where(parts.c.id == part)).mappings().one_or_none()
            if found is None:
                raise UsageError(f"the store {self.name} has no part {part}")
            if found["decision"] == ERROR:
                raise UsageError(f"part {part} could not be inspected; there is nothing to confirm or reject")
            if region is not None:
                writing.check_region(connection, part, region)
            else:
                truth = bool(found["flagged"]) == (verdict == CONFIRM)
                connection.execute(update(parts).where(writing.same_photo(found)).values(truth=truth))
            done = connection.execute(insert(verdicts).values(values).returning(verdicts.c.id))
            return int(done.scalar_one())

    # ---- reading

    def part(self, part: int) -> Part:
        """One part with its regions and verdicts; `UsageError` when there is none."""
        with self._transaction() as connection:
            found = reading.read_parts(connection, reading.all_parts().where(parts.c.id == part), full=True)
        if not found:
            raise UsageError(f"the store {self.name} has no part {part}")
        return found[0]

    def parts(
        self,
        *,
        product: str | None = None,
        station: str | None = None,
        run: int | None = None,
        decision: str | None = None,
        flagged: bool | None = None,
        reviewed: bool | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        superseded: bool | None = False,
        before: int | None = None,
        limit: int | None = 50,
        full: bool = False,
    ) -> list[Part]:
        """Parts, the newest first. `full` adds regions and verdicts.

        `decision` is "OK", "NG", "error" or "none" (uncalibrated); `reviewed` asks for a verdict on the part;
        `since` is inclusive, `until` exclusive; `before` is the id of the last part of the page before;
        `superseded=None` gives older inspections of the same photos too.
        """
        query = reading.filtered(
            reading.all_parts(),
            product=product,
            station=station,
            run=run,
            decision=decision,
            flagged=flagged,
            reviewed=reviewed,
            since=since,
            until=until,
            superseded=superseded,
        )
        if before is not None:
            query = query.where(parts.c.id < before)
        with self._transaction() as connection:
            return reading.read_parts(connection, query.order_by(parts.c.id.desc()).limit(limit), full=full)

    def each(self, **filters: Any) -> Iterator[Part]:
        """All parts that the filters of `parts` keep, with regions and verdicts; read a page at a time."""
        before: int | None = None
        while page := self.parts(**filters, before=before, limit=PAGE, full=True):
            yield from page
            before = page[-1].id

    def known(self, run: Run) -> set[tuple[str, str | None]]:
        """Path and SHA-256 of the parts that the store has of a run."""
        query = select(parts.c.path, parts.c.sha256).where(parts.c.run_id == run.id)
        with self._transaction() as connection:
            return {(path, sha256 or None) for path, sha256 in connection.execute(query)}

    def products(self) -> list[str]:
        """Names of the products that have parts."""
        with self._transaction() as connection:
            return sorted(connection.execute(select(parts.c.product).distinct()).scalars())

    def scores(
        self,
        product: str | None = None,
        since: datetime | None = None,
        *,
        decision: str | None = None,
        limit: int | None = None,
    ) -> NDArray[np.float64]:
        """Scores [n] in [0, 1], in the order of inspection; of the newest `limit` parts, if given.

        `decision="OK"` gives those of passed parts, as a watch on drift wants them.
        """
        query = reading.filtered(
            select(parts.c.score).where(parts.c.score.is_not(None)),
            product=product,
            since=since,
            decision=decision,
            superseded=False,
        )
        query = query.order_by(parts.c.id.desc()).limit(limit)
        with self._transaction() as connection:
            return np.array(connection.execute(query).scalars().all()[::-1], dtype=np.float64)

    def what_if(
        self,
        threshold: float,
        product: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 50,
    ) -> WhatIf:
        """What another threshold on the score, in [0, 1], would have changed on the stored parts.

        At most `limit` ids of parts that would have turned are given, the newest first; the counts are whole.
        """
        if not 0 <= threshold <= 1:
            raise UsageError(f"the threshold is {threshold}; expected a number from 0 to 1")
        with self._transaction() as connection:
            return reading.what_if(connection, threshold, limit, product=product, since=since, until=until)

    def history(
        self,
        *,
        product: str | None = None,
        station: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> History:
        """Counts by product and hour, types of defects, and what reviewers say."""
        filters = {"product": product, "station": station, "since": since, "until": until}
        with self._transaction() as connection:
            return history_of(connection, filters)

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        with in_words(self.name):
            connection = self._engine.connect().execution_options(writes=writes)
            with connection, connection.begin():
                yield connection

    def _insert(self, table: Any) -> Any:
        """An INSERT that can leave out what is there: each dialect has its own, spelled alike."""
        return (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)


def station_name() -> str:
    """What this machine is called in the store: `$CLIPSAM_STATION`, or the name of the host."""
    return os.environ.get("CLIPSAM_STATION") or socket.gethostname()
