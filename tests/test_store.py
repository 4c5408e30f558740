"""The station's store, on SQLite and on a real PostgreSQL: parts, verdicts, moved thresholds, kills."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import store_writer
from fake_segmenter import segmentation_of
from postgres_server import PostgresServer
from sqlalchemy import event, insert, inspect, text

from clipsam.errors import MissingExtra, StoreError, UsageError
from clipsam.result import Region, Segmentation
from clipsam.store import Keeper, Station, connect, tables
from clipsam.store.writing import part_values

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def station(store_url: str) -> Station:
    with Station.open(store_url) as station:
        yield station


def row(score: float, *, name: str = "a.png", defective: bool | None = None, regions: int = 0) -> dict:
    found = [
        {
            "box_xyxy": [k, 0, k + 1, 4],
            "area_px": 4,
            "score": score,
            "defect": ("dent", "stain")[k % 2],
            "rle": {"size": [4, 9], "counts": "04P1"},
        }
        for k in range(regions)
    ]
    return {"path": name, "sha256": f"of {name}", "score": score, "is_defective": defective, "regions": found}


def failed(name: str, kind: str = "truncated", sha256: str | None = None) -> dict:
    return {"path": name, "sha256": sha256, "error": {"kind": kind, "message": f"{name}: {kind}"}}


def segmentation(**fields: object) -> Segmentation:
    anomaly_map = np.zeros((40, 60), np.float32)
    anomaly_map[3:9, 4:20] = 0.75
    anomaly_map[30:35, 20:30] = 0.625
    anomaly_map[30, 20] = 0
    return segmentation_of(anomaly_map, path=Path("/photos/a.png"), sha256="f" * 64, **fields)


# ---- parts


def test_a_segmentation_comes_back_whole(station: Station) -> None:
    result = segmentation(is_defective=True)
    settings = {"weights": {"clip": "0" * 64}, "prompts": Path("/prompts.toml")}
    run = station.run(product="plate", threshold=0.5, station="line 1", folder="/runs/1", settings=settings)
    assert run.settings == settings | {"prompts": "/prompts.toml"}
    part = station.part(station.add(run, result, time=NOON))
    assert (part.path, part.sha256, part.product, part.station) == (
        "/photos/a.png",
        "f" * 64,
        "plate",
        "line 1",
    )
    assert (part.decision, part.flagged, part.threshold, part.error) == ("NG", True, 0.5, None)
    assert (part.score, part.seconds, part.time) == (result.score, 0.03, NOON)
    assert part.folder == Path("/runs/1")
    again = [Region.from_dict(region.as_row()) for region in part.regions]
    assert [region.defect for region in again] == ["scratch", "stain"]
    for stored, given in zip(again, result.regions, strict=True):
        assert stored.score == given.score
        assert (stored.mask == given.mask).all()


def test_a_row_comes_back_as_it_was(station: Station) -> None:
    run = station.run(product="plate")
    given = row(0.7, regions=3) | {"seconds": 0.25, "files": {"overlay": "overlays/a\udcff.jpg"}}
    given |= {"degraded": True}
    stored = station.part(station.add(run, given)).as_row()
    assert {key: stored[key] for key in given} == given


def test_decisions(station: Station) -> None:
    run = station.run(product="plate")
    rows = [row(0.9, name="a", defective=True), row(0.1, name="b", defective=False), row(0.5, name="c")]
    rows += [row(0.6, name="d", regions=1), failed("e")]
    for given in rows:
        station.add(run, given)
    found = {part.path: (part.decision, part.flagged) for part in station.parts()}
    assert found == {
        "a": ("NG", True),
        "b": ("OK", False),
        "c": (None, False),
        "d": (None, True),
        "e": ("error", False),
    }
    broken = station.parts(decision="error")[0]
    assert broken.error == {"kind": "truncated", "message": "e: truncated"}
    assert (broken.score, broken.sha256) == (None, None)


def test_filters_and_pages(station: Station) -> None:
    plates, bolts = station.run(product="plate"), station.run(product="bolt", station="line 2")
    for hour in range(6):
        run = (plates, bolts)[hour % 2]
        given = row(0.1 * hour, name=str(hour), defective=hour > 3)
        station.add(run, given, time=NOON + timedelta(hours=hour))

    def names(**filters: object) -> str:
        return "".join(part.path for part in station.parts(**filters))

    assert names() == "543210"
    assert names(product="plate") == "420"
    assert names(station="line 2") == "531"
    assert names(decision="NG") == "54"
    assert names(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=3)) == "21"
    assert names(run=bolts.id, limit=2) == "53"
    assert names(limit=2, before=station.parts(limit=2)[-1].id) == "32"
    assert station.products() == ["bolt", "plate"]
    assert np.allclose(station.scores("plate"), [0, 0.2, 0.4])
    assert np.allclose(station.scores(since=NOON + timedelta(hours=4)), [0.4, 0.5])
    assert np.allclose(station.scores(decision="OK", limit=2), [0.2, 0.3])
    with pytest.raises(UsageError, match="'bad'; expected one of OK, NG, error, none"):
        station.parts(decision="bad")


def test_a_part_is_written_once(station: Station) -> None:
    run = station.run(product="plate", key="k")
    first = station.add(run, row(0.7, regions=2))
    assert station.add(station.run(product="plate", key="k"), row(0.7, regions=2)) == first
    assert len(station.part(first).regions) == 2
    assert station.known(run) == {("a.png", "of a.png")}
    changed = row(0.2) | {"sha256": "other bytes"}
    assert station.add(run, changed) != first
    assert len(station.parts()) == 2


def test_a_new_inspection_supersedes_the_old_one_and_keeps_what_is_known(station: Station) -> None:
    old = station.add(station.run(product="plate"), row(0.7, defective=True))
    station.verdict(old, reviewer="Anna", verdict="reject")
    new = station.add(station.run(product="plate"), row(0.3, defective=False))
    assert [part.id for part in station.parts()] == [new]
    assert [part.id for part in station.parts(superseded=None)] == [new, old]
    assert station.part(new).truth is False


def test_a_failure_that_is_mended_counts_no_more(station: Station) -> None:
    run = station.run(product="plate")
    station.add(run, failed("a.png", "failed"))
    new = station.add(run, row(0.3))
    assert [part.id for part in station.parts()] == [new]


def test_frames_without_bytes_are_apart(station: Station) -> None:
    frame = row(0.3) | {"path": None, "sha256": None}
    with pytest.raises(UsageError, match="neither a path nor a SHA-256"):
        station.add(station.run(product="plate"), frame)
    one = station.add(station.run(product="plate"), frame, path="frame-1")
    other = station.add(station.run(product="plate"), frame, path="frame-1")
    station.verdict(one, reviewer="Anna", verdict="reject")
    assert station.part(one).truth is True  # it was not flagged, and the reviewer says it is defective
    assert station.part(other).truth is None
    assert not station.part(one).superseded


def test_names_that_are_no_text(station: Station) -> None:
    part = station.add(station.run(product="plate"), row(0.3, name="b\udcff.png") | {"sha256": "0"})
    assert station.part(part).path == "b\\udcff.png"
    station.verdict(part, reviewer="Zoë 李", verdict="confirm", comment="a\x00b\n")
    assert station.part(part).verdicts[0].comment == "ab\n"


# ---- verdicts


def test_verdicts(station: Station) -> None:
    part = station.add(station.run(product="plate"), row(0.7, defective=True, regions=2))
    region = station.part(part).regions[1].id
    station.verdict(part, reviewer="Anna", verdict="reject", region=region, time=NOON)
    assert station.part(part).truth is None  # a region is not the part
    station.verdict(part, reviewer=" Ben ", verdict="reject", comment="dust")
    station.verdict(part, reviewer="Anna", verdict="confirm")
    found = station.part(part)
    assert [(v.reviewer, v.verdict, v.region, v.comment) for v in found.verdicts] == [
        ("Anna", "reject", region, ""),
        ("Ben", "reject", None, "dust"),
        ("Anna", "confirm", None, ""),
    ]
    assert found.verdicts[0].time == NOON
    assert found.truth is True
    assert [r.verdict for r in found.regions] == [None, "reject"]
    assert [p.id for p in station.parts(reviewed=True)] == [part]
    assert station.parts(reviewed=False) == []


@pytest.mark.parametrize(
    ("defective", "regions", "verdict", "truth"),
    [
        (True, 1, "confirm", True),
        (True, 1, "reject", False),
        (False, 0, "confirm", False),
        (False, 0, "reject", True),
        (None, 1, "reject", False),
        (None, 0, "confirm", False),
    ],
)
def test_what_a_verdict_says_of_the_part(tmp_path, defective, regions, verdict, truth) -> None:
    with Station.open(tmp_path / "s.sqlite") as station:
        part = station.add(station.run(product="plate"), row(0.5, defective=defective, regions=regions))
        station.verdict(part, reviewer="Anna", verdict=verdict)
        assert station.part(part).truth is truth


def test_verdicts_that_make_no_sense(station: Station) -> None:
    run = station.run(product="plate")
    part, other = station.add(run, row(0.7, regions=1)), station.add(run, row(0.7, name="b", regions=1))
    region = station.part(other).regions[0].id
    for words, said in [
        ({"part": part, "verdict": "maybe"}, "'maybe'; expected 'confirm' or 'reject'"),
        ({"part": 99, "verdict": "confirm"}, "has no part 99"),
        ({"part": part, "verdict": "confirm", "region": region}, f"part {part} has no region {region}"),
        ({"part": part, "verdict": "confirm", "reviewer": " "}, "no reviewer"),
        ({"part": station.add(run, failed("c")), "verdict": "confirm"}, "could not be inspected"),
    ]:
        with pytest.raises(UsageError, match=said):
            station.verdict(**{"reviewer": "Anna"} | words)
    assert station.part(part).verdicts == ()


# ---- thresholds


def test_what_if_equals_a_direct_computation(station: Station) -> None:
    run, other = station.run(product="plate", threshold=0.5), station.run(product="bolt", threshold=0.5)
    generator = np.random.default_rng(3)
    scores, bad = generator.integers(0, 20, 80) / 20, generator.random(80) < 0.4
    known = generator.random(80) < 0.5
    ids = []
    for k in range(80):
        ids.append(station.add(run, row(scores[k], name=str(k), defective=bool(scores[k] > 0.5))))
        if known[k]:
            agrees = bad[k] == (scores[k] > 0.5)
            station.verdict(ids[-1], reviewer="Anna", verdict="confirm" if agrees else "reject")
    station.add(other, row(0.9, name="of another product", defective=True))
    station.add(run, failed("broken"))
    before = scores > 0.5
    for threshold in (0.0, 0.3, 0.5, 0.8, 1.0):
        after = scores > threshold
        found = station.what_if(threshold, "plate")
        assert found.as_dict() == {
            "threshold": threshold,
            "parts": 80,
            "ng_before": before.sum(),
            "ng_after": after.sum(),
            "turned_ok": tuple(np.array(ids)[before & ~after][::-1][:50]),
            "turned_ng": tuple(np.array(ids)[~before & after][::-1][:50]),
            "turned_ok_count": (before & ~after).sum(),
            "turned_ng_count": (~before & after).sum(),
            "reviewed": known.sum(),
            "false_alarms_before": (known & ~bad & before).sum(),
            "false_alarms_after": (known & ~bad & after).sum(),
            "misses_before": (known & bad & ~before).sum(),
            "misses_after": (known & bad & ~after).sum(),
        }
    assert len(station.what_if(0.9, "plate", limit=2).turned_ok) == 2
    with pytest.raises(UsageError, match="from 0 to 1"):
        station.what_if(1.5)


# ---- kills, threads, failures


def test_a_kill_loses_no_committed_part_and_leaves_no_half_one(store_url: str) -> None:
    Station.open(store_url).close()
    committed: list[int] = []
    for attempt in range(3):
        command = [sys.executable, store_writer.__file__, store_url, f"run-{attempt}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(10 + 7 * attempt)]
            process.kill()
            seen += process.stdout.readlines()
        committed += [int(line) for line in seen if line.endswith("\n")]
    with Station.open(store_url) as station:
        stored = station.parts(limit=None, full=True)
        assert set(committed) <= {part.id for part in stored}
        assert len(stored) <= len(committed) + 3  # one may be committed and not yet said, per kill
        for part in stored:
            assert [region.area_px for region in part.regions] == list(range(store_writer.REGIONS))
        again = station.run(product="plate", key="run-2")
        station.add(again, store_writer.row("run-2-0"))
        assert len(station.parts(limit=None)) == len(stored)


def test_many_threads_write_and_read(station: Station) -> None:
    run = station.run(product="plate")
    errors: list[Exception] = []

    def work(worker: int) -> None:
        try:
            for k in range(10):
                part = station.add(run, row(0.5, name=f"{worker}-{k}", regions=2))
                station.add(run, row(0.5, name=f"shared-{k}"))
                station.verdict(part, reviewer=str(worker), verdict="confirm")
                station.parts(limit=3, full=True)
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert len(station.parts(limit=None)) == 70


def test_two_stations_start_at_once(store_url: str) -> None:
    code = (
        "import sys; from clipsam.store import Station; Station.open(sys.argv[1]).run(product='p', key='k')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, store_url]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_database_that_restarts(postgres: PostgresServer) -> None:
    said: list[str] = []
    with Station.open(postgres.store()) as station:
        run = station.run(product="plate")
        keeper = Keeper(station, run, said.append)
        keeper.keep(row(0.1, name="a"))
        eventually(lambda: keeper.waiting == 0)
        postgres.stop()
        try:
            keeper.keep(row(0.2, name="b"))
            keeper.keep(row(0.3, name="c"))
            eventually(lambda: said)
            assert keeper.waiting == 2
        finally:
            postgres.start()
        assert keeper.close()
        assert [part.path for part in station.parts()] == ["c", "b", "a"]
    assert len(said) == 2
    assert "refused" in said[0]
    assert "the run goes on" in said[0]
    assert "is back" in said[1]


def test_a_keeper_gives_up_the_oldest_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("clipsam.store.keeper.WAITING", 3)
    monkeypatch.setattr("clipsam.store.keeper.RETRY_SECONDS", 0.01)
    said: list[str] = []
    with Station.open(tmp_path / "s.sqlite") as station:
        keeper = Keeper(station, lambda: station.run(product="plate"), said.append)
        rename(tmp_path / "s.sqlite", "runs", "gone")
        keeper.keep(row(0.5, name="0"))
        eventually(lambda: said)
        monkeypatch.setattr("clipsam.store.keeper.RETRY_SECONDS", 60)
        time.sleep(0.1)
        for k in range(1, 6):
            keeper.keep(row(0.5, name=str(k)))
        eventually(
            lambda: (keeper.waiting, keeper.lost) == (4, 2)
        )  # one was tried, and waits to be tried again
        rename(tmp_path / "s.sqlite", "gone", "runs")
        assert not keeper.close()  # two are lost
        assert [part.path for part in station.parts()] == ["5", "4", "3", "0"]
    assert len(said) == 2


def test_a_store_that_works_but_lags_is_waited_for(station: Station, monkeypatch) -> None:
    monkeypatch.setattr("clipsam.store.keeper.WAITING", 3)
    monkeypatch.setattr("clipsam.store.keeper.AT_ONCE", 2)
    add_many = station.add_many

    def slowly(*given):
        time.sleep(0.01)
        return add_many(*given)

    monkeypatch.setattr(station, "add_many", slowly)
    keeper = Keeper(station, station.run(product="plate"), pytest.fail)
    for k in range(20):
        keeper.keep(row(0.5, name=str(k)))
        assert keeper.waiting <= 3 + 2
    assert keeper.close()
    assert keeper.lost == 0
    assert len(station.parts()) == 20


def test_a_keeper_adds_what_the_store_lacks_of_a_run(station: Station) -> None:
    run = station.run(product="plate")
    rows = [row(0.1 * k, name=str(k)) for k in range(5)]
    station.add(run, rows[1])
    keeper = Keeper(station, run, pytest.fail, earlier=rows[:4])
    keeper.keep(rows[4])
    keeper.keep(rows[0])
    assert keeper.close()
    assert sorted(part.path for part in station.parts(superseded=None)) == ["0", "1", "2", "3", "4"]


def test_a_row_that_cannot_be_stored_holds_up_no_other(station: Station) -> None:
    said: list[str] = []
    rows = [row(0.5, name=str(k), regions=1) for k in range(6)]
    rows[2]["regions"][0]["rle"] = {object(): 1}
    del rows[4]["score"]
    keeper = Keeper(station, station.run(product="plate"), said.append, earlier=rows)
    assert not keeper.close()
    assert [part.path for part in station.parts(full=True) if part.regions] == ["5", "3", "1", "0"]
    assert keeper.lost == 2
    assert len(said) == 1
    assert said[0].startswith("2 cannot be stored")


def test_many_parts_at_once_are_written_all_or_none(station: Station) -> None:
    run = station.run(product="plate")
    rows = [row(0.5, name=str(k), regions=2) for k in range(4)]
    station.add(run, rows[2])
    ids = station.add_many(run, rows)
    assert [station.part(part).path for part in ids] == ["0", "1", "2", "3"]
    fresh = [row(0.5, name="x"), row(0.5, name="y") | {"score": "no number"}]
    with pytest.raises(ValueError, match="no number"):
        station.add_many(run, fresh)
    assert len(station.parts()) == 4


def rename(database: Path, table: str, name: str) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO {name}")


def eventually(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("alike", ["bytes", "name", "both"])
def test_many_parts_alike_make_no_photo_slower(station: Station, alike: str) -> None:
    run, count = station.run(product="plate"), 400
    seeded = [station.run(product="plate").id for _ in range(count)] if alike == "both" else [run.id] * count
    with station._transaction(writes=True) as connection:
        for k, own in enumerate(seeded):
            for values in (photo(f"{k}.png", str(k)), of_many(alike, k)):
                values = part_values(run, values) | {"run_id": own, "superseded": alike == "both"}
                connection.execute(insert(tables.parts).values(values))
        if connection.dialect.name == "postgresql":  # as it does by itself after a while; SQLite never does
            connection.execute(text("ANALYZE"))
    # To this run, after one more of many alike, as the newest of them is not superseded.
    parts = [station.add(run, of_many(alike, count)), station.add(run, photo("alone.png", "alone"))]
    new = station.run(product="plate") if alike == "both" else run
    among, alone = (
        work(station, lambda given=given: station.add(new, given))
        for given in (of_many(alike, count + 1), photo("another.png", "other"))
    )
    assert among < alone + allowed(station)
    assert station.part(parts[0]).superseded == (alike == "both")
    if alike != "both":  # a verdict is one on every inspection of the photo
        among, alone = (
            work(station, lambda part=part: station.verdict(part, reviewer="Anna", verdict="confirm"))
            for part in parts
        )
        assert among < alone + allowed(station)


def photo(name: str, sha256: str) -> dict:
    return row(0.5, name=name) | {"sha256": sha256}


def of_many(alike: str, k: int) -> dict:
    """The k-th of photos with the same bytes, with the same name, or with both, each in a run of its own."""
    return photo("same.png" if alike != "bytes" else f"copy-{k}.png", "s" if alike != "name" else f"new-{k}")


def allowed(station: Station) -> int:
    return 5 if station._engine.dialect.name == "postgresql" else 200


def work(station: Station, do: Callable[[], object]) -> int:
    """What a call takes: steps of SQLite's machine, some ten for a row that is read, or rows that PostgreSQL
    reads for its queries when they are run again.
    """
    if station._engine.dialect.name == "postgresql":
        return rows_read(station, do)
    steps = []
    with station._engine.connect() as connection:
        driver = connection.connection.driver_connection
    driver.set_progress_handler(lambda: steps.append(1), 1)
    do()
    driver.set_progress_handler(None, 1)
    assert steps
    return len(steps)


def rows_read(station: Station, do: Callable[[], object]) -> int:
    queries = []

    def note(connection, cursor, statement, parameters, context, many) -> None:
        if statement.startswith(("SELECT parts", "UPDATE parts")):
            queries.append((statement, parameters))

    event.listen(station._engine, "before_cursor_execute", note)
    do()
    event.remove(station._engine, "before_cursor_execute", note)
    assert len(queries) > 1
    plans = []
    with station._engine.connect() as connection:
        for statement, parameters in queries:
            explained = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters
            ).scalar_one()
            plans.append(explained[0]["Plan"])
        connection.rollback()
    return sum(map(rows_of_plan, plans))


def rows_of_plan(plan: dict) -> int:
    dropped = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return plan["Actual Rows"] + dropped + sum(map(rows_of_plan, plan.get("Plans", ())))


# ---- places and versions


def test_where_the_store_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLIPSAM_STORE", str(tmp_path / "elsewhere" / "s.sqlite"))
    with Station.open() as station:
        assert station.name == str(tmp_path / "elsewhere" / "s.sqlite")
    monkeypatch.delenv("CLIPSAM_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert connect.default_store() == str(tmp_path / "data" / "clipsam" / "station.sqlite")


def test_wal_and_durability(tmp_path) -> None:
    with Station.open(tmp_path / "s.sqlite") as station, station._transaction() as connection:
        asked = ("journal_mode", "synchronous", "foreign_keys")
        assert [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in asked] == ["wal", 2, 1]


def test_stores_that_are_none(tmp_path, monkeypatch) -> None:
    for where, said in [("mysql://host/db", "mysql"), ("nonsense://", "nonsense")]:
        with pytest.raises(UsageError, match=said):
            Station.open(where)
    (tmp_path / "text.sqlite").write_text("this is no database at all " * 50)
    with pytest.raises(StoreError, match=r"text.sqlite refused: file is not a database"):
        Station.open(tmp_path / "text.sqlite")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="its folder cannot be made"):
        Station.open(tmp_path / "file" / "s.sqlite")
    with pytest.raises(StoreError, match=r"postgresql://someone:\*\*\*@/db\?host=%2Fnowhere.* refused"):
        Station.open("postgresql://someone:secret@/db?host=/nowhere")
    monkeypatch.setattr("clipsam.store.connect.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'clipsam\[store\]'"):
        Station.open("postgresql://host/db")


def test_a_database_of_something_else(tmp_path) -> None:
    with sqlite3.connect(tmp_path / "s.sqlite") as connection:
        connection.execute("CREATE TABLE parts (number TEXT)")
    with pytest.raises(StoreError, match="holds a table 'parts' of something else"):
        Station.open(tmp_path / "s.sqlite")


def test_a_newer_store_is_left_alone(store_url: str) -> None:
    with Station.open(store_url) as station, station._transaction(writes=True) as connection:
        connection.execute(text(f"UPDATE clipsam_schema SET version = {tables.VERSION + 1}"))
    with pytest.raises(StoreError, match="written by a newer clipsam"):
        Station.open(store_url)


def test_an_older_store_is_migrated_or_left_whole(store_url: str, monkeypatch) -> None:
    with Station.open(store_url) as station:
        station.add(station.run(product="plate"), row(0.5))
    version = tables.VERSION
    monkeypatch.setattr(tables, "VERSION", version + 2)
    monkeypatch.setitem(
        tables.MIGRATIONS, version, lambda c: c.execute(text("ALTER TABLE parts ADD COLUMN lot TEXT"))
    )
    monkeypatch.setitem(tables.MIGRATIONS, version + 1, lambda c: c.execute(text("nonsense")))
    with pytest.raises(StoreError, match="refused"):
        Station.open(store_url)
    assert "lot" not in columns(store_url)  # nothing of a migration that fails stays
    monkeypatch.setitem(
        tables.MIGRATIONS, version + 1, lambda c: c.execute(text("UPDATE parts SET lot = 'A' || id"))
    )
    with Station.open(store_url) as station:
        assert len(station.parts()) == 1
        with station._transaction() as connection:
            assert connection.execute(text("SELECT lot FROM parts")).scalars().all() == ["A1"]
            assert connection.execute(text("SELECT version FROM clipsam_schema")).scalar() == version + 2


@pytest.mark.parametrize("version", range(1, tables.VERSION))
def test_a_migrated_store_is_as_a_new_one(store_url: str, tmp_path: Path, version: int) -> None:
    """A store as its own version made it: what later versions added is taken away again."""
    added = {
        2: ["ALTER TABLE parts DROP COLUMN degraded"],
        3: [
            "DROP INDEX parts_of_photo",
            "DROP INDEX parts_failed",
            "CREATE INDEX parts_by_photo ON parts (sha256)",
        ],
    }
    with Station.open(store_url) as station:
        new = columns(store_url), indexes(store_url)
        part = station.add(station.run(product="plate"), row(0.5, regions=2))
        station.verdict(part, reviewer="Anna", verdict="confirm")
        before = station.part(part)
        with station._transaction(writes=True) as connection:
            for step in range(tables.VERSION, version, -1):
                for statement in added[step]:
                    connection.execute(text(statement))
            connection.execute(text(f"UPDATE clipsam_schema SET version = {version}"))
    assert (columns(store_url), indexes(store_url)) != new
    with Station.open(store_url) as station:
        assert (columns(store_url), indexes(store_url)) == new
        assert station.part(part) == before


def columns(where: str) -> dict[str, tuple[str, bool]]:
    """Name, type and whether it may be null, of the columns of parts."""
    engine = connect.create_engine(connect.store_url(where))
    found = inspect(engine).get_columns("parts")
    engine.dispose()
    return {column["name"]: (str(column["type"]), column["nullable"]) for column in found}


def indexes(where: str) -> dict[str, tuple[list[str], str]]:
    """Columns and condition of the indexes of parts, by name."""
    engine = connect.create_engine(connect.store_url(where))
    found = inspect(engine).get_indexes("parts")
    engine.dispose()
    return {
        index["name"]: (
            index["column_names"],
            str({k: str(v) for k, v in index["dialect_options"].items() if k.endswith("where")}),
        )
        for index in found
    }


def test_a_part_is_stored_quickly(tmp_path) -> None:
    with Station.open(tmp_path / "s.sqlite") as station:
        run = station.run(product="plate")
        start = time.perf_counter()
        for k in range(50):
            station.add(run, row(0.5, name=str(k), regions=5))
        assert (time.perf_counter() - start) / 50 < 0.1  # seconds; a photo takes more than that
