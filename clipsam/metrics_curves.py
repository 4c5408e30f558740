"""Figures of a ranking from binned counts: AUROC, AP, F1-max and PRO, each with a bound on what the bins
can hide.

Input: `Bins` (counts per bin, highest score first). Output: `Figure(value, bound)`: the value, where equal
scores are ties and different scores of one bin evenly mixed, and how far another order inside the bins could
move it. Knows nothing of maps, masks or files. A figure that is undefined (no positives, or no negatives
where they are needed) is NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipsam.metrics_histogram import Bins

Floats = NDArray[np.float64]


class Figure(NamedTuple):
    """A metric in [0, 1] (NaN: undefined) and the largest error that binning can have caused."""

    value: float
    bound: float


class BestF1(NamedTuple):
    """The highest F1 over all thresholds; `threshold` is where `score >= threshold` reaches it."""

    value: float
    bound: float
    threshold: float


UNDEFINED = Figure(float("nan"), float("nan"))


def area_under_roc(bins: Bins) -> Figure:
    """AUROC: the probability that a positive outranks a negative, ties counting one half (Hanley & McNeil
    1982)."""
    pairs = float(bins.negatives.sum()) * float(bins.positives.sum())
    if pairs == 0:
        return UNDEFINED
    tied = bins.negatives.astype(np.float64) * bins.positives
    above = np.cumsum(bins.positives) - bins.positives
    value = float(np.sum(bins.negatives.astype(np.float64) * above + tied / 2)) / pairs
    return Figure(value, float(np.sum(tied[~bins.single])) / 2 / pairs)


def average_precision(bins: Bins) -> Figure:
    """AP: the step-wise sum of precision over recall, tied scores merged (scikit-learn's definition), no
    trapezoid."""
    positives = int(bins.positives.sum())
    if positives == 0:
        return UNDEFINED
    step = bins.positives.astype(np.float64)
    true = np.cumsum(bins.positives).astype(np.float64)
    false = np.cumsum(bins.negatives).astype(np.float64)
    # True ties move together. Evenly mixed, half of a bin's other scores come after the average positive.
    after = np.where(bins.single, 0.0, 0.5)
    others = step + bins.negatives - 1
    terms = step * (true - after * (step - 1)) / np.maximum(true + false - after * others, 1)
    # The best order puts a bin's positives first, the worst its negatives.
    best = step * true / np.maximum(true + false - bins.negatives, 1)
    first = true - step + (step > 0)
    worst = step * first / np.maximum(first + false, 1)
    unsure = ~bins.single
    spread = max(float(np.sum((best - terms)[unsure])), float(np.sum((terms - worst)[unsure])))
    return Figure(float(np.sum(terms)) / positives, spread / positives)


def best_f1(bins: Bins) -> BestF1:
    """F1-max = max over thresholds of 2 TP / (2 TP + FP + FN); of equal ones the highest threshold."""
    positives = int(bins.positives.sum())
    if positives == 0:
        return BestF1(*UNDEFINED, float("nan"))
    true = np.cumsum(bins.positives).astype(np.float64)
    false = np.cumsum(bins.negatives).astype(np.float64)
    f1 = 2 * true / (true + false + positives)
    best = int(np.argmax(f1))
    hidden = np.where(bins.single, f1, 2 * true / (true + false - bins.negatives + positives))
    value = float(f1[best])
    return BestF1(value, max(float(hidden.max()) - value, 0.0), float(bins.lower[best]))


def per_region_overlap(bins: Bins, limit: float) -> Figure:
    """PRO: the mean recall over 8-connected regions, integrated over FPR from 0 to `limit`, divided by
    `limit`.

    The definition of the MVTec AD authors (Bergmann et al., IJCV 2021, section 5.2): every threshold
    counts, tied scores move together, and the curve is interpolated linearly at the limit. `bins.weights`
    holds 1/area per pixel in some fixed unit, so that their cumulative sum is the mean recall.
    """
    negatives, unit = int(bins.negatives.sum()), int(bins.weights.sum())
    if negatives == 0 or unit == 0:
        return UNDEFINED
    fpr, pro = overlap_curve(bins)
    last = int(np.searchsorted(fpr, limit, side="left"))  # fpr[last] >= limit; fpr ends at 1
    width = np.diff(fpr[: last + 1])
    height = np.diff(pro[: last + 1])
    area = float(np.sum(width * (pro[1 : last + 1] + pro[:last]) / 2))
    unsure = ~bins.single[:last]
    hidden = float(np.sum((width * height)[unsure])) / 2
    excess = fpr[last] - limit
    if excess > 0:
        at_limit = pro[last] - height[-1] * (excess / width[-1])
        area -= float(excess * (at_limit + pro[last]) / 2)
        # In the bin that is cut, the true curve may be anywhere between its two corners up to the limit.
        hidden += float(unsure[-1]) * float((limit - fpr[last - 1]) * height[-1])
    return Figure(min(area / limit, 1.0), hidden / limit)


def overlap_curve(bins: Bins) -> tuple[Floats, Floats]:
    """FPR and mean region recall at every threshold, from (0, 0) to (1, 1), float64 [n + 1] each."""
    fpr = np.cumsum(bins.negatives) / max(int(bins.negatives.sum()), 1)
    pro = np.cumsum(bins.weights) / max(int(bins.weights.sum()), 1)
    return np.concatenate([[0.0], fpr]), np.concatenate([[0.0], pro])


def exact_bins(scores: Floats, positive: NDArray[np.bool_]) -> Bins:
    """One bin per distinct score: what the histogram would be with unlimited memory. `weights` and `good` are
    zero."""
    values, index = np.unique(scores, return_inverse=True)
    size = values.size
    hits = np.bincount(index[positive], minlength=size)[::-1]
    everything = np.bincount(index, minlength=size)[::-1]
    none = np.zeros(size, np.int64)
    return Bins(values[::-1], np.ones(size, bool), everything - hits, hits, none, none)
