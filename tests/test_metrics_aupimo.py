"""AUPIMO against the definition: recall per photo over the logarithm of the FPR on good photos."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from test_metrics import MAP_KINDS, blobs, measured, scored

from clipsam.errors import UsageError
from clipsam.metrics import PixelMetrics
from clipsam.metrics_aupimo import SAMPLES, recall_sample

Map = NDArray[np.float32]


def aupimo(anomaly_map: Map, mask: NDArray[np.bool_], good: list[Map], low: float, high: float) -> float:
    """One point per threshold, straight lines in log FPR, no false positive: the recall as it is."""
    thresholds = np.unique(np.concatenate([anomaly_map.ravel(), *(m.ravel() for m in good)]))[::-1]
    points = [(0.0, 0.0)]
    for threshold in thresholds:
        rates = [float((normal >= threshold).mean()) for normal in good]
        points.append((sum(rates) / len(rates), float((anomaly_map[mask] >= threshold).mean())))
    area = 0.0
    for (f0, r0), (f1, r1) in itertools.pairwise(points):
        left, right = max(f0, low), min(f1, high)
        if right <= left:
            continue
        if f0 == 0:
            area += r0 * math.log(right / left)
            continue
        at = [r0 + (r1 - r0) * math.log(f / f0) / math.log(f1 / f0) for f in (left, right)]
        area += sum(at) / 2 * math.log(right / left)
    return area / math.log(high / low)


def made(kind: str, seed: int, size: int, mask_kind: str = "rectangles") -> tuple[list[Map], list]:
    rng = np.random.default_rng([seed, MAP_KINDS.index(kind)])
    masks = [blobs(rng, (size, size), mask_kind if photo > 2 else "none") for photo in range(6)]
    return [scored(rng, mask, kind) for mask in masks], masks


@pytest.mark.parametrize("kind", MAP_KINDS)
@pytest.mark.parametrize("limits", [(0.003, 0.1), (1e-5, 1e-4), (0.2, 1.0)])
@pytest.mark.parametrize("mask_kind", ["rectangles", "pixels", "all"])
def test_every_photo_equals_the_definition(kind: str, limits: tuple[float, float], mask_kind: str) -> None:
    maps, masks = made(kind, 1, 16, mask_kind)  # few enough for exact bins
    found = measured(maps, masks).photo_overlaps(limits)
    expected = [aupimo(m, t, maps[:3], *limits) for m, t in zip(maps[3:], masks[3:], strict=True)]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", ["smooth", "peaked", "saturated"])
def test_bins_and_samples_stay_within_the_bound(kind: str) -> None:
    maps, masks = made(kind, 2, 400)
    metrics = measured(maps, masks)
    figures = metrics.compute()
    assert max(int(mask.sum()) for mask in masks) > SAMPLES
    # Thresholds below an FPR of 1e-4 are all that is needed of large maps.
    least = min(np.sort(np.concatenate([m.ravel() for m in maps[:3]]))[-60:])
    cut = [np.maximum(m, least) for m in maps]
    exact = np.mean([aupimo(m, t, cut[:3], 1e-5, 1e-4) for m, t in zip(cut[3:], masks[3:], strict=True)])
    assert abs(figures["aupimo"] - exact) <= figures["bounds"]["aupimo"] < 1e-3
    assert figures["aupimo"] == pytest.approx(exact, abs=1e-4)
    assert figures["aupimo"] == pytest.approx(metrics.photo_overlaps().mean())


def test_a_sample_shows_the_recall_at_every_threshold() -> None:
    rng = np.random.default_rng(0)
    for size in (1, SAMPLES, SAMPLES + 1, 3 * SAMPLES + 17):
        scores = np.round(rng.random(size), 3).astype(np.float32)
        sample = recall_sample(scores)
        assert sample.size == min(size, SAMPLES)
        for threshold in np.unique(scores):
            error = abs((sample >= threshold).mean() - (scores >= threshold).mean())
            assert error <= (0.5 / SAMPLES if size > SAMPLES else 0)


def test_best_worst_and_undefined() -> None:
    mask = np.eye(8, dtype=bool)
    good = np.full((8, 8), 0.5)
    for value, expected in [(0.9, 1.0), (0.1, 0.0)]:
        metrics = measured([np.where(mask, value, 0.5), good], [mask, np.zeros_like(mask)])
        assert metrics.compute()["aupimo"] == expected
    assert np.isnan(measured([good], [mask]).compute()["aupimo"])
    assert np.isnan(measured([good], [np.zeros_like(mask)]).compute()["aupimo"])
    assert np.isnan(measured([good], [mask]).photo_overlaps()).tolist() == [True]
    assert PixelMetrics().photo_overlaps().size == 0
    for wrong in [(0.0, 0.1), (0.1, 0.1), (0.1, 2.0)]:
        with pytest.raises(UsageError, match="limits"):
            PixelMetrics().photo_overlaps(wrong)
