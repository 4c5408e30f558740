"""`clipsam calibrate` with the fake segmenter: words, refusals and exit codes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from fake_segmenter import FakeSegmenter
from PIL import Image
from typer.testing import CliRunner, Result

from clipsam.calibration_files import load_calibration
from clipsam.cli import calibrate as verb
from clipsam.errors import CalibrationError, UsageError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """good/: 30 bright plates; bad/: 4 with a dark spot, one of them hardly to be seen."""
    rng = np.random.default_rng(1)
    for kind, count in (("good", 30), ("bad", 4)):
        (tmp_path / kind).mkdir()
        for number in range(count):
            pixels = rng.integers(200, 256, (8, 12, 3), dtype=np.uint8)
            if kind == "bad":
                pixels[2:4, 3:6] = 250 if number == 0 else 40
            Image.fromarray(pixels).save(tmp_path / kind / f"{number:02}.png")
    return tmp_path


@pytest.fixture
def calibrate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `clipsam calibrate`; what the segmenter was built with is in `calibrate.given`."""
    app = typer.Typer()
    app.callback()(lambda: None)
    verb.register(app)
    given: dict = {}

    def from_preset(name: str | None, **options: object) -> FakeSegmenter:
        given.update(options, name=name)
        return FakeSegmenter()

    segmenter = SimpleNamespace(AnomalySegmenter=SimpleNamespace(from_preset=from_preset))
    monkeypatch.setitem(sys.modules, "clipsam.segmenter", segmenter)

    def call(*words: object) -> Result:
        return CliRunner().invoke(app, ["calibrate", *map(str, words)], standalone_mode=False)

    call.given = given  # type: ignore[attr-defined]
    return call


def test_words_and_file(calibrate: Callable[..., Result], photos: Path) -> None:
    out = photos / "plate.json"
    words = ("--product", "plate", "--false-alarms", "10%", "--out", out, "--preset", "nano", "--no-sam")
    result = calibrate(photos / "good", *words, "--bad", photos / "bad", "--roi", "zones.json")
    assert result.return_value == 0, result
    assert result.stdout.startswith("30 good photos of 'plate'\n")
    assert "at most 10 % are called defective on average" in result.stdout
    assert "Of known bad parts, 1 of 4 (25.0 %, 95 % interval 0.6 to 80.6 %) pass" in result.stdout
    assert load_calibration(out).id in result.stdout
    assert len(load_calibration(out).good) == 30
    assert calibrate.given["roi"] == Path("zones.json")
    assert calibrate.given["sam"] is False
    assert calibrate.given["name"] == "nano"


def test_json(calibrate: Callable[..., Result], photos: Path) -> None:
    (photos / "good" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shutil.copy(photos / "good" / "03.png", photos / "good" / "copy.png")
    out = photos / "plate.json"
    result = calibrate(photos / "good", "--false-alarms", "0.05", "--out", out, "--json")
    assert result.return_value == 2  # one photo was not readable
    said = json.loads(result.stdout)
    assert said["good_photos"] == 30
    assert said["left_out"] == {"not readable": 1, "references too": 0, "copies of others": 1}
    assert said["errors"][0]["kind"] == "truncated"
    assert said["score_threshold"] == load_calibration(out).score_threshold
    assert said["missed"] is None


def test_refusals_come_before_the_models_are_loaded(calibrate: Callable[..., Result], photos: Path) -> None:
    out = photos / "plate.json"
    for words, kind, said in (
        ((photos / "good",), CalibrationError, "30 good photos .* at least 99; add 69 more"),
        ((photos / "good", "--false-alarms", "none"), UsageError, "rate 'none' is no number"),
        ((photos / "nowhere",), UsageError, "nowhere"),
        ((photos / "good", "--references", photos / "good"), CalibrationError, "all 30 .* references too"),
    ):
        result = calibrate(*words, "--out", out)
        assert isinstance(result.exception, kind)
        assert re.search(said, str(result.exception))
    (photos / "file").touch()
    for place, said in ((photos / "good", "a folder"), (photos / "file" / "plate.json", "Not a dir|exists")):
        result = calibrate(photos / "good", "--false-alarms", "10%", "--out", place)
        assert isinstance(result.exception, CalibrationError)
        assert re.search(f"cannot be written: .*({said})", str(result.exception))
    assert calibrate.given == {}
    assert not out.exists()


def test_references_do_not_calibrate(calibrate: Callable[..., Result], photos: Path) -> None:
    (photos / "references").mkdir()
    shutil.copy(photos / "good" / "07.png", photos / "references" / "a.png")
    out = photos / "plate.json"
    words = ("--false-alarms", "10%", "--references", photos / "references", "--out", out)
    assert (
        "29 good photos of 'plate'; left out: 1 references too" in calibrate(photos / "good", *words).stdout
    )
    assert "07.png" not in [photo.name for photo in load_calibration(out).good]
