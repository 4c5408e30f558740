"""The tables of the store, for SQLite and PostgreSQL alike, and the steps from older versions of them.

Input: a connection. Output: the tables at `VERSION`. A new database gets them as they stand here; an older
one is taken through `MIGRATIONS`, all in the caller's transaction. Knows nothing of photos.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    insert,
    inspect,
    select,
    text,
    update,
)

from clipsam.errors import StoreError

VERSION = 3


class UtcTime(TypeDecorator[datetime]):
    """Aware times, kept in UTC: `timestamptz` in PostgreSQL, ISO text in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up by itself in INTEGER columns only

schema = Table("clipsam_schema", metadata, Column("version", Integer, nullable=False))

runs = Table(
    "runs",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("product", Text, nullable=False),
    Column("station", Text, nullable=False),
    Column("threshold", Double),
    Column("folder", Text),
    Column("started", UtcTime, nullable=False),
    Column("settings", JSON, nullable=False),
)

FAILED = text("decision = 'error'")

parts = Table(
    "parts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("run_id", _Id, ForeignKey("runs.id"), nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),  # empty when the photo could not be read
    Column("product", Text, nullable=False),
    Column("station", Text, nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("score", Double),
    Column("threshold", Double),
    Column("decision", String(8)),  # OK, NG, error, or null while nothing is calibrated
    Column("flagged", Boolean, nullable=False),
    Column("seconds", Double),
    Column("error", JSON(none_as_null=True)),
    Column("files", JSON, nullable=False),
    Column("truth", Boolean),  # defective, after the newest verdict on the photo
    Column("superseded", Boolean, nullable=False, default=False),
    Column("degraded", Boolean, nullable=False, server_default=false()),  # since version 2
    UniqueConstraint("run_id", "path", "sha256", name="parts_once"),
    Index("parts_by_time", "time"),
    Index("parts_by_product", "product", "time"),
    # Whatever many parts have in common (bytes, a name, both), finding those of one photo reads no others.
    Index("parts_of_photo", "sha256", "path", "superseded", "truth"),  # since version 3, as the next
    Index("parts_failed", "run_id", "path", sqlite_where=FAILED, postgresql_where=FAILED),
)

regions = Table(
    "regions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("part_id", _Id, ForeignKey("parts.id", ondelete="CASCADE"), nullable=False),
    Column("x0", Integer, nullable=False),
    Column("y0", Integer, nullable=False),
    Column("x1", Integer, nullable=False),
    Column("y1", Integer, nullable=False),
    Column("area_px", BigInteger, nullable=False),
    Column("score", Double, nullable=False),
    Column("defect", Text, nullable=False),
    Column("rle", JSON, nullable=False),
    Index("regions_of_part", "part_id"),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("part_id", _Id, ForeignKey("parts.id", ondelete="CASCADE"), nullable=False),
    Column("region_id", _Id, ForeignKey("regions.id", ondelete="CASCADE")),
    Column("reviewer", Text, nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("verdict", String(8), nullable=False),
    Column("comment", Text, nullable=False),
    Index("verdicts_of_part", "part_id"),
)


def _remember_degraded(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE parts ADD COLUMN degraded BOOLEAN DEFAULT false NOT NULL"))


def _find_photos_sooner(connection: Connection) -> None:
    connection.execute(text("DROP INDEX parts_by_photo"))
    connection.execute(text("CREATE INDEX parts_of_photo ON parts (sha256, path, superseded, truth)"))
    connection.execute(text("CREATE INDEX parts_failed ON parts (run_id, path) WHERE decision = 'error'"))


# The step from version n to n + 1: what `metadata` would have made anew.
MIGRATIONS: dict[int, Callable[[Connection], Any]] = {1: _remember_degraded, 2: _find_photos_sooner}


def bring_up_to_date(connection: Connection, name: str) -> None:
    """Make the tables, or take them from an older version to this one, within the caller's transaction.

    Raises `StoreError` when they are of a newer version, or when the database holds something else.
    """
    found = _version(connection, name)
    if found is None:
        metadata.create_all(connection)
        connection.execute(insert(schema).values(version=VERSION))
        return
    if found > VERSION:
        raise StoreError(
            f"{name}: written by a newer clipsam (schema {found}; this one knows up to {VERSION}); "
            "update clipsam or choose another --store"
        )
    for version in range(found, VERSION):
        MIGRATIONS[version](connection)
    if found < VERSION:
        connection.execute(update(schema).values(version=VERSION))


def is_current(connection: Connection) -> bool:
    """Whether the tables are there at this very version: a look that locks nothing."""
    return inspect(connection).has_table(schema.name) and _stamped(connection) == VERSION


def _version(connection: Connection, name: str) -> int | None:
    """The version that is there, or None where the database is empty of us."""
    present = inspect(connection)
    if present.has_table(schema.name):
        return _stamped(connection)
    if taken := [table for table in metadata.tables if present.has_table(table)]:
        raise StoreError(
            f"{name}: holds a table {taken[0]!r} of something else; give clipsam a database of its own"
        )
    return None


def _stamped(connection: Connection) -> int:
    return int(connection.execute(select(schema.c.version)).scalar_one())
