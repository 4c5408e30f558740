"""PixelMetrics: AUROC, PRO, AP, F1-max and AUPIMO of anomaly maps, streamed photo by photo.

Input: one anomaly map and one truth mask at a time, at the same resolution. Output: a dict of figures in
[0, 1]. Two halves of a data set add up with `+` to the very bits of the whole. Needs numpy and scipy only;
knows nothing of CLIP, of data sets or of files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from clipsam.errors import UsageError
from clipsam.metrics_aupimo import LIMITS, Scores, photo_overlaps, recall_sample
from clipsam.metrics_curves import (
    Floats,
    area_under_roc,
    average_precision,
    best_f1,
    exact_bins,
    overlap_curve,
    per_region_overlap,
)
from clipsam.metrics_histogram import AdaptiveHistogram
from clipsam.strips import bounds

# 1/area is stored as round(2**40 / area), so that sums are exact in any order. For a region of a million
# pixels the rounding moves the recall by less than 5e-7; 2**22 regions fit an int64.
_REGION_UNIT = 1 << 40
_MAX_REGIONS = 1 << 22
_EIGHT = np.ones((3, 3), bool)


class Curves(NamedTuple):
    """Pixel curves, one point per bin, thresholds descending: float64 [n] each; `fpr` and `recall` are the
    ROC, `recall` and `precision` the PR curve, `fpr` and `overlap` the PRO curve."""

    thresholds: Floats
    fpr: Floats
    recall: Floats
    precision: Floats
    overlap: Floats


class PixelMetrics:
    """Pixel and image figures of a zero-shot detector, pooled over the photos of one category.

    Args:
        range: lowest and highest value that a map may hold. Values are compared as float32 of their
            position in this range. Declared, not measured: a range per photo would change the ranking
            between photos.
        pro_limit: the FPR up to which PRO is integrated.

    Pool the photos of one category, then average categories; never average figures of single photos.
    Memory is about 10 MB, plus per photo 16 bytes for the image score and, of a defective one, at most 16 KB
    for AUPIMO.
    """

    def __init__(self, range: tuple[float, float] = (0.0, 1.0), *, pro_limit: float = 0.3) -> None:
        low, high = (float(bound) for bound in range)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"range is {range}; expected two finite numbers, the lower one first.")
        if not 0 < pro_limit <= 1:
            raise UsageError(
                f"pro_limit is {pro_limit}; expected a false positive rate above 0 and at most 1."
            )
        self.range = (low, high)
        self.pro_limit = float(pro_limit)
        self.regions = 0
        self._histogram = AdaptiveHistogram()
        self._scores: list[float] = []
        self._labels: list[bool] = []
        self._defects: list[Scores] = []

    @property
    def photos(self) -> int:
        """How many photos were counted."""
        return len(self._scores)

    def update(
        self, anomaly_map: ArrayLike, truth_mask: ArrayLike | None = None, image_score: float | None = None
    ) -> None:
        """Count one photo.

        Args:
            anomaly_map: real [H, W], within `range`; higher is more anomalous. Resize the map to the mask,
                or the mask with nearest neighbour to the map, and record which.
            truth_mask: [H, W], non-zero where defective; None for a good photo.
            image_score: any finite number; None takes the maximum of the map.

        Raises:
            UsageError: shapes differ, NaN, values out of range. Nothing of the photo has been counted then.
        """
        scores = self._checked_map(anomaly_map)
        mask = _checked_mask(truth_mask, scores.shape)
        score = float(scores.max()) if image_score is None else float(image_score)
        if not math.isfinite(score):
            raise UsageError(f"image_score is {score}; expected a finite number.")
        pixels, weights, regions = _region_weights(mask)
        if self.regions + regions > _MAX_REGIONS:
            raise UsageError(f"more than {_MAX_REGIONS} defect regions; are the masks noise?")
        unit = self._unit(scores).ravel()
        self._histogram.add(unit, pixels, weights)
        if pixels.size:
            self._defects.append(recall_sample(unit[pixels]))
        self.regions += regions
        self._scores.append(score)
        self._labels.append(pixels.size > 0)

    def update_score(self, image_score: float, is_defective: bool) -> None:
        """Count a photo that has a label but no mask: for the image figures only."""
        if not math.isfinite(image_score):
            raise UsageError(f"image_score is {image_score}; expected a finite number.")
        self._scores.append(float(image_score))
        self._labels.append(bool(is_defective))

    def __add__(self, other: PixelMetrics) -> PixelMetrics:
        """The metrics of both sets of photos; the same bits in whatever order parts are added."""
        if not isinstance(other, PixelMetrics):
            return NotImplemented
        if (self.range, self.pro_limit) != (other.range, other.pro_limit):
            raise UsageError(
                f"metrics of range {self.range}, pro_limit {self.pro_limit} cannot be added to metrics of "
                f"range {other.range}, pro_limit {other.pro_limit}; build both with the same arguments."
            )
        total = deepcopy(self)
        total._histogram.merge(other._histogram)
        total.regions += other.regions
        total._scores += other._scores
        total._labels += other._labels
        total._defects += other._defects
        return total

    def compute(self) -> dict[str, Any]:
        """All figures as floats in [0, 1]; NaN where undefined (no defect seen, or nothing but defects).

        `pixel_auroc`, `pro` (at `pro_limit`), `pixel_ap`, `pixel_f1_max`, `image_auroc`, `image_ap`,
        `image_f1_max` as defined in `metrics_curves.py`; `pro_005` is PRO at an FPR of 0.05; `aupimo` is
        the mean of `photo_overlaps()`; `pixel_iou` and `pixel_dice` are of the pooled pixels at
        `pixel_threshold`, where `map >= pixel_threshold` reaches F1-max (dice is then F1-max itself);
        `image_threshold` likewise. `bounds` says for each pixel figure by how much binning could at most
        have moved it (0.0: exact). Counts: `photos`, `defective`, `regions`.
        """
        bins = self._histogram.bins()
        pixel = {
            "pixel_auroc": area_under_roc(bins),
            "pro": per_region_overlap(bins, self.pro_limit),
            "pixel_ap": average_precision(bins),
            "pro_005": per_region_overlap(bins, 0.05),
        }
        f1 = best_f1(bins)
        overlaps, overlap_bound = photo_overlaps(bins, self._defects)
        labels = np.array(self._labels, bool)
        images = exact_bins(np.array(self._scores, np.float64), labels)
        image_f1 = best_f1(images)
        bounds = {name: figure.bound for name, figure in pixel.items()}
        bounds |= {"pixel_f1_max": f1.bound, "aupimo": overlap_bound}
        low, high = self.range
        return {
            "pixel_auroc": pixel["pixel_auroc"].value,
            "pro": pixel["pro"].value,
            "pixel_ap": pixel["pixel_ap"].value,
            "pixel_f1_max": f1.value,
            "image_auroc": area_under_roc(images).value,
            "image_ap": average_precision(images).value,
            "image_f1_max": image_f1.value,
            "pro_005": pixel["pro_005"].value,
            # fsum rounds once, so that the order of the photos does not matter.
            "aupimo": math.fsum(overlaps) / overlaps.size if overlaps.size else math.nan,
            "pixel_threshold": low + f1.threshold * (high - low),
            "pixel_iou": f1.value / (2 - f1.value),
            "pixel_dice": f1.value,
            "image_threshold": image_f1.threshold,
            "photos": self.photos,
            "defective": int(labels.sum()),
            "regions": self.regions,
            "bounds": bounds,
        }

    def photo_overlaps(self, limits: tuple[float, float] = LIMITS) -> Floats:
        """AUPIMO of each defective photo, float64 [n] in the order of counting, over FPRs between `limits`;
        NaN without a good photo. Its definition is in `metrics_aupimo.py`."""
        low, high = limits
        if not 0 < low < high <= 1:
            raise UsageError(f"limits are {limits}; expected two false positive rates, 0 < low < high <= 1.")
        return photo_overlaps(self._histogram.bins(), self._defects, limits)[0]

    def curves(self) -> Curves:
        """The pixel ROC, PR and PRO curves, for plotting; NaN-free only when both kinds of pixel were
        seen."""
        bins = self._histogram.bins()
        low, high = self.range
        true, false = np.cumsum(bins.positives), np.cumsum(bins.negatives)
        fpr, overlap = overlap_curve(bins)
        return Curves(
            thresholds=low + bins.lower * (high - low),
            fpr=fpr[1:],
            recall=true / max(int(bins.positives.sum()), 1),
            precision=true / (true + false),
            overlap=overlap[1:],
        )

    def _checked_map(self, anomaly_map: ArrayLike) -> NDArray[np.floating[Any]]:
        scores = np.asarray(anomaly_map)
        if scores.ndim != 2 or scores.size == 0:
            raise UsageError(f"anomaly_map has shape {scores.shape}; expected a non-empty [H, W].")
        if scores.dtype.kind not in "fiub":
            raise UsageError(f"anomaly_map holds {scores.dtype}; expected real numbers.")
        if scores.dtype not in (np.float32, np.float64):
            scores = scores.astype(np.float64)
        low, high = self.range
        lowest, highest = float(scores.min()), float(scores.max())  # NaN if any pixel is
        if math.isnan(lowest):
            raise UsageError(
                f"anomaly_map has {int(np.isnan(scores).sum())} NaN pixels; a map must be finite."
            )
        if lowest < low or highest > high:
            raise UsageError(
                f"anomaly_map spans [{lowest:g}, {highest:g}], outside the declared range "
                f"[{low:g}, {high:g}]; declare PixelMetrics(range=(low, high)) once for all photos."
            )
        return scores

    def _unit(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The position in the declared range, float32 in [0, 1]."""
        low, high = self.range
        if (low, high) == (0.0, 1.0):
            return scores.astype(np.float32, copy=False)
        return ((scores.astype(np.float64) - low) / (high - low)).astype(np.float32)


def pasted_threshold_loop_pro(
    maps: Sequence[NDArray[np.floating[Any]]],
    masks: Sequence[NDArray[Any]],
    *,
    limit: float = 0.3,
    thresholds: int = 200,
) -> float:
    """PRO as most zero-shot repositories compute it (`cal_pro_score`), to reproduce their tables; not the
    definition.

    200 thresholds evenly spaced between the lowest and highest score, so that the figure depends on how
    the scores are spread and not only on their order; FPR below the limit is stretched to [0, 1] from its
    own minimum and maximum, without interpolation at the limit. Regions are labelled anew at every
    threshold, as there.

    Args:
        maps: [H, W] each, all the same size. masks: [H, W] each, non-zero where defective.
    """
    stack, truth = np.asarray(maps), np.asarray(masks) != 0
    lowest, highest = float(stack.min()), float(stack.max())
    if lowest == highest:
        return float("nan")
    overlaps, rates = [], []
    for threshold in np.arange(lowest, highest, (highest - lowest) / thresholds):
        flagged = stack > threshold
        hits = []
        for binary, mask in zip(flagged, truth, strict=True):
            labels, count = ndimage.label(mask, _EIGHT)
            for region in range(1, count + 1):
                hits.append(binary[labels == region].mean())
        overlaps.append(np.mean(hits))
        rates.append((flagged & ~truth).sum() / (~truth).sum())
    rate, overlap = np.array(rates), np.array(overlaps)
    kept = rate < limit
    rate, overlap = rate[kept], overlap[kept]
    if rate.size < 2 or rate.max() == rate.min():
        return float("nan")
    stretched = (rate - rate.min()) / (rate.max() - rate.min())
    order = np.argsort(stretched, kind="stable")
    return float(np.trapezoid(overlap[order], stretched[order]))


def _checked_mask(truth_mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if truth_mask is None:
        return None
    mask = np.asarray(truth_mask)
    if mask.shape != shape:
        raise UsageError(
            f"truth_mask has shape {mask.shape} and anomaly_map {shape}; resize the map, or the mask with "
            "nearest neighbour, so that both are the same."
        )
    return mask if mask.dtype == bool else mask != 0


def _region_weights(mask: NDArray[np.bool_] | None) -> tuple[NDArray[np.intp], NDArray[np.int64], int]:
    """Flat indices of the defect pixels (ascending), their 1/area in units of 2**-40, and the number of
    regions."""
    nothing = np.empty(0, np.intp), np.empty(0, np.int64), 0
    if mask is None:
        return nothing
    box = bounds(mask)
    if box is None:
        return nothing
    x0, y0, x1, y1 = box
    crop = np.s_[y0:y1, x0:x1]
    labels, count = ndimage.label(mask[crop], _EIGHT)
    inside = np.flatnonzero(mask[crop])
    owner = labels.ravel()[inside]
    areas = np.bincount(owner, minlength=count + 1)
    share = (_REGION_UNIT + areas // 2) // np.maximum(areas, 1)
    y, x = np.divmod(inside, labels.shape[1])
    return (y + y0) * mask.shape[1] + x + x0, share[owner], int(count)
