"""DriftWatch: how often it warns for nothing, by simulation, and how soon it sees a change."""

from __future__ import annotations

import numpy as np
import pytest

from clipsam.calibrate import Calibration, PhotoScore
from clipsam.conformal import rate_of
from clipsam.drift import FEWEST, LAST, PER, RATE, STEP, WINDOW, DriftWatch


def calibration_of(scores: np.ndarray, rate: str = "5%") -> Calibration:
    photos = tuple(
        PhotoScore(str(number), f"{number:064x}", score, score)
        for number, score in enumerate(scores.tolist())
    )
    return Calibration(rate_of(rate), photos, {"product": "plate"})


def test_only_passed_parts_count_and_the_threshold_itself_is_left_out():
    watch = DriftWatch(calibration_of(np.arange(1, 100) / 100, "10%"))
    assert watch.summary()["good"] == 89  # of 99 the 90th is the threshold, and 9 lie above
    for score in (0.91, 0.95, 1.0):
        assert watch.add(score) is None
    assert watch.seen == 0
    watch.add(0.9)
    assert watch.seen == 1


def test_looks_come_at_steps_once_the_window_is_full():
    rng = np.random.default_rng(0)
    watch = DriftWatch(calibration_of(rng.random(400), "1%"))
    looks = []
    for _ in range(WINDOW + 3 * STEP):
        watch.add(rng.random() * 0.9)
        looks.append(watch.looks)
    assert looks[WINDOW - 2] == 0
    assert looks[WINDOW - 1] == 1
    assert looks[-1] == 4


@pytest.mark.parametrize(("count", "rate", "ties"), [(99, "5%", False), (60, "10%", False), (99, "5%", True)])
def test_false_warnings_are_as_rare_as_documented(count, rate, ties):
    """Calibrations and streams of the same parts: expected warnings per `PER` parts are at most `RATE`."""
    rng = np.random.default_rng(11)
    streams, length = 60, 2000
    draw = (lambda n: rng.beta(2, 5, n).round(1)) if ties else (lambda n: rng.beta(2, 5, n))
    warnings = passed = 0
    for _ in range(streams):
        watch = DriftWatch(calibration_of(draw(count), rate))
        for score in draw(length):
            watch.add(score)
        warnings += len(watch.warnings)
        passed += watch.seen
    assert passed > 100_000
    # At most 0.6 are expected, of which a calibration that is out of the ordinary may give several at once.
    assert warnings <= RATE * passed / PER + 3


def test_the_last_look_keeps_its_level():
    rng = np.random.default_rng(4)
    runs = 1500
    warned = 0
    for _ in range(runs):
        watch = DriftWatch(calibration_of(rng.beta(2, 5, 40), "5%"))
        for score in rng.beta(2, 5, 50):
            watch.add(score)
        warned += watch.finish() is not None
    assert warned / runs <= LAST + 3 * np.sqrt(LAST / runs)


def test_forgetting_the_truncation_would_warn():
    """Passed parts end at the threshold; held against all good photos they would look different."""
    rng = np.random.default_rng(2)
    from clipsam.drift import distance_p_value

    good = rng.random(400)
    watch = DriftWatch(calibration_of(good, "30%"))
    for score in rng.random(WINDOW * 2):
        watch.add(score)
    assert watch.warnings == []
    passed = rng.random(2000)
    passed = passed[passed <= calibration_of(good, "30%").score_threshold][:WINDOW]
    assert distance_p_value(passed, good) < RATE * STEP / PER  # what it is spared


def test_a_shift_is_seen_soon_and_told_once_per_window():
    rng = np.random.default_rng(8)
    watch = DriftWatch(calibration_of(rng.normal(0.3, 0.05, 200), "1%"))
    for score in rng.normal(0.3, 0.05, 1000):
        assert watch.add(score) is None
    said = [watch.add(score) for score in rng.normal(0.36, 0.05, 300)]
    first = next(number for number, warning in enumerate(said) if warning)
    assert first <= WINDOW
    warning = said[first]
    assert "higher than those of the calibration's good parts (median 0.3" in str(warning)
    assert warning.p_value < warning.level
    assert sum(warning is not None for warning in said[first:]) <= 1 + (300 - first) // WINDOW
    assert watch.summary()["warnings"][0]["sentence"] == str(warning)


def test_too_few_scores_say_nothing():
    watch = DriftWatch(calibration_of(np.linspace(0.1, 0.2, FEWEST), "10%"))  # one is the threshold
    for _ in range(WINDOW):
        assert watch.add(0.0) is None
    assert watch.finish() is None
    assert watch.looks == 0
    assert DriftWatch(calibration_of(np.linspace(0.1, 0.2, 30), "10%")).finish() is None
