"""AUPIMO: how much of each defect is found where good photos have next to no false positive.

Bertoldo et al. 2024, "AUPIMO: Redefining Anomaly Localization Benchmarks with High Speed and Low Tolerance",
arXiv 2401.01984. Input: the binned scores of a data set and a sample of the scores on each defect. Output:
one figure in [0, 1] per defective photo, and a bound on what bins and samples can have moved their mean.
Knows nothing of maps, masks or files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipsam.metrics_curves import Floats
from clipsam.metrics_histogram import Bins

LIMITS = (1e-5, 1e-4)  # the range of FPR that the authors integrate over
SAMPLES = 4096

Scores = NDArray[np.float32]


def recall_sample(scores: Scores) -> Scores:
    """At most `SAMPLES` of the scores on one photo's defect, ascending, that stand for all of them.

    Every (m / SAMPLES)-th of m ordered scores, from the middle of the first step on: the share of the sample
    above any threshold is off by at most half a sample.
    """
    ordered = np.sort(scores)
    if ordered.size <= SAMPLES:
        return ordered
    return ordered[(2 * np.arange(SAMPLES) + 1) * ordered.size // (2 * SAMPLES)]


def photo_overlaps(
    bins: Bins, samples: Sequence[Scores], limits: tuple[float, float] = LIMITS
) -> tuple[Floats, float]:
    """AUPIMO of each defective photo [n], and by how much their mean can be off.

    A photo's recall as a function of the FPR on the photos without any defect, integrated over the logarithm
    of the FPR between the limits and divided by the length of that range. Points of the curve are joined by
    straight lines, as by the authors; left of the first false positive the recall is the one without any.
    The FPR is pooled over the pixels of good photos, which is the authors' mean of the photos' rates where
    all are of one size. NaN without a good photo; empty without a defective one.
    """
    good = int(bins.good.sum())
    if good == 0 or not samples:
        return np.full(len(samples), np.nan), float("nan")
    fpr = np.cumsum(bins.good) / good
    within = slice(0, int(np.searchsorted(fpr, limits[1])) + 1)
    weights, slack = _recall_weights(fpr[within], bins.single[within], limits)
    values = _weighted_recalls(weights, bins.lower[within], samples)
    # The curve may run anywhere between the recalls at the two ends of a bin.
    hidden = _weighted_recalls(slack - np.append(slack[1:], 0.0), bins.lower[within], samples)
    sampled = any(sample.size == SAMPLES for sample in samples) / (2 * SAMPLES)
    return np.clip(values, 0.0, 1.0), float(np.mean(hidden)) + sampled


def _recall_weights(
    fpr: Floats, single: NDArray[np.bool_], limits: tuple[float, float]
) -> tuple[Floats, Floats]:
    """By how much the recall at each bin's lower edge counts [n], and the share of the range over which it is
    uncertain between this bin and the one above [n]. Both depend on the good photos alone."""
    low, high = np.log(limits)
    with np.errstate(divide="ignore"):
        end = np.log(fpr)
    start = np.append(-np.inf, end[:-1])
    left, right = np.clip(start, low, high), np.clip(end, low, high)
    share = (right - left) / (high - low)
    # Where in its segment the middle of the part within the limits lies; 0 where the segment begins at zero.
    joined = np.isfinite(start) & (end > start)
    with np.errstate(invalid="ignore"):
        middle = np.where(joined, ((left + right) / 2 - start) / np.where(joined, end - start, 1), 0.0)
    before = share * (1 - middle)  # weighs the recall at the bin above; above the first bin there is none
    slack = np.where(single, 0.0, share * np.maximum(middle, 1 - middle))
    return share * middle + np.append(before[1:], 0.0), slack


def _weighted_recalls(weights: Floats, lower: Floats, samples: Sequence[Scores]) -> Floats:
    """Sum over bins of a weight times the share of the sample that is not below the bin, per sample."""
    used = np.flatnonzero(weights)[::-1]
    edges = lower[used].astype(np.float32)  # exact, as bins are of float32 scores
    reached = np.append(0.0, np.cumsum(weights[used]))
    return np.array([reached[np.searchsorted(edges, sample, side="right")].mean() for sample in samples])
