"""Where the store is, and an engine for it: SQLite in WAL mode, or PostgreSQL by URL.

Input: a path, a URL, or nothing. Output: an SQLAlchemy engine whose database has the tables of this version.
Knows nothing of parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from clipsam.errors import MissingExtra, StoreError, UsageError
from clipsam.store.tables import bring_up_to_date, is_current

BUSY_SECONDS = 30  # how long a writer waits for another one
_MIGRATING = 0x636C6970  # the key of PostgreSQL's advisory lock: two stations may start at once


def default_store() -> str:
    """The store of this machine: `$CLIPSAM_STORE` (a path, a URL or "none"), or a file in the data folder."""
    if given := os.environ.get("CLIPSAM_STORE"):
        return given
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return str(Path(data).expanduser() / "clipsam" / "station.sqlite")


def store_url(where: str | Path) -> URL:
    """The URL of a path, or a URL with the driver that is used; `UsageError` for other databases."""
    if "://" not in str(where):
        return URL.create("sqlite+pysqlite", database=str(Path(where).expanduser().absolute()))
    try:
        url = make_url(str(where))
    except ArgumentError as error:
        raise UsageError(
            f"the store {where!r} is no URL; expected postgresql://user@host/database"
        ) from error
    kind = url.get_backend_name()
    if kind == "sqlite" and url.database:
        return url.set(drivername="sqlite+pysqlite")
    if kind in ("postgresql", "postgres"):
        if find_spec("psycopg") is None:
            raise MissingExtra("a store in PostgreSQL", "store")
        return url.set(drivername="postgresql+psycopg")
    raise UsageError(f"the store {kind}://... is not known; expected a file, sqlite:/// or postgresql://")


def open_engine(url: URL) -> Engine:
    """An engine for the store, its tables made or brought up to date. Raises `StoreError`."""
    name = shown(url)
    engine = _sqlite(url) if url.get_backend_name() == "sqlite" else _postgresql(url)
    with in_words(name):
        with engine.connect() as connection:
            if is_current(connection):
                return engine
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
            bring_up_to_date(connection, name)
    return engine


def shown(url: URL) -> str:
    """The store as messages name it: the file, or the URL without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


@contextmanager
def in_words(name: str) -> Iterator[None]:
    """Turn what the database raises into a `StoreError` of one line."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        raise StoreError(f"the store {name} refused: {reason[0]}") from error


def _sqlite(url: URL) -> Engine:
    """WAL: readers and one writer at a time do not wait for each other, and a kill leaves whole transactions.

    `synchronous=FULL`, since a plant PC is switched off at the wall: a committed part survives that too.
    """
    try:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the store {url.database} refused: its folder cannot be made: {error.strerror}"
        ) from error
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, json_serializer=_json)

    @event.listens_for(engine, "connect")
    def configure(connection, record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None  # the driver begins no transactions of its own: `begin` does
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that began as a reader could be refused half-way, whatever the time-out.
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    query = {"connect_timeout": "10", "application_name": "clipsam"} | dict(url.query)
    # A plant's database restarts at times: a connection is tried before it is used.
    return create_engine(url.set(query=query), pool_pre_ping=True, json_serializer=_json)


def _json(value: Any) -> str:
    return json.dumps(value, default=str)  # settings may hold paths
