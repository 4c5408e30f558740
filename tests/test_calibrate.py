"""Calibrations: from photos to a file and back, what they refuse, and what a calibrated run says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image

from clipsam.calibrate import Calibration, PhotoScore, bound, calibrate, without_references
from clipsam.calibration_files import load_calibration, save_calibration
from clipsam.conformal import rate_of
from clipsam.errors import CalibrationError, PhotoError, UsageError
from clipsam.images import Photo
from clipsam.result import Segmentation
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import read_manifest


def plates(folder: Path, levels: list[int], seed: int = 0) -> list[Path]:
    """Bright plates, each with one pixel of a given level, which makes the fake score 1 - level/255."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = []
    for number, level in enumerate(levels):
        pixels = rng.integers(240, 256, (8, 12, 3), dtype=np.uint8)
        pixels[4, 5] = level
        paths.append(folder / f"{number:03}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture
def good(tmp_path: Path) -> list[Path]:
    return plates(tmp_path / "good", list(range(200, 162, -2)))  # 19 photos, scores 0.216 to 0.357


class Calibrated(FakeSegmenter):
    """The fake segmenter with a calibration, as `AnomalySegmenter` uses one."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration

    def segment(self, image: Photo) -> Segmentation:
        result = super().segment(image)
        object.__setattr__(result, "is_defective", self.calibration.is_defective(result.score))
        return result

    def manifest(self) -> dict[str, Any]:
        mine = {"calibration_id": self.calibration.id, "calibration": self.calibration.manifest()}
        return super().manifest() | mine


def of_scores(scores: list[float], rate: str = "5%") -> Calibration:
    photos = tuple(PhotoScore(f"{n}.png", f"{n:064x}", score, score) for n, score in enumerate(scores))
    return Calibration(rate_of(rate), photos, bound(FakeSegmenter().manifest()), created="2026-01-01")


def test_thresholds_of_photos(good: list[Path]) -> None:
    done: list[None] = []
    calibration = calibrate(FakeSegmenter(), good, "5%", on_photo=lambda: done.append(None))
    assert len(done) == len(calibration.good) == 19
    assert (
        calibration.score_threshold == calibration.pixel_threshold == max(p.score for p in calibration.good)
    )
    assert calibration.score_threshold == pytest.approx(1 - 164 / 255, abs=1e-6)
    assert [photo.name for photo in calibration.good] == [path.name for path in good]
    assert calibration.product == "plate"
    assert not calibration.is_defective(calibration.score_threshold)  # strictly above
    assert calibration.is_defective(np.nextafter(calibration.score_threshold, 1))
    assert calibration.missed is None


def test_the_cut_flags_what_is_strictly_above() -> None:
    calibration = of_scores([float(np.float32(0.3))] * 19)
    just_above = np.nextafter(np.float32(0.3), np.float32(1))
    anomaly = np.array([0.0, 0.3, just_above, 0.9], np.float32)
    np.testing.assert_array_equal(anomaly >= calibration.pixel_cut, [False, False, True, True])
    assert not (np.ones(3, np.float32) >= of_scores([1.0] * 19).pixel_cut).any()


def test_too_few_photos_are_refused_before_any_is_scored(good: list[Path]) -> None:
    segmenter = FakeSegmenter()
    with pytest.raises(CalibrationError, match=r"19 good photos .* at least 99"):
        calibrate(segmenter, good, "1%")
    assert segmenter.seen == []


def test_copies_count_once(good: list[Path], tmp_path: Path) -> None:
    copy = shutil.copy(good[3], tmp_path / "good" / "copy.png")
    assert len(calibrate(FakeSegmenter(), [*good, copy], "5%").good) == 19
    with pytest.raises(CalibrationError, match="18 good photos"):
        calibrate(FakeSegmenter(), [*good[:18], shutil.copy(good[0], tmp_path / "b.png")], "5%")


def test_unreadable_photos_are_told_and_left_out(good: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:60])
    errors: list[PhotoError] = []
    assert len(calibrate(FakeSegmenter(), [broken, *good], "5%", on_error=errors.append).good) == 19
    assert [error.kind for error in errors] == ["truncated"]
    with pytest.raises(PhotoError, match="broken"):
        calibrate(FakeSegmenter(), [broken, *good], "5%")


def test_known_bad_photos_say_what_is_missed(good: list[Path], tmp_path: Path) -> None:
    bad = plates(tmp_path / "bad", [10, 60, 170, 250], seed=1)
    calibration = calibrate(FakeSegmenter(), good, "5%", bad=bad)
    missed = calibration.missed
    assert missed is not None
    assert (missed.missed, missed.count, missed.rate) == (2, 4, 0.5)
    low, high = missed.interval
    assert 0.06 < low < 0.07
    assert 0.93 < high < 0.94
    assert calibration.unmarked == missed  # score and map maximum are the same here
    with pytest.raises(UsageError, match=r"000.png is among the good photos and among the bad ones"):
        calibrate(FakeSegmenter(), good, "5%", bad=[good[0]])


def test_references_are_left_out(good: list[Path], tmp_path: Path) -> None:
    (tmp_path / "references").mkdir()
    for path in good[:3]:
        shutil.copy(path, tmp_path / "references" / f"ref-{path.name}")
    rest, shared = without_references(good, tmp_path / "references")
    assert shared == good[:3]
    assert rest == good[3:]
    assert without_references(good, None) == (good, [])


def test_another_promise_from_the_same_photos() -> None:
    calibration = of_scores([n / 100 for n in range(1, 100)], "1%")
    assert calibration.score_threshold == 0.99
    relaxed = calibration.at("10%")
    assert relaxed.score_threshold == 0.9
    assert relaxed.id != calibration.id
    assert calibration.false_alarms_at(0.9) == 0.1
    assert calibration.false_alarms_at(0.99) == 0.01
    assert calibration.false_alarms_at(0.0) == 1.0
    with pytest.raises(CalibrationError, match="at least 999"):
        calibration.at("0.1%")


# ---- the file


def test_a_file_says_the_same_again(good: list[Path], tmp_path: Path) -> None:
    calibration = calibrate(FakeSegmenter(), good, "5%", bad=plates(tmp_path / "bad", [9], 1), bit_depth=12)
    path = save_calibration(calibration, tmp_path / "new" / "plate.json")
    again = load_calibration(path)
    for name in ("id", "good", "bad", "setup", "bit_depth", "created", "score_threshold", "pixel_threshold"):
        assert getattr(again, name) == getattr(calibration, name), name
    content = json.loads(path.read_text())
    assert content["format"] == "clipsam-calibration-1"
    assert "at most 5 % are called defective on average" in content["promise"]
    assert content["setup"]["weights"] == {"fake-clip": "0" * 64}
    assert content["missed"]["count"] == 1
    assert len(content["good"]) == 19
    assert [file.name for file in path.parent.iterdir()] == ["plate.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(score_threshold=0.5), "was edited"),
        (lambda c: c.update(false_alarms=0.1), "was edited"),
        (lambda c: c["good"][0].update(score=0.1), "was edited"),
        (lambda c: c["setup"].update(preset="other"), "was edited"),
        (lambda c: c.update(format="clipsam-calibration-9"), "format 'clipsam-calibration-9'; expected"),
        (lambda c: c.pop("setup"), "damaged"),
        (lambda c: c["good"].pop(), "damaged .*18 good photos"),
        (lambda c: c.update(good=3), "damaged"),
    ],
)
def test_edited_and_damaged_files_are_refused(
    tmp_path: Path, change: Callable[[dict], Any], said: str
) -> None:
    path = save_calibration(of_scores([n / 19 for n in range(19)]), tmp_path / "c.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=said):
        load_calibration(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"there is no .*none.json"):
        load_calibration(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(CalibrationError, match="format None"):
        load_calibration(tmp_path / "list.json")
    (tmp_path / "half.json").write_text('{"format": ')
    with pytest.raises(CalibrationError, match="cannot be read"):
        load_calibration(tmp_path / "half.json")
    with pytest.raises(CalibrationError, match="cannot be written"):
        save_calibration(of_scores([0.5] * 19), tmp_path / "half.json" / "c.json")


# ---- what it is bound to


def test_another_setup_is_told_exactly() -> None:
    calibration = of_scores([0.1] * 19)
    manifest = FakeSegmenter().manifest()
    calibration.check(manifest | {"device": "cuda:0", "pixel_threshold": 0.2, "calibration_id": "x"})
    with pytest.raises(CalibrationError, match='setup: preset was "fake" and is "large"; use'):
        calibration.check(manifest | {"preset": "large"})
    with pytest.raises(CalibrationError, match=r"weights.fake-clip was .* and is .*; use"):
        calibration.check(manifest | {"weights": {"fake-clip": "a" * 64}})
    with pytest.raises(CalibrationError, match=r"roi was null and is \{"):
        calibration.check(manifest | {"roi": {"hash": "abc"}})
    with pytest.raises(CalibrationError, match=r"--bit-depth left out, and .* with 12"):
        calibration.check_reading(12)


# ---- a calibrated run


def test_a_calibrated_run_says_ok_or_defective(good: list[Path], tmp_path: Path) -> None:
    calibration = calibrate(FakeSegmenter(), good, "5%")
    plates(tmp_path / "new", [20, 164, 163, 250], seed=5)
    run = tmp_path / "run"
    summary = inspect_photos(Calibrated(calibration), [tmp_path / "new"], run)
    assert [row["is_defective"] for row in summary.rows] == [True, False, True, False]
    manifest = read_manifest(run)
    assert manifest["calibration_id"] == calibration.id
    assert manifest["calibration"]["score_threshold"] == calibration.score_threshold
    assert manifest["counts"]["defective"] == 2
    assert manifest["drift"]["passed"] == 2
    assert summary.drift is None
    with pytest.raises(CalibrationError, match="--bit-depth"):
        inspect_photos(Calibrated(calibration), [tmp_path / "new"], run, bit_depth=12)


def test_a_run_of_parts_that_have_drifted_is_told(good: list[Path], tmp_path: Path) -> None:
    calibration = calibrate(FakeSegmenter(), good, "5%")
    plates(tmp_path / "new", [170 - n % 3 for n in range(40)], seed=9)  # all pass, close to the threshold
    summary = inspect_photos(Calibrated(calibration), [tmp_path / "new"], tmp_path / "run")
    assert not any(row["is_defective"] for row in summary.rows)
    assert summary.drift is not None
    assert "passed parts are higher than" in str(summary.drift)
    assert summary.as_dict()["drift"]["p_value"] < 0.01
    assert read_manifest(tmp_path / "run")["drift"]["warnings"][0]["sentence"] == str(summary.drift)


def test_the_embedded_pair_says_of_its_calibration_photos_what_they_calibrated(tmp_path: Path) -> None:
    """The same photos score the same again: none but the one that 25 % allow is flagged."""
    from clipsam.nano.corpus.compose import render
    from clipsam.segmenter import AnomalySegmenter

    for seed in range(7):
        Image.fromarray(render(seed, 96, 96, p_normal=1.0).image).save(tmp_path / f"{seed}.png")
    photos = sorted(tmp_path.glob("*.png"))
    plain = AnomalySegmenter.from_preset("nano", product="part", device="cpu")
    file = save_calibration(calibrate(plain, photos, "25%"), tmp_path / "part.json")
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu", calibration=file)
    results = [segmenter.segment(photo) for photo in photos]
    assert [result.score for result in results] == [photo.score for photo in segmenter.calibration.good]
    assert sum(bool(result.is_defective) for result in results) == 1  # k = 6 of 7
    assert sum(result.mask.any() for result in results) == 1
