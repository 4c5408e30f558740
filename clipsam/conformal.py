"""Split conformal thresholds: a cut on scores that good parts exceed at most as often as was asked.

Input: scores of good photos and a rate. Output: a threshold, the fewest photos that it takes, what can be
said about its true rate, intervals of counted shares. After Vovk, Gammerman and Shafer (2005) and Lei et al.
(2018, arXiv 1604.04173); intervals after Clopper and Pearson (1934). Knows nothing of photos, files and
models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.special import betaincinv

from clipsam.errors import CalibrationError, UsageError

CONFIDENCE = 0.95  # of every interval and bound that is told


def rate_of(given: str | float | Fraction) -> Fraction:
    """A rate such as "1%", "0.01" or 0.01, exactly; `UsageError` unless it lies between 0 and 1.

    Exactly, because ceil((1 - rate) (n + 1)) must not come out one too high for a rounding error; but never
    finer than a float is written, so that a file says the same.
    """
    text = str(given).strip()
    try:
        number = Fraction(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
        rate = Fraction(repr(float(number)))
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"the rate {text!r} is no number; expected one such as 1% or 0.01") from error
    if not 0 < rate < 1:
        raise UsageError(f"the rate is {text}; expected more than 0 and less than 100%, such as 1% or 0.01")
    return rate


def percent(rate: float | Fraction) -> str:
    """A rate in words: "1 %", "0.25 %"."""
    return f"{100 * float(rate):.3g} %"


def fewest_photos(rate: Fraction) -> int:
    """The smallest number of good photos that can promise `rate`: ceil(1 / rate) - 1."""
    return math.ceil(1 / rate) - 1


def threshold_rank(count: int, rate: Fraction) -> int:
    """Which of `count` scores, from the lowest, is the threshold: k = ceil((1 - rate) (count + 1)).

    Raises `CalibrationError` where that is more than there are.
    """
    if count < (fewest := fewest_photos(rate)):
        would_do = math.ceil(10_000 / (count + 1)) / 100
        raise CalibrationError(
            f"{count} good photos cannot promise at most {percent(rate)} of false alarms: that takes at "
            f"least {fewest}; add {fewest - count} more, or ask for {would_do:g} % or more"
        )
    return math.ceil((1 - rate) * (count + 1))


def conformal_threshold(scores: Sequence[float], rate: Fraction) -> float:
    """The threshold t of split conformal prediction: a part is flagged where its score is above t, strictly.

    Of n good parts and one more, in random order, the last is flagged with a probability of at most 1 - k /
    (n + 1) <= rate, with k of `threshold_rank`. This holds for every distribution of scores and with ties,
    because at most n + 1 - k of the n + 1 can lie strictly above the k-th lowest. (Flagging scores equal to t
    as well would flag every part where all scores are the same.)
    """
    rank = threshold_rank(len(scores), rate)
    return float(np.partition(np.asarray(scores, np.float64), rank - 1)[rank - 1])


def expected_rate(count: int, rate: Fraction) -> float:
    """1 - k / (n + 1): the mean false-alarm rate that was promised, where no scores are equal; else less."""
    return float(1 - Fraction(threshold_rank(count, rate), count + 1))


def rate_bound(count: int, rate: Fraction, confidence: float = CONFIDENCE) -> float:
    """What the true rate of this one threshold stays below with this confidence.

    The promise is a mean over the draw of the good photos. Given those that were drawn, the true rate is
    distributed as Beta(n + 1 - k, k) (Vovk 2012, arXiv 1209.2673), or below where there are ties.
    """
    rank = threshold_rank(count, rate)
    return float(betaincinv(count + 1 - rank, rank, confidence))


def share_interval(hits: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of Clopper and Pearson for a share of which `hits` of `count` were seen."""
    tail = (1 - confidence) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return low, high
