"""The loop over photos and its command: every photo has one row, whatever happens to it or to the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from fake_segmenter import FakeSegmenter
from PIL import Image
from typer.testing import CliRunner, Result

from clipsam.cli import inspect as verb
from clipsam.cli._progress import Progress
from clipsam.errors import RunError, UsageError
from clipsam.finding import find_photos
from clipsam.images import Photo
from clipsam.result import Segmentation
from clipsam.runs.ahead import map_ahead
from clipsam.runs.inspection import RunSummary, inspect_photos
from clipsam.runs.manifest import read_manifest
from clipsam.runs.photowork import PhotoWork, read
from clipsam.runs.pictures import read_map
from clipsam.runs.sitting import Step
from clipsam.runs.store import read_rows


def plate(path: Path, *, spot: bool = False, seed: int = 0) -> Path:
    """A bright plate, with a dark spot or without."""
    pixels = np.random.default_rng(seed).integers(220, 250, (40, 60, 3), dtype=np.uint8)
    if spot:
        pixels[10:20, 30:45] = 30
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven photos: four good, two with a spot, one damaged; and a file that is none."""
    folder = tmp_path / "photos"
    for i in range(4):
        plate(folder / "good" / f"{i}.png", seed=i)
    plate(folder / "spot" / "0.png", spot=True, seed=7)
    plate(folder / "spot" / "Fläche 1.bmp", spot=True, seed=8)
    (folder / "spot" / "broken.png").write_bytes((folder / "spot" / "0.png").read_bytes()[:500])
    (folder / "readme.txt").write_text("x")
    return folder


def rows_of(run: Path) -> list[dict]:
    lines = (run / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert all(line.endswith(b"\n") for line in lines)
    rows = [json.loads(line) for line in lines]
    assert len({row["path"] for row in rows}) == len(rows)
    return rows


# ---- the loop


def test_a_run_from_end_to_end(photos: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    run = tmp_path / "run"
    summary = inspect_photos(FakeSegmenter(), [photos], run, on_step=steps.append)
    rows = rows_of(run)
    assert [Path(row["path"]).relative_to(photos).as_posix() for row in rows] == [
        "good/0.png",
        "good/1.png",
        "good/2.png",
        "good/3.png",
        "spot/0.png",
        "spot/Fläche 1.bmp",
        "spot/broken.png",
    ]
    assert list(summary.rows) == rows == [step.row for step in steps]
    assert [step.number for step in steps] == list(range(1, 8))
    assert [Path(row["path"]).parent.name for row in summary.suspicious] == ["spot", "spot"]
    assert [row["error"]["kind"] for row in summary.errors] == ["truncated"]
    assert all(len(row["sha256"]) == 64 for row in rows)
    assert [path.name for path, _ in summary.skipped] == ["readme.txt"]

    manifest = read_manifest(run)
    assert manifest["state"] == "finished"
    assert manifest["counts"]["photos"] == 7
    assert manifest["counts"]["errors_by_kind"] == {"truncated": 1}
    assert {"read", "clip", "sam", "write"} <= manifest["seconds"].keys()
    assert manifest["reading"]["bit_depth"] is None
    assert manifest["skipped"] == 1

    for row in rows[:6]:
        assert set(row["files"]) == {"map", "mask", "overlay"}
        for file in row["files"].values():
            assert Image.open(run / file).size == (60, 40)
        assert read_map(run / row["files"]["map"]).max() == pytest.approx(row["score"], abs=1e-4)
    assert (run / "overlays" / "spot" / "Fläche 1.jpg").exists()


def test_second_call_does_nothing_twice(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    inspect_photos(FakeSegmenter(), [photos], run)
    before = (run / "results.jsonl").read_bytes()
    again = FakeSegmenter()
    summary = inspect_photos(again, [photos], run)
    assert again.seen == []
    assert summary.resumed == 7
    assert len(summary.suspicious) == 2
    assert (run / "results.jsonl").read_bytes() == before
    assert read_manifest(run)["counts"]["photos"] == 7


def test_new_changed_and_mended_photos_are_done(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    missing = photos / "late.png"
    summary = inspect_photos(FakeSegmenter(), [photos, missing], run)
    assert {row["error"]["kind"] for row in summary.errors} == {"truncated", "missing"}
    plate(missing)
    plate(photos / "spot" / "broken.png", seed=20)
    plate(photos / "good" / "1.png", spot=True, seed=21)
    plate(photos / "a.png")
    again = FakeSegmenter()
    summary = inspect_photos(again, [photos], run)
    assert again.seen == ["a.png", "1.png", "late.png", "broken.png"]
    assert summary.errors == []
    assert [row["path"] for row in rows_of(run)] == [row["path"] for row in summary.rows]
    assert len(summary.suspicious) == 3


def test_part_of_the_photos_later(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    inspect_photos(FakeSegmenter(), [photos], run)
    summary = inspect_photos(FakeSegmenter(), [photos / "good"], run)
    assert len(summary.rows) == summary.resumed == 4
    assert len(rows_of(run)) == 7  # nothing is lost
    with pytest.raises(RunError, match="photos below"):
        inspect_photos(FakeSegmenter(), [plate(tmp_path / "else" / "0.png")], run)


def test_other_settings_are_refused_and_overwritten_when_asked(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    inspect_photos(FakeSegmenter(), [photos], run)
    with pytest.raises(RunError, match='preset was "fake" and is "other"'):
        inspect_photos(FakeSegmenter("other"), [photos], run)
    with pytest.raises(RunError, match=r"bit_depth was null and is 12"):
        inspect_photos(FakeSegmenter(), [photos], run, bit_depth=12)
    with pytest.raises(RunError, match=r"pictures\.maps"):
        inspect_photos(FakeSegmenter(), [photos], run, maps="tiff")
    other = FakeSegmenter("other")
    inspect_photos(other, [photos], run, maps="none", overlays=False, overwrite=True)
    assert len(other.seen) == 6
    assert {path.name for path in run.iterdir()} == {"results.jsonl", "run.json", "masks"}


def test_run_inside_of_the_photos_is_not_inspected(photos: Path) -> None:
    for _ in range(2):
        summary = inspect_photos(FakeSegmenter(), [photos], photos / "run")
        assert len(summary.rows) == 7


def test_nothing_to_inspect(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    with pytest.raises(UsageError, match="no photos in"):
        inspect_photos(FakeSegmenter(), [tmp_path], tmp_path / "run")
    with pytest.raises(UsageError, match="there is no"):
        inspect_photos(FakeSegmenter(), [tmp_path / "gone", tmp_path / "*.png"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Stumbling(FakeSegmenter):
    """Fails on the photos whose name `fails` accepts."""

    def __init__(self, fails: Callable[[str], bool], error: BaseException) -> None:
        super().__init__()
        self.fails = fails
        self.error = error

    def segment(self, image: Photo) -> Segmentation:
        result = super().segment(image)
        if self.fails(image.path.name):
            raise self.error
        return result


def test_one_photo_that_the_models_cannot_take(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stumbling = Stumbling(lambda name: name == "1.png", RuntimeError("shape"))
    summary = inspect_photos(stumbling, [photos], run)
    assert summary.rows[1]["error"] == {
        "kind": "failed",
        "message": f"{photos / 'good' / '1.png'}: the segmenter failed: RuntimeError: shape",
    }
    assert len(summary.errors) == 2
    again = FakeSegmenter()
    inspect_photos(again, [photos], run)
    assert again.seen == ["1.png"]  # it is tried again, unlike the damaged file


def test_models_that_always_fail_end_the_run(photos: Path, tmp_path: Path) -> None:
    stumbling = Stumbling(lambda name: True, RuntimeError("no such device"))
    with pytest.raises(RuntimeError, match="no such device"):
        inspect_photos(stumbling, [photos], tmp_path / "run")
    assert len(stumbling.seen) == 3
    assert read_manifest(tmp_path / "run")["state"] == "interrupted"


class TwoMaps(FakeSegmenter):
    """Keeps a weak hand on the coarse map of its photo."""

    def segment(self, image: Photo) -> Segmentation:
        result = super().segment(image)
        coarse = result.anomaly_map / 2
        self.coarse = weakref.ref(coarse)
        return replace(result, coarse_map=coarse)


def test_the_coarse_map_is_gone_when_pictures_are_made(photos: Path) -> None:
    """No row or picture shows it: 400 MB of a photo of 100 megapixels."""
    segmenter = TwoMaps()
    reading = read(find_photos([photos]).photos[0])
    result = PhotoWork(segmenter).segment(reading)
    assert isinstance(result, Segmentation)
    assert segmenter.coarse() is None


class Counting(FakeSegmenter):
    """Counts how many photos are segmented at once; the first ones take longest."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._lock = threading.Lock()

    def segment(self, image: Photo) -> Segmentation:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.2 if image.path.name == "0.png" else 0.05)
        try:
            return super().segment(image)
        finally:
            with self._lock:
                self.now -= 1


@pytest.mark.parametrize("streams", [1, 3])
def test_streams_segment_at_once_and_rows_stay_in_order(photos: Path, tmp_path: Path, streams: int) -> None:
    counting = Counting()
    summary = inspect_photos(counting, [photos], tmp_path / "run", streams=streams)
    expected = inspect_photos(FakeSegmenter(), [photos], tmp_path / "expected")
    assert counting.most == streams
    assert [row["path"] for row in rows_of(tmp_path / "run")] == [row["path"] for row in expected.rows]
    for row, other in zip(summary.rows, expected.rows, strict=True):
        assert row.get("score") == other.get("score")
        assert row.get("files") == other.get("files")
    always = Stumbling(lambda name: True, RuntimeError("no such device"))
    with pytest.raises(RuntimeError, match="no such device"):
        inspect_photos(always, [photos], tmp_path / "bad", streams=streams)
    assert len(always.seen) < 3 + streams


def test_a_photo_above_the_limit_has_the_memory_for_itself(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsam.runs.inspection.PIXELS_IN_FLIGHT", 10)
    counting = Counting()
    summary = inspect_photos(counting, [photos], tmp_path / "run", streams=3)
    assert counting.most == 1
    assert len(summary.rows) == len(rows_of(tmp_path / "run")) == 7


def test_interrupt_keeps_what_is_done(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        inspect_photos(Stumbling(lambda name: name == "2.png", KeyboardInterrupt()), [photos], run)
    assert [Path(row["path"]).name for row in rows_of(run) if "score" in row] == ["0.png", "1.png"]
    assert read_manifest(run)["state"] == "interrupted"
    again = FakeSegmenter()
    inspect_photos(again, [photos], run)
    assert again.seen == ["2.png", "3.png", "0.png", "Fläche 1.bmp"]
    assert len(rows_of(run)) == 7
    assert read_manifest(run)["state"] == "finished"


def test_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL in the middle: nothing is lost, nothing is done twice, the rows are whole."""
    for i in range(30):
        plate(tmp_path / "photos" / f"{i:02}.png", spot=i % 3 == 0, seed=i)
    run = tmp_path / "run"
    program = (
        "from fake_segmenter import FakeSegmenter; from clipsam.runs.inspection import inspect_photos; "
        f"inspect_photos(FakeSegmenter(seconds=0.03), [{str(tmp_path / 'photos')!r}], {str(run)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent)
    results = run / "results.jsonl"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (not results.exists() or results.read_bytes().count(b"\n") < 8):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = read_rows(results)
    assert 8 <= len(kept) < 30
    assert read_manifest(run)["state"] == "running"
    with results.open("ab") as file:
        file.write(b'{"path": "/half')  # and the power went, too

    again = FakeSegmenter()
    summary = inspect_photos(again, [tmp_path / "photos"], run)
    assert len(again.seen) == 30 - len(kept)
    assert rows_of(run) == list(summary.rows)
    assert summary.rows[: len(kept)] == tuple(kept)
    assert len(list((run / "overlays").iterdir())) == 30


def test_reading_ahead_is_ordered_and_bounded() -> None:
    under_way = most = 0

    def items() -> Iterator[int]:
        nonlocal under_way, most
        for i in range(20):
            under_way += 1
            most = max(most, under_way)
            yield i

    with ThreadPoolExecutor(4) as pool:
        results = []
        for result in map_ahead(pool, lambda i: i * i, items(), weight=lambda i: 1.0, depth=3, limit=10):
            under_way -= 1
            results.append(result)
    assert results == [i * i for i in range(20)]
    assert most <= 4  # three in flight and the one that waits to start


def test_heavy_items_travel_alone() -> None:
    now, most = 0, 0

    def work(weight: int) -> None:
        nonlocal now, most
        now += weight
        most = max(most, now)
        time.sleep(0.002)
        now -= weight

    with ThreadPoolExecutor(4) as pool:
        list(map_ahead(pool, work, [1, 1, 9, 1, 9, 9, 1, 1], weight=float, depth=4, limit=4))
    assert most == 9


# ---- the command


@pytest.fixture
def clipsam(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `clipsam inspect` with the fake segmenter; what it was built with is in `clipsam.given`."""
    app = typer.Typer()
    app.callback()(lambda: None)
    verb.register(app)
    given: dict = {}

    def from_preset(name: str | None, **options: object) -> FakeSegmenter:
        given.update(options, name=name)
        return FakeSegmenter()

    # In place of the real module, whose import alone takes seconds.
    segmenter = SimpleNamespace(AnomalySegmenter=SimpleNamespace(from_preset=from_preset))
    monkeypatch.setitem(sys.modules, "clipsam.segmenter", segmenter)

    def call(*words: object) -> Result:
        return CliRunner().invoke(app, ["inspect", *map(str, words)], standalone_mode=False)

    call.given = given  # type: ignore[attr-defined]
    return call


def test_options_reach_the_segmenter(clipsam: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    words = "--product plate --defect scratch --defect dent --preset nano --no-sam --threshold 0.4"
    words += " --device cpu --prompts winclip --models pack --exported programs --compile"
    result = clipsam(photos / "good", "--out", tmp_path / "r", *words.split())
    assert result.return_value == 0
    assert clipsam.given == {
        "name": "nano",
        "product": "plate",
        "defects": ["scratch", "dent"],
        "prompts": "winclip",
        "sam": False,
        "adapter": None,
        "references": None,
        "threshold": 0.4,
        "calibration": None,
        "roi": None,
        "device": "cpu",
        "models_dir": Path("pack"),
        "exported": Path("programs"),
        "compiled": True,
    }


def test_json_is_one_object_on_stdout(clipsam: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    result = clipsam(photos, "--out", tmp_path / "r", "--json")
    summary = json.loads(result.stdout)
    assert summary["photos"] == 7
    assert summary["done"] == 6
    assert [row["regions"] for row in summary["suspicious"]] == [1, 1]
    assert summary["errors"][0]["kind"] == "truncated"
    assert summary["skipped"][0]["reason"]
    assert summary["run"] == str(tmp_path / "r")


def test_summary_in_words(clipsam: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    text = clipsam(photos, "--out", tmp_path / "r").stdout
    assert text.startswith("7 photos, 2 suspicious, 1 not readable")
    assert "spot/0.png  scratch" in text
    assert f"truncated: {photos}" in text
    assert f"clipsam report {tmp_path / 'r'}" in text
    assert "7 done before" in clipsam(photos, "--out", tmp_path / "r").stdout


def test_exit_codes(clipsam: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    def code(*words: object) -> int:
        return clipsam(*words, "--out", tmp_path / "run", "--overwrite").return_value

    assert code(photos / "good") == 0
    assert code(photos / "good", "--fail-on-defect") == 0
    assert code(photos) == 2
    assert code(photos, "--fail-on-defect") == 3
    assert code(photos / "spot" / "0.png") == 0
    assert code(photos / "spot" / "broken.png") == 1
    assert [row["error"]["kind"] for row in rows_of(tmp_path / "run")] == ["truncated"]
    assert code(photos / "good", tmp_path / "nowhere.png") == 2


def test_bad_options(clipsam: Callable[..., Result], photos: Path, tmp_path: Path) -> None:
    assert isinstance(clipsam(photos, "--out", tmp_path / "r", "--maps", "exr").exception, UsageError)
    assert clipsam(photos, "--out", tmp_path / "r", "--bit-depth", "8").exit_code != 0
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_file_name_that_is_no_unicode(clipsam: Callable[..., Result], tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "photos")
    os.mkdir(folder)
    os.rename(plate(tmp_path / "x.png", spot=True), folder + b"/\xff\xe4.png")
    result = clipsam(tmp_path / "photos", "--out", tmp_path / "r")
    assert result.return_value == 0
    assert "\\udcff" in result.stdout
    assert clipsam(tmp_path / "photos", "--out", tmp_path / "r").return_value == 0
    assert len(rows_of(tmp_path / "r")) == 1


def test_long_lists_are_cut_in_words_only() -> None:
    rows = tuple(
        {"path": f"/{i}", "sha256": None, "error": {"kind": "empty", "message": f"/{i}"}} for i in range(25)
    )
    text = verb.in_words(RunSummary(Path("r"), rows, 0, (), 1.0))
    assert text.count("empty:") == 10
    assert "and 15 more" in text


# ---- progress


def step(number: int, *, resumed: bool = False, regions: int = 0) -> Step:
    return Step({"path": "/a", "regions": [{}] * regions, "is_defective": None}, resumed, number, 10)


def test_progress_in_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Progress() as progress:
        for number in range(1, 11):
            clock[0] += 2.0
            progress.step(step(number, resumed=number <= 2, regions=number == 4))
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "3/10 photos, 0.2 photos/s, 42 s left, 0 suspicious"
    assert lines[1].startswith("6/10 photos, 0.3 photos/s, 12 s left, 1 suspicious")
    assert len(lines) == 3


def test_progress_of_a_calibrated_run_counts_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with Progress() as progress:
        for number, verdict in enumerate([True, False, True], start=1):
            row = {"path": "/a", "regions": [{}], "is_defective": verdict}
            progress.step(Step(row, False, number, 3))
        assert progress.line(3, 3, 1.0).endswith(", 2 defective")


def test_progress_as_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress() as progress:
        for number in range(1, 11):
            progress.step(step(number, resumed=number <= 2, regions=1))
    out, err = capsys.readouterr()
    assert out == ""
    assert "10/10" in err
    assert "photo/s" in err
    assert "10 suspicious" in err
