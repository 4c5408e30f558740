"""Queries of the store and the records made of their rows.

Input: a connection, filters. Output: `Part`, `Run` and `WhatIf` records. Regions and verdicts of a page of
parts come in one query each. Knows nothing of writing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, not_, select

from clipsam.errors import UsageError
from clipsam.store.records import DECISIONS, Part, Run, StoredRegion, Verdict, WhatIf
from clipsam.store.tables import parts, regions, runs, verdicts

UNCALIBRATED = "none"  # the decision of a part while nothing is calibrated, as filters call it
_AT_ONCE = 500  # ids in one query: databases bound the parameters of a statement

Selected = TypeVar("Selected", bound=Select[Any])
Values = Mapping[Any, Any]


def all_parts() -> Select[Any]:
    """Parts with the folder of their run."""
    return select(parts, runs.c.folder).join(runs, runs.c.id == parts.c.run_id)


def filtered(
    query: Selected,
    *,
    product: str | None = None,
    station: str | None = None,
    run: int | None = None,
    decision: str | None = None,
    flagged: bool | None = None,
    reviewed: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    superseded: bool | None = None,
) -> Selected:
    """The query with what `Station.parts` filters by."""
    if decision is not None and decision not in (*DECISIONS, UNCALIBRATED):
        raise UsageError(f"the decision is {decision!r}; expected one of {', '.join(DECISIONS)}, none")
    for column, value in (
        (parts.c.product, product),
        (parts.c.station, station),
        (parts.c.run_id, run),
        (parts.c.flagged, flagged),
        (parts.c.superseded, superseded),
    ):
        if value is not None:
            query = query.where(column == value)
    if decision is not None:
        query = query.where(
            parts.c.decision.is_(None) if decision == UNCALIBRATED else parts.c.decision == decision
        )
    if reviewed is not None:
        query = query.where(parts.c.truth.is_not(None) if reviewed else parts.c.truth.is_(None))
    if since is not None:
        query = query.where(parts.c.time >= aware(since))
    if until is not None:
        query = query.where(parts.c.time < aware(until))
    return query


def read_parts(connection: Connection, query: Select[Any], *, full: bool) -> list[Part]:
    """The parts of a query, in its order; with regions and verdicts if `full`."""
    found = [part_of(row) for row in connection.execute(query).mappings()]
    if not full:
        return found
    said = verdicts_of(connection, [part.id for part in found])
    seen = _regions_of(connection, said, [part.id for part in found])
    return [replace(part, regions=tuple(seen[part.id]), verdicts=tuple(said[part.id])) for part in found]


def verdicts_of(connection: Connection, ids: Sequence[int]) -> dict[int, list[Verdict]]:
    """Verdicts by part, oldest first."""
    said: dict[int, list[Verdict]] = defaultdict(list)
    for some in _chunks(ids):
        query = select(verdicts).where(verdicts.c.part_id.in_(some)).order_by(verdicts.c.id)
        for row in connection.execute(query).mappings():
            said[row["part_id"]].append(_verdict_of(row))
    return said


def run_of(row: Values) -> Run:
    """The record of a row of `runs`."""
    return Run(
        id=row["id"],
        key=row["key"],
        kind=row["kind"],
        product=row["product"],
        station=row["station"],
        threshold=row["threshold"],
        folder=_folder(row),
        started=row["started"],
        settings=row["settings"],
    )


def part_of(row: Values) -> Part:
    """The record of a row of `all_parts`."""
    return Part(
        id=row["id"],
        run=row["run_id"],
        path=row["path"],
        sha256=row["sha256"] or None,
        product=row["product"],
        station=row["station"],
        time=row["time"],
        score=row["score"],
        threshold=row["threshold"],
        decision=row["decision"],
        flagged=row["flagged"],
        seconds=row["seconds"],
        error=row["error"],
        files=row["files"],
        folder=_folder(row),
        truth=row["truth"],
        superseded=row["superseded"],
        degraded=row["degraded"],
    )


def what_if(
    connection: Connection,
    threshold: float,
    limit: int,
    *,
    product: str | None,
    since: datetime | None,
    until: datetime | None,
) -> WhatIf:
    """See `Station.what_if`. All counts are made by the database, in one pass."""

    def among(query: Select[Any]) -> Select[Any]:
        scored = query.where(parts.c.score.is_not(None))
        return filtered(scored, product=product, since=since, until=until, superseded=False)

    before, after = parts.c.flagged, parts.c.score > threshold
    bad, good = parts.c.truth.is_(True), parts.c.truth.is_(False)
    turned_ok, turned_ng = and_(before, not_(after)), and_(not_(before), after)
    counted = {
        "ng_before": before,
        "ng_after": after,
        "turned_ok_count": turned_ok,
        "turned_ng_count": turned_ng,
        "reviewed": parts.c.truth.is_not(None),
        "false_alarms_before": and_(good, before),
        "false_alarms_after": and_(good, after),
        "misses_before": and_(bad, not_(before)),
        "misses_after": and_(bad, not_(after)),
    }
    columns = [count_if(condition).label(name) for name, condition in counted.items()]
    totals: list[Any] = [func.count().label("parts"), *columns]
    counts = connection.execute(among(select(*totals))).mappings().one()

    def ids(condition: ColumnElement[bool]) -> tuple[int, ...]:
        query = among(select(parts.c.id).where(condition)).order_by(parts.c.id.desc()).limit(limit)
        return tuple(connection.execute(query).scalars())

    return WhatIf(threshold=threshold, turned_ok=ids(turned_ok), turned_ng=ids(turned_ng), **counts)


def count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    """How many rows meet a condition, as a column of a query."""
    return func.count(case((condition, 1)))


def aware(time: datetime) -> datetime:
    """A time without a zone is meant in this machine's."""
    return time.astimezone() if time.tzinfo is None else time


def _regions_of(
    connection: Connection, said: Mapping[int, Sequence[Verdict]], ids: Sequence[int]
) -> dict[int, list[StoredRegion]]:
    newest = {v.region: v.verdict for spoken in said.values() for v in spoken if v.region is not None}
    found: dict[int, list[StoredRegion]] = defaultdict(list)
    for some in _chunks(ids):
        query = select(regions).where(regions.c.part_id.in_(some)).order_by(regions.c.id)
        for row in connection.execute(query).mappings():
            found[row["part_id"]].append(_region_of(row, newest.get(row["id"])))
    return found


def _region_of(row: Values, verdict: str | None) -> StoredRegion:
    box = (row["x0"], row["y0"], row["x1"], row["y1"])
    return StoredRegion(row["id"], box, row["area_px"], row["score"], row["defect"], row["rle"], verdict)


def _verdict_of(row: Values) -> Verdict:
    names = ("id", "part_id", "region_id", "reviewer", "time", "verdict", "comment")
    return Verdict(*(row[name] for name in names))


def _folder(row: Values) -> Path | None:
    return None if row["folder"] is None else Path(row["folder"])


def _chunks(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)]
