"""The measurement of the promise: it holds on drawn scores and with ties, notices a broken promise, and
what it found with the shipped weights holds too.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from clipsam.calibrate import Calibration, PhotoScore

EVAL = Path(__file__).parents[1] / "eval"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eval_calibration", EVAL / "calibration.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photos_of(scores: np.ndarray, peaks: np.ndarray) -> list[PhotoScore]:
    pairs = zip(scores.tolist(), peaks.tolist(), strict=True)
    return [PhotoScore(str(n), str(n), score, peak) for n, (score, peak) in enumerate(pairs)]


@pytest.fixture(scope="module")
def photos() -> list[PhotoScore]:
    rng = np.random.default_rng(6)
    return photos_of(rng.beta(8, 2, 240), rng.beta(9, 2, 240))


def test_the_promise_holds_over_splits_and_is_used(measure, photos):
    for row in measure.split_rows("drawn", photos):
        assert row["holds"]
        assert (row["calibrating"], row["tested"]) == (120, 120)
        for kind in measure.MEASURES:
            slack = row["expected_at_most"] - row[kind]["mean"]
            assert abs(slack) <= 3 * row[kind]["error"]  # no ties: the mean is what is expected, no less


def test_ties_and_constant_scores(measure, photos):
    pools = measure.pools(
        {"cup": {"train": photos[:120], "test": photos[120:]}, "rendered": {"test": photos}}
    )
    assert set(pools) == {
        "cup", "rendered", "all real", "all real, one decimal", "all real, constant",
        "rendered, one decimal", "rendered, constant",
    }  # fmt: skip
    for name in ("rendered, one decimal", "rendered, constant"):
        for row in measure.split_rows(name, pools[name]):
            assert row["holds"]
            assert "constant" not in name or row["verdict"]["mean"] == row["mask"]["mean"] == 0


def test_a_broken_promise_is_noticed(measure, photos, monkeypatch):
    monkeypatch.setattr(Calibration, "is_defective", lambda self, score: score >= self.score_threshold - 0.02)
    assert not all(row["holds"] for row in measure.split_rows("drawn", photos))


def test_too_few_photos_are_said(measure, photos):
    rows = {row["promised"]: row for row in measure.split_rows("few", photos[:60])}
    assert rows[0.01]["too_few"] == "60 good photos; a split takes 119"
    assert rows[0.05]["holds"]


def test_the_kept_figures_hold():
    result = json.loads((EVAL / "results" / "nano" / "calibration.json").read_text("utf-8"))
    rows = [row for row in result["held_out"] if "too_few" not in row]
    assert result["splits"] == 200
    assert {row["promised"] for row in rows} == {0.01, 0.05, 0.1}
    assert {"all real", "rendered", "bottle", "magnetic_tile"} <= {row["set"] for row in rows}
    for row in rows:
        for kind in ("verdict", "mask"):
            assert row[kind]["mean"] <= row["promised"] + 3 * row[kind]["error"], row["set"]
