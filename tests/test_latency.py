"""Quantiles in constant memory, and whether a step fits: against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from clipsam.latency import MARGIN, PROBE_AFTER, RECENT, CostEstimate, LatencyHistogram


def test_quantiles_are_at_most_two_per_cent_too_high() -> None:
    times = np.random.default_rng(0).lognormal(-3, 1.2, 5000)
    histogram = LatencyHistogram()
    for seconds in times:
        histogram.add(float(seconds))
    for part in (0.0, 0.5, 0.95, 0.99, 1.0):
        exact = np.quantile(times, part, method="inverted_cdf")
        assert exact <= histogram.quantile(part) <= 1.02 * exact * (1 + 1e-9)
    found = histogram.quantiles()
    assert found.count == 5000
    assert found.longest == times.max()
    assert found.as_dict()["p50_ms"] == pytest.approx(1e3 * np.median(times), rel=0.03)


def test_times_beyond_the_bins_and_none_at_all() -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile(0.99) == 0
    histogram.add(0.0)
    histogram.add(1e6)
    assert histogram.quantile(0.5) == pytest.approx(1e-5)
    assert histogram.quantile(1.0) == pytest.approx(1000, rel=0.02)


def test_one_slow_step_in_many_refuses_nothing() -> None:
    estimate = CostEstimate()
    for _ in range(RECENT - 1):
        estimate.add(0.1)
    estimate.add(5.0)
    assert estimate.seconds == pytest.approx(0.1 * MARGIN, rel=0.01)
    assert estimate.fits(0.12)
    assert not estimate.fits(0.10)


def test_a_step_that_never_fits_is_tried_again_now_and_then() -> None:
    estimate = CostEstimate()
    estimate.add(1.0)
    answers = []
    for _ in range(3 * PROBE_AFTER):
        answers.append(estimate.fits(0.5))
        if answers[-1]:
            estimate.add(1.0)  # still too slow
    assert sum(answers) == 3
    assert answers[PROBE_AFTER - 1]
    for _ in range(PROBE_AFTER):
        if estimate.fits(0.5):
            estimate.add(0.2)  # quick again
    assert all(estimate.fits(0.5) for _ in range(5))
