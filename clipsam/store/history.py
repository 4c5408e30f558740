"""The questions at the end of a shift: yield per product and hour, top defects, what reviewers say.

Input: an open station, a time span, a product. Output: `History`, plain counts. The newest inspection of a
photo counts. The database counts by quarter of an hour, since time zones differ by no less; hours are those
of this machine's clock. Knows nothing of terminals and files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, and_, distinct, extract, func, not_, select

from clipsam.store.reading import count_if, filtered
from clipsam.store.records import CONFIRM, ERROR, NG, OK, REJECT
from clipsam.store.tables import parts, regions, verdicts

QUARTER = 900  # seconds

Counted = TypeVar("Counted", bound="Counts")


@dataclass(frozen=True)
class Counts:
    """Parts of a product, in an hour or in all. `hour` is its beginning, local time."""

    product: str
    hour: datetime | None = None
    parts: int = 0
    ok: int = 0
    ng: int = 0
    uncalibrated: int = 0  # neither OK nor NG: there was no calibration
    suspicious: int = 0  # of the uncalibrated
    errors: int = 0  # could not be inspected
    reviewed: int = 0  # a reviewer has said whether they are defective
    false_alarms: int = 0  # NG or suspicious, and the reviewer says good
    misses: int = 0  # neither, and the reviewer says defective

    @property
    def yield_(self) -> float | None:
        """The share of OK among OK and NG; None where nothing was decided."""
        return self.ok / (self.ok + self.ng) if self.ok + self.ng else None

    def as_dict(self) -> dict[str, Any]:
        hour = None if self.hour is None else self.hour.isoformat()
        return asdict(self) | {"hour": hour, "yield": self.yield_}


@dataclass(frozen=True)
class DefectCount:
    """A type of defect on parts that are NG or suspicious."""

    product: str
    defect: str
    parts: int  # with at least one such region
    regions: int
    rejected: int  # of these regions, by their newest verdict


@dataclass(frozen=True)
class Reviewer:
    """What one reviewer said of parts; of each part the newest verdict counts."""

    reviewer: str
    product: str
    reviewed: int
    confirmed: int
    false_alarms: int  # NG or suspicious, and rejected
    misses: int  # neither, and rejected


@dataclass(frozen=True)
class History:
    """Everything `clipsam history` shows."""

    hours: tuple[Counts, ...]  # by time, then product
    products: tuple[Counts, ...]
    defects: tuple[DefectCount, ...]  # the most parts first
    reviewers: tuple[Reviewer, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "products": [counts.as_dict() for counts in self.products],
            "hours": [counts.as_dict() for counts in self.hours],
            "defects": [asdict(defect) for defect in self.defects],
            "reviewers": [asdict(reviewer) for reviewer in self.reviewers],
        }


def history_of(connection: Connection, filters: Mapping[str, Any]) -> History:
    """The history of the parts that `filters` keep: those of `Station.parts`."""
    hours = _hours(connection, filters)
    return History(
        hours=tuple(hours),
        products=tuple(_summed(hours)),
        defects=tuple(_defects(connection, filters)),
        reviewers=tuple(_reviewers(connection, filters)),
    )


def _hours(connection: Connection, filters: Mapping[str, Any]) -> list[Counts]:
    quarter = (extract("epoch", parts.c.time) // QUARTER).label("quarter")
    undecided, flagged = parts.c.decision.is_(None), parts.c.flagged
    good, bad = parts.c.truth.is_(False), parts.c.truth.is_(True)
    counted = {
        "parts": parts.c.id.is_not(None),
        "ok": parts.c.decision == OK,
        "ng": parts.c.decision == NG,
        "uncalibrated": undecided,
        "suspicious": and_(undecided, flagged),
        "errors": parts.c.decision == ERROR,
        "reviewed": parts.c.truth.is_not(None),
        "false_alarms": and_(good, flagged),
        "misses": and_(bad, not_(flagged)),
    }
    columns: list[Any] = [count_if(condition).label(name) for name, condition in counted.items()]
    query: Select[Any] = select(parts.c.product, quarter, *columns)
    query = filtered(query, **filters, superseded=False).group_by(parts.c.product, quarter)
    found: dict[tuple[datetime, str], list[Counts]] = defaultdict(list)
    for product, number, *counts in connection.execute(query):
        hour = _hour(int(number) * QUARTER)
        found[hour, product].append(Counts(product, hour, *counts))
    return [_sum(some, hour) for (hour, _), some in sorted(found.items())]


def _summed(hours: Iterable[Counts]) -> list[Counts]:
    by_product: dict[str, list[Counts]] = defaultdict(list)
    for counts in hours:
        by_product[counts.product].append(counts)
    return [_sum(some, None) for _, some in sorted(by_product.items())]


def _sum(some: list[Counts], hour: datetime | None) -> Counts:
    names = [field.name for field in fields(Counts) if field.name not in ("product", "hour")]
    total = {name: sum(getattr(counts, name) for counts in some) for name in names}
    return Counts(some[0].product, hour, **total)


def _hour(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).astimezone().replace(minute=0)


def _defects(connection: Connection, filters: Mapping[str, Any]) -> list[DefectCount]:
    newest = _newest(verdicts.c.region_id)
    rejected = verdicts.c.verdict == REJECT
    number = func.count(distinct(parts.c.id))
    query: Select[Any] = (
        select(
            parts.c.product, regions.c.defect, number, func.count(distinct(regions.c.id)), count_if(rejected)
        )
        .join_from(parts, regions, regions.c.part_id == parts.c.id)
        .outerjoin(newest, newest.c.region_id == regions.c.id)
        .outerjoin(verdicts, verdicts.c.id == newest.c.newest)
        .group_by(parts.c.product, regions.c.defect)
        .order_by(number.desc(), parts.c.product, regions.c.defect)
    )
    query = filtered(query, **filters, superseded=False, flagged=True)
    return [DefectCount(*row) for row in connection.execute(query)]


def _reviewers(connection: Connection, filters: Mapping[str, Any]) -> list[Reviewer]:
    newest = (
        select(func.max(verdicts.c.id).label("newest"))
        .where(verdicts.c.region_id.is_(None))
        .group_by(verdicts.c.part_id, verdicts.c.reviewer)
        .subquery()
    )
    rejects = verdicts.c.verdict == REJECT
    query: Select[Any] = (
        select(
            verdicts.c.reviewer,
            parts.c.product,
            func.count(),
            count_if(verdicts.c.verdict == CONFIRM),
            count_if(and_(rejects, parts.c.flagged)),
            count_if(and_(rejects, not_(parts.c.flagged))),
        )
        .join_from(verdicts, newest, newest.c.newest == verdicts.c.id)
        .join(parts, parts.c.id == verdicts.c.part_id)
        .group_by(verdicts.c.reviewer, parts.c.product)
        .order_by(verdicts.c.reviewer, parts.c.product)
    )
    return [Reviewer(*row) for row in connection.execute(filtered(query, **filters))]


def _newest(column: Any) -> Any:
    """The newest verdict of each region, as a table of region_id and newest."""
    query = select(column, func.max(verdicts.c.id).label("newest")).where(column.is_not(None))
    return query.group_by(column).subquery()
