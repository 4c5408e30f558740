"""`clipsam inspect` and the station's store: a photo is written once; a store that fails stops nothing."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from fake_segmenter import FakeSegmenter
from test_inspect import plate
from typer.testing import CliRunner, Result

from clipsam.cli import inspect as verb
from clipsam.cli._store import Keeping
from clipsam.errors import StoreError, UsageError
from clipsam.runs.sitting import Step
from clipsam.runs.store import read_rows
from clipsam.store import Station


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run `clipsam inspect PHOTOS --out RUN` with the fake segmenter and further words."""
    app = typer.Typer()
    app.callback()(lambda: None)
    verb.register(app)
    module = SimpleNamespace(
        AnomalySegmenter=SimpleNamespace(from_preset=lambda name, **options: FakeSegmenter())
    )
    monkeypatch.setitem(sys.modules, "clipsam.segmenter", module)
    for index in range(3):
        plate(tmp_path / "photos" / f"{index}.png", spot=index == 2, seed=index)
    (tmp_path / "photos" / "3.png").write_bytes(b"\x89PNG broken")

    def call(*words: object) -> Result:
        given = ["inspect", tmp_path / "photos", "--out", tmp_path / "run", *words]
        return CliRunner().invoke(app, list(map(str, given)), standalone_mode=False)

    return call


def test_every_photo_is_stored_once(inspect, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CLIPSAM_STATION", "line 7")
    first = inspect("--json")
    assert first.return_value == 2
    summary = json.loads(first.stdout)
    assert (summary["store"], summary["stored"]) == (str(tmp_path / "station" / "station.sqlite"), True)
    plate(tmp_path / "photos" / "4.png", seed=9)
    assert inspect().stdout.endswith(f"stored in: {summary['store']}\n")
    with Station.open() as station:
        parts = station.parts(superseded=None, full=True)
        rows = {row["path"]: row for row in map(json.loads, (tmp_path / "run" / "results.jsonl").open())}
    assert [Path(part.path).name for part in parts] == ["4.png", "3.png", "2.png", "1.png", "0.png"]
    assert {part.station for part in parts} == {"line 7"}
    assert {part.run for part in parts} == {1}
    for part in parts:
        given = rows[part.path]
        assert part.time.isoformat() == given["time"]
        assert part.as_row().items() >= {key: given[key] for key in given.keys() - {"stages", "time"}}.items()
        assert part.folder == tmp_path / "run"


def test_parts_of_a_run_that_was_not_stored_are_added_later(inspect) -> None:
    assert "stored in" not in inspect("--store", "none").stdout
    assert json.loads(inspect("--store", "none", "--json").stdout)["store"] is None
    inspect()
    with Station.open() as station:
        assert len(station.parts()) == 4
        times = [part.time for part in station.parts()]
    rows = [part for part in times if part.microsecond == 0]
    assert len(rows) == 4  # the times at which they were done, from the run folder


def test_the_threshold_of_the_calibration_is_stored(inspect, tmp_path) -> None:
    inspect("--store", "none")
    row = json.loads((tmp_path / "run" / "results.jsonl").read_text().splitlines()[0])
    calibrated = SimpleNamespace(calibration=SimpleNamespace(score_threshold=0.625))
    with Keeping(Station.open(), tmp_path / "run", calibrated) as keeping:
        keeping.step(Step(row, resumed=True, number=1, total=1))
    with Station.open() as station:
        assert [part.threshold for part in station.parts()] == [0.625]


def test_a_store_that_fails_is_told_once_and_stops_nothing(inspect, tmp_path, monkeypatch) -> None:
    with Station.open():
        pass
    database = tmp_path / "station" / "station.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE regions")
        connection.execute("DROP TABLE parts")
    result = inspect("--json")
    assert result.return_value == 2
    assert json.loads(result.stdout)["done"] == 3
    assert json.loads(result.stdout)["stored"] is False
    said = [line for line in result.stderr.splitlines() if "store" in line]
    assert len(said) == 2
    assert "no such table: parts; the run goes on" in said[0]
    assert f"4 parts are not in the store {database}; the same command adds them" in said[1]


def test_a_store_that_does_not_open(inspect, tmp_path, monkeypatch) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    asked = inspect("--store", tmp_path / "text")
    assert isinstance(asked.exception, StoreError)
    assert not (tmp_path / "run").exists()  # told before the models were loaded
    assert isinstance(inspect("--store", "mysql://x/y").exception, UsageError)
    monkeypatch.setenv("CLIPSAM_STORE", str(tmp_path / "text"))
    result = inspect()
    assert result.return_value == 2
    assert "file is not a database; this run is not stored" in result.stderr
    assert "stored in" not in result.stdout


INSPECT = """
import sys
from pathlib import Path
from fake_segmenter import FakeSegmenter
from clipsam.cli._store import Keeping, open_station
from clipsam.runs.inspection import inspect_photos
photos, out, store = sys.argv[1:]
segmenter = FakeSegmenter(seconds=0.02)
with Keeping(open_station(store), Path(out), segmenter) as keeping:
    inspect_photos(segmenter, [photos], out, on_step=keeping.step)
"""  # what `clipsam inspect` does, without its heavy imports


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_killed_inspection_is_stored_whole_when_it_goes_on(kind, tmp_path, request) -> None:
    for index in range(40):
        plate(tmp_path / "photos" / f"{index:02}.png", spot=index % 2 == 0, seed=index)
    store = str(tmp_path / "s.sqlite")
    if kind == "postgresql":
        store = request.getfixturevalue("postgres").store()
    command = [sys.executable, "-c", INSPECT, str(tmp_path / "photos"), str(tmp_path / "run"), store]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    with Station.open(store) as station:
        while len(station.parts()) < 8:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        rows = {row["path"]: row for row in read_rows(tmp_path / "run" / "results.jsonl")}
        for part in station.parts(full=True):
            assert [region.as_row() for region in part.regions] == rows[part.path]["regions"]
        subprocess.run(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, check=True)
        stored = station.parts(limit=None, superseded=None, full=True)
    rows = {row["path"]: row for row in read_rows(tmp_path / "run" / "results.jsonl")}
    assert len(stored) == len(rows) == 40
    for part in stored:
        assert part.as_row()["regions"] == rows[part.path]["regions"]
