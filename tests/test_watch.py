"""The hot folder: nothing half-written is taken, no photo twice, none is lost, not by a kill either."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image
from test_drift import calibration_of

from clipsam.errors import RunError, UsageError
from clipsam.hotfolder import PICKED, HotFolder
from clipsam.images import Photo
from clipsam.result import Segmentation
from clipsam.runs.daily import DailyRuns
from clipsam.runs.manifest import read_manifest, story_of
from clipsam.runs.store import read_rows
from clipsam.store import Station
from clipsam.watch import Watch, WatchOptions, WatchSummary

DAY = "2026-03-01"


def photo_bytes(tmp: Path, *, spot: bool = False, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(220, 250, (40, 60, 3), dtype=np.uint8)
    if spot:
        pixels[10:20, 30:45] = 30
    path = tmp / "made.png"
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


class Line:
    """A hot folder with its outputs, watched by a fake segmenter."""

    def __init__(self, tmp: Path, *, move: bool) -> None:
        self.tmp, self.move = tmp, move
        self.hot, self.out = tmp / "hot", tmp / "out"
        self.hot.mkdir(exist_ok=True)
        self.day = DAY
        self.segmenter: Any = FakeSegmenter()

    def put(self, name: str, *, spot: bool = False, seed: int | None = None, old: bool = True) -> Path:
        path = self.hot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo_bytes(self.tmp, spot=spot, seed=len(name) if seed is None else seed))
        if old:
            os.utime(path, (time.time() - 60, time.time() - 60))
        return path

    def folder(self, settle: float = 0.05) -> HotFolder:
        return HotFolder(
            self.hot, move_to=self.hot if self.move else None, settle=settle, journal=self.out / "seen.jsonl"
        )

    def runs(self, **fields: Any) -> DailyRuns:
        return DailyRuns(
            self.out,
            self.segmenter.manifest(),
            root=self.hot,
            inputs=[str(self.hot)],
            day=lambda: self.day,
            **fields,
        )

    def watch(self, *, settle: float = 0.05, **fields: Any) -> Watch:
        options = WatchOptions(interval=0.01, **{"once": True, "patience": 0.3, **fields})
        return Watch(self.segmenter, self.folder(settle), self.runs(), options)

    def rows(self, day: str = DAY) -> list[dict[str, Any]]:
        return read_rows(self.out / day / "results.jsonl")

    def names(self) -> list[str]:
        return sorted(path.relative_to(self.hot).as_posix() for path in self.hot.rglob("*") if path.is_file())


@pytest.fixture(params=[False, True], ids=["stays", "moved"])
def line(tmp_path: Path, request: pytest.FixtureRequest) -> Line:
    return Line(tmp_path, move=request.param)


@pytest.fixture
def moving(tmp_path: Path) -> Line:
    return Line(tmp_path, move=True)


def test_photos_become_rows_pictures_and_moves(line: Line) -> None:
    line.put("a.png")
    line.put("sub/b.png", spot=True)
    (line.hot / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rest")
    (line.hot / "notes.txt").write_text("no photo")
    summary = line.watch().run()
    assert (summary.ok, summary.ng, summary.errors, summary.photos) == (1, 1, 1, 3)
    rows = {Path(row["path"]).name: row for row in line.rows()}
    assert set(rows) == {"a.png", "b.png", "broken.png"}
    assert rows["broken.png"]["error"]["kind"] == "truncated"
    assert len(rows["b.png"]["regions"]) == 1
    run = line.out / DAY
    assert all((run / file).is_file() for file in rows["b.png"]["files"].values())
    assert datetime.fromisoformat(rows["a.png"]["time"]).tzinfo == UTC
    manifest = read_manifest(run)
    assert manifest["state"] == "finished"
    assert manifest["counts"] == story_of(line.rows())["counts"]
    if line.move:
        assert line.names() == ["error/broken.png", "ng/sub/b.png", "notes.txt", "ok/a.png"]
        assert all(Path(row["path"]).is_file() for row in rows.values())
    else:
        assert line.names() == ["a.png", "broken.png", "notes.txt", "sub/b.png"]


def test_nothing_is_inspected_twice(line: Line) -> None:
    line.put("a.png")
    line.put("b.png")
    assert line.watch().run().photos == 2
    line.put("c.png")
    assert line.watch().run().photos == 1  # a restart
    line.day = "2026-03-02"
    assert line.watch().run().photos == 0
    assert sorted(line.segmenter.seen) == ["a.png", "b.png", "c.png"]


def test_the_same_name_again_is_another_photo(line: Line) -> None:
    line.put("part.png", seed=1)
    line.watch().run()
    line.put("part.png", seed=2, old=False)
    assert line.watch().run().photos == 1
    if line.move:
        assert line.names() == ["ok/part-1.png", "ok/part.png"]
        assert len(line.rows()) == 2


def test_a_file_that_is_being_written_is_waited_for(line: Line) -> None:
    whole = photo_bytes(line.tmp, spot=True, seed=5)
    path = line.hot / "slow.png"
    path.write_bytes(b"")

    def write() -> None:
        for start in range(0, len(whole), 400):
            with path.open("ab") as file:
                file.write(whole[start : start + 400])
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    summary = line.watch(settle=0.01, patience=5).run()
    writer.join()
    assert (summary.ng, summary.photos) == (1, 1)  # not once in halves, and not as an error
    assert len(line.rows()) == 1


def test_a_writer_that_pauses_is_waited_for_while_patience_lasts(line: Line) -> None:
    whole = photo_bytes(line.tmp, seed=5)
    path = line.hot / "paused.png"
    path.write_bytes(whole[:500])
    os.utime(path, (time.time() - 60, time.time() - 60))  # stands still, and is not whole
    threading.Timer(0.3, lambda: path.write_bytes(whole)).start()
    summary = line.watch(patience=5).run()
    assert (summary.ok, summary.errors) == (1, 0)


def test_a_photo_that_vanishes_is_no_error(line: Line) -> None:
    hot = line.folder()
    line.put("a.png")
    (arrival,) = hot.arrivals()
    arrival.path.unlink()
    watch = Watch(line.segmenter, hot, line.runs(), WatchOptions(interval=0.01, once=True))
    assert watch.run().photos == 0
    if line.move:
        assert hot.pick(arrival) is None


def test_two_watchers_share_a_folder_without_taking_a_photo_twice(moving: Line) -> None:
    for number in range(30):
        moving.put(f"{number}.png", seed=number)
    folders = [moving.folder(), moving.folder()]
    taken: list[str] = []

    def take(hot: HotFolder) -> None:
        for arrival in hot.arrivals():
            if hot.pick(arrival) is not None:
                taken.append(arrival.name.name)

    threads = [threading.Thread(target=take, args=(hot,)) for hot in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(f"{number}.png" for number in range(30))


@pytest.mark.parametrize("moment", ["picked", "row written"])
def test_a_kill_with_a_photo_in_hand(moving: Line, moment: str) -> None:
    moving.put("a.png", spot=True)
    hot = moving.folder()
    (arrival,) = hot.arrivals()
    picked = hot.pick(arrival)
    assert picked is not None
    if moment == "row written":
        runs = moving.runs()
        photo = Photo(np.full((40, 60, 3), 250, np.uint8), picked.path, sha_of(picked.path))
        runs.keep(hot.place(picked, "ng"), photo, moving.segmenter.segment(photo), 0.1)
        runs.close("interrupted")
    assert moving.names() == [f"{PICKED}/a.png"]
    summary = moving.watch().run()
    assert moving.names() == ["ng/a.png"]
    assert len(moving.rows()) == 1
    assert summary.photos == (1 if moment == "picked" else 0)


def sha_of(path: Path) -> str:
    from clipsam.images import file_sha256

    return file_sha256(path)


def test_the_day_turns(line: Line) -> None:
    line.put("a.png")
    line.watch().run()
    line.day = "2026-03-02"
    line.put("b.png")
    line.watch().run()
    assert [Path(row["path"]).name for row in line.rows("2026-03-01")] == ["a.png"]
    assert [Path(row["path"]).name for row in line.rows("2026-03-02")] == ["b.png"]


def test_the_day_turns_while_it_runs(line: Line) -> None:
    line.put("a.png", seed=1)
    line.put("b.png", seed=2)
    runs = line.runs()

    class Midnight(FakeSegmenter):
        def segment(self, image: Photo) -> Segmentation:
            found = super().segment(image)
            line.day = f"2026-03-0{len(self.seen)}"
            return found

    segmenter = Midnight()
    Watch(segmenter, line.folder(), runs, WatchOptions(interval=0.01, once=True)).run()
    assert len(line.rows("2026-03-01")) == len(line.rows("2026-03-02")) == 1
    assert read_manifest(line.out / "2026-03-01")["state"] == "finished"


def test_it_stops_when_told_and_leaves_the_rest(line: Line) -> None:
    for number in range(20):
        line.put(f"{number}.png", seed=number)
    line.segmenter = FakeSegmenter(seconds=0.05)
    watch = line.watch(once=False)
    threading.Timer(0.3, watch.stop).start()
    summary = watch.run()
    assert 0 < summary.photos < 20
    places = Counter(name.split("/")[0] for name in line.names())
    if line.move:
        assert places["ok"] == summary.photos
        assert PICKED not in places
    assert line.watch().run().photos == 20 - summary.photos
    assert len(line.rows()) == 20


def test_other_settings_on_the_same_day_begin_another_run(line: Line) -> None:
    line.put("a.png")
    line.watch().run()
    first, line.segmenter = line.segmenter, FakeSegmenter("other")
    line.put("b.png")
    assert line.watch().run().photos == 1
    line.segmenter = first
    line.put("c.png")
    assert line.watch().run().photos == 1
    assert [Path(row["path"]).name for row in line.rows()] == ["a.png", "c.png"]
    assert [Path(row["path"]).name for row in line.rows(f"{DAY}-2")] == ["b.png"]


def test_a_folder_that_is_no_run_is_not_written_into(line: Line) -> None:
    (line.out / DAY).mkdir(parents=True)
    (line.out / DAY / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="not a run folder"):
        line.runs()


def test_a_segmenter_that_always_fails_ends_the_watch_and_loses_no_photo(line: Line) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        line.put(name)

    class Broken(FakeSegmenter):
        def segment(self, image: Photo) -> Segmentation:
            raise RuntimeError("no memory")

    line.segmenter = Broken()
    with pytest.raises(RuntimeError, match="no memory"):
        line.watch().run()
    assert read_manifest(line.out / DAY)["state"] == "interrupted"
    assert sum("error" in row for row in line.rows()) == 2
    line.segmenter = FakeSegmenter()
    assert line.watch().run().ok == 2


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        HotFolder(tmp_path / "gone")
    with pytest.raises(UsageError, match="interval"):
        WatchOptions(interval=0)


def test_counts_are_those_of_all_rows_and_memory_holds_none(line: Line) -> None:
    runs = line.runs()
    for number in range(50):
        runs.add({"path": f"{line.hot}/{number}", "sha256": None, "error": {"kind": "empty", "message": "x"}})
    assert runs.counts["photos"] == runs.counts["errors_by_kind"]["empty"] == 50
    assert runs._results.rows == {}
    runs.close()
    assert len(line.rows()) == 50
    again = line.runs()
    assert again.counts["photos"] == 50
    again.close()


def test_from_a_shell_until_sigterm(tmp_path: Path) -> None:
    line = Line(tmp_path, move=True)
    line.put("a.png")
    command = [
        sys.executable, "-m", "clipsam", "watch", str(line.hot), "--product", "plate", "--preset", "nano",
        "--out", str(line.out), "--move-to", str(line.hot), "--settle", "0.1", "--store", "none",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 90
        while len(line.names()) and line.names()[0] in ("a.png", f"{PICKED}/a.png"):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        late = line.put("b.png", seed=3)
        while late.exists() or (line.hot / PICKED / "b.png").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=30)
    assert process.returncode == 0, complained
    assert "2 photos in" in said
    (run,) = line.out.glob("*-*-*")
    assert len(read_rows(run / "results.jsonl")) == 2
    assert read_manifest(run)["state"] == "finished"


def test_summary_counts() -> None:
    assert WatchSummary(1, 2, 3, 0.5).photos == 6


def test_every_part_is_in_the_stations_store(line: Line) -> None:
    line.put("a.png")
    line.put("b.png", spot=True)
    (line.hot / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rest")
    with Station.open(line.tmp / "station.sqlite") as station:
        options = WatchOptions(interval=0.01, patience=0.1, once=True)
        Watch(line.segmenter, line.folder(), line.runs(station=station), options).run()
        stored = {Path(part.path).name: part for part in station.parts(full=True)}
        assert set(stored) == {"a.png", "b.png", "broken.png"}
        assert stored["b.png"].flagged
        assert len(stored["b.png"].regions) == 1
        assert not stored["a.png"].flagged
        assert stored["broken.png"].decision == "error"
        overlay = stored["b.png"].folder / stored["b.png"].files["overlay"]
        assert overlay.is_file()
        Watch(line.segmenter, line.folder(), line.runs(station=station), options).run()
        assert len(station.parts()) == 3


def test_a_store_that_is_away_stops_no_watch_and_lacks_nothing_later(line: Line) -> None:
    line.put("a.png")
    options = WatchOptions(interval=0.01, patience=0.1, once=True)
    where = line.tmp / "station.sqlite"
    with Station.open(where) as station:
        with sqlite3.connect(where) as connection:
            connection.execute("ALTER TABLE runs RENAME TO gone")
        assert Watch(line.segmenter, line.folder(), line.runs(station=station), options).run().photos == 1
        with sqlite3.connect(where) as connection:
            connection.execute("ALTER TABLE gone RENAME TO runs")
        line.put("b.png")
        Watch(line.segmenter, line.folder(), line.runs(station=station), options).run()
        assert sorted(Path(part.path).name for part in station.parts()) == ["a.png", "b.png"]


def test_drift_is_told_and_a_restart_forgets_nothing(line: Line) -> None:
    good = np.random.default_rng(0).random(200)
    calibration = calibration_of(good, "5%")
    told: list[str] = []

    def inspect(count: int, first: int) -> DailyRuns:
        runs = line.runs(calibration=calibration, warn=told.append)
        for number in range(first, first + count):
            row = {"path": f"{line.hot}/{number}", "sha256": f"{number:064x}", "regions": []}
            runs.add({**row, "score": 0.4 + 0.001 * (number % 50), "is_defective": False})
        runs.close()
        return runs

    assert inspect(90, 0).drift_warnings == 0
    assert told == []
    assert inspect(20, 90).drift_warnings == 1
    assert len(told) == 1
    assert "calibrate anew" in told[0]
    assert len(read_manifest(line.out / DAY)["drift"]["warnings"]) == 1


def test_two_hot_folders_that_move_to_one_place_never_overwrite_each_other(tmp_path):
    """Both choose their place before either moves; names that are equal become different."""
    moved = tmp_path / "done"
    watches = []
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part.png").write_bytes(name.encode())
        watches.append(HotFolder(tmp_path / name, move_to=moved, settle=0.0))
    arrivals = [watch.arrivals()[0] for watch in watches]
    places = [watch.place(arrival, "ok") for watch, arrival in zip(watches, arrivals, strict=True)]
    for watch, arrival, place in zip(watches, arrivals, places, strict=True):
        watch.finish(arrival, place)
    found = {path.name: path.read_bytes() for path in (moved / "ok").iterdir()}
    assert found == {"part.png": b"left", "part-1.png": b"right"}
    assert not any((tmp_path / name / "part.png").exists() for name in ("left", "right"))


def test_where_there_are_no_hard_links_photos_are_moved_all_the_same(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "hot").mkdir()
    (tmp_path / "hot" / "part.png").write_bytes(b"photo")
    watch = HotFolder(tmp_path / "hot", move_to=tmp_path, settle=0.0)
    [arrival] = watch.arrivals()
    watch.finish(arrival, watch.place(arrival, "ng"))
    assert (tmp_path / "ng" / "part.png").read_bytes() == b"photo"
    assert not arrival.path.exists()
