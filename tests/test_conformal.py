"""Conformal thresholds: ranks by hand, rounding traps, the promise over random draws and ties."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from clipsam.conformal import (
    conformal_threshold,
    expected_rate,
    fewest_photos,
    rate_bound,
    rate_of,
    share_interval,
    threshold_rank,
)
from clipsam.errors import CalibrationError, UsageError


@pytest.mark.parametrize(
    ("given", "rate"),
    [("1%", (1, 100)), (" 5 % ", (1, 20)), ("0.01", (1, 100)), (0.1, (1, 10)), ("0.7%", (7, 1000))],
)
def test_rates_are_exact(given, rate):
    assert rate_of(given) == Fraction(*rate)


@pytest.mark.parametrize("given", ["0", "0%", "100%", "1.0", "-1%", "120%", "nan", "inf", "few", ""])
def test_rates_that_make_no_sense(given):
    with pytest.raises(UsageError, match=r"expected .* such as 1%"):
        rate_of(given)


@pytest.mark.parametrize(
    ("rate", "fewest"), [("50%", 1), ("10%", 9), ("5%", 19), ("1%", 99), ("0.1%", 999), ("0.3", 3)]
)
def test_the_fewest_photos_are_just_enough(rate, fewest):
    assert fewest_photos(rate_of(rate)) == fewest
    assert threshold_rank(fewest, rate_of(rate)) == fewest  # the highest score is the threshold
    if fewest > 1:
        with pytest.raises(CalibrationError, match=rf"at least {fewest}; add 1 more"):
            threshold_rank(fewest - 1, rate_of(rate))


def test_the_refusal_names_a_rate_that_would_do():
    with pytest.raises(
        CalibrationError, match=r"40 good photos .* 1 % .* at least 99; add 59 more, .* 2.44 %"
    ):
        threshold_rank(40, rate_of("1%"))


def test_ranks_do_not_suffer_from_rounding():
    # (1 - 0.1) * (29 + 1) is 27 exactly, but 27.000000000000004 in floats if computed as 30 - 0.1 * 30 ... 28
    for rate in ("1%", "5%", "10%", "0.7%", "30%"):
        alpha = rate_of(rate)
        for count in range(fewest_photos(alpha), 700):
            rank = threshold_rank(count, alpha)
            assert count + 1 - rank <= alpha * (count + 1)  # at most so many of n + 1 lie above
            assert count + 1 - (rank - 1) > alpha * (count + 1)  # and a lower rank would be too many


def test_the_threshold_is_the_score_of_that_rank():
    scores = [0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.4, 0.8, 0.6]
    assert conformal_threshold(scores, rate_of("10%")) == 0.9
    assert conformal_threshold(scores, rate_of("20%")) == 0.8
    assert conformal_threshold([*scores, 0.9], rate_of("10%")) == 0.9
    assert conformal_threshold(scores, rate_of("25%")) == 0.8  # 7.5 is rounded up


@pytest.mark.parametrize("draw", ["continuous", "rounded", "two values", "constant"])
@pytest.mark.parametrize("rate", ["1%", "5%", "10%"])
def test_the_promise_holds_over_many_draws(draw, rate):
    rng = np.random.default_rng(7)
    values = {
        "continuous": lambda n: rng.beta(2, 5, n),
        "rounded": lambda n: rng.beta(2, 5, n).round(1),
        "two values": lambda n: (rng.random(n) < 0.03).astype(float),
        "constant": lambda n: np.full(n, 0.5),
    }[draw]
    alpha, count, rounds = rate_of(rate), 120, 3000
    false = np.array([(values(50) > conformal_threshold(values(count), alpha)).mean() for _ in range(rounds)])
    error = false.std() / np.sqrt(rounds)
    assert false.mean() <= expected_rate(count, alpha) + 3 * error
    if draw == "continuous":  # and it is not kept by never flagging anything
        assert false.mean() >= expected_rate(count, alpha) - 3 * error
    if draw == "constant":
        assert false.max() == 0


def test_the_bound_holds_for_the_true_rate_of_single_thresholds():
    rng = np.random.default_rng(3)
    alpha, count = rate_of("5%"), 100
    # Uniform scores: the true rate of a threshold t is 1 - t.
    rates = np.array([1 - conformal_threshold(rng.random(count), alpha) for _ in range(4000)])
    assert (rates <= rate_bound(count, alpha)).mean() == pytest.approx(0.95, abs=0.012)
    assert rates.mean() == pytest.approx(expected_rate(count, alpha), abs=0.001)


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 40), (20, 20), (1, 1), (57, 63)])
def test_the_interval_is_that_of_clopper_and_pearson(hits, count):
    oracle = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
    assert share_interval(hits, count) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
