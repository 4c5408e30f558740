"""PixelMetrics against references written straight from the definitions, and against scikit-learn."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from clipsam.errors import UsageError
from clipsam.metrics import PixelMetrics, pasted_threshold_loop_pro
from clipsam.metrics_histogram import TOP_KEY, AdaptiveHistogram, key_scores, score_keys

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


def flood_regions(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """8-connected regions by flood fill: the definition, without scipy."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    regions = []
    while left:
        stack, region = [left.pop()], []
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            stack += near
        regions.append(region)
    return regions


def exact_pro(maps: Maps, masks: Masks, limit: float) -> float:
    """PRO by sorting: one curve point per distinct score, trapezoid to the limit, interpolated there."""
    scores = np.concatenate([m.ravel() for m in maps]).astype(np.float64)
    defect = np.concatenate([m.ravel() for m in masks])
    weights = []
    for mask in masks:
        weight = np.zeros(mask.shape)
        for region in flood_regions(mask):
            for pixel in region:
                weight[pixel] = 1 / len(region)
        weights.append(weight.ravel())
    order = np.argsort(-scores, kind="stable")
    scores, defect, weight = scores[order], defect[order], np.concatenate(weights)[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), scores.size - 1)
    fpr = np.append(0, np.cumsum(~defect)[last_of_tie] / (~defect).sum())
    pro = np.append(0, np.cumsum(weight)[last_of_tie] / weight.sum())
    at_limit = np.interp(limit, fpr, pro)
    inside = fpr <= limit
    fpr, pro = np.append(fpr[inside], limit), np.append(pro[inside], at_limit)
    return float(np.trapezoid(pro, fpr) / limit)


def sklearn_f1_max(labels: NDArray[np.bool_], scores: NDArray[np.float32]) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall
    return float(np.max(np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0)))


def blobs(rng: np.random.Generator, size: tuple[int, int], kind: str) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    if kind == "pixels":
        mask[rng.integers(0, size[0], 3), rng.integers(0, size[1], 3)] = True
    elif kind == "touching":  # diagonal neighbours: one region for 8-connectivity, two for 4
        mask[1:3, 1:3] = mask[3:6, 3:5] = True
    elif kind == "rectangles":
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, size[0] - 2), rng.integers(0, size[1] - 2)
            mask[y : y + rng.integers(1, size[0] // 2), x : x + rng.integers(1, size[1] // 2)] = True
    elif kind == "noise":
        mask = rng.random(size) < 0.2
    elif kind == "all":
        mask[:] = True
    return mask


def scored(rng: np.random.Generator, mask: NDArray[np.bool_], kind: str) -> NDArray[np.float32]:
    signal = rng.normal(size=mask.shape) + 1.5 * mask
    with np.errstate(over="ignore"):
        values = {
            "smooth": 1 / (1 + np.exp(-signal)),
            "ties": np.round(1 / (1 + np.exp(-signal)) * 8) / 8,
            "constant": np.full(mask.shape, 0.37),
            "peaked": 1 / (1 + np.exp(-20 * (signal - 4))),  # nearly everything below 1e-6
            "saturated": 1 / (1 + np.exp(-12 * (signal + 1.2))),  # half of it within float32 of 1
            "extreme": 1 / (1 + np.exp(-60 * signal)),  # from subnormal floats to exactly 1
            "inverted": 1 / (1 + np.exp(signal)),
            "hard": (signal > 1).astype(float),
            "narrow": 0.5 + 1e-5 * np.tanh(signal),
            "clipped": np.clip(signal / 4, 0, 1),
        }[kind]
    return values.astype(np.float32)


MAP_KINDS = ["smooth", "ties", "constant", "peaked", "saturated", "extreme", "inverted", "hard", "narrow"]
MAP_KINDS += ["clipped"]
MASK_KINDS = ["pixels", "touching", "rectangles", "noise", "all"]


CASES = list(itertools.product(MAP_KINDS, MASK_KINDS, range(5)))


def make_case(map_kind: str, mask_kind: str, seed: int) -> tuple[Maps, Masks]:
    rng = np.random.default_rng([seed, MAP_KINDS.index(map_kind), MASK_KINDS.index(mask_kind)])
    masks: Masks = []
    for photo in range(rng.integers(2, 5)):
        size = tuple(int(n) for n in rng.integers(8, 40, 2))
        masks.append(blobs(rng, size, mask_kind if photo else "none"))
    return [scored(rng, mask, map_kind) for mask in masks], masks


def measured(maps: Maps, masks: Masks, **options: float) -> PixelMetrics:
    metrics = PixelMetrics(**options)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
    return metrics


@pytest.mark.parametrize(("map_kind", "mask_kind", "seed"), CASES)
def test_figures_equal_the_references(map_kind: str, mask_kind: str, seed: int) -> None:
    maps, masks = make_case(map_kind, mask_kind, seed)
    figures = measured(maps, masks).compute()
    labels = np.concatenate([m.ravel() for m in masks])
    scores = np.concatenate([m.ravel() for m in maps])
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-3)
    assert figures["pixel_f1_max"] == pytest.approx(sklearn_f1_max(labels, scores), abs=1e-4)
    assert figures["pro"] == pytest.approx(exact_pro(maps, masks, 0.3), abs=1e-4)
    assert figures["pro_005"] == pytest.approx(exact_pro(maps, masks, 0.05), abs=1e-4)
    tops, defective = np.array([m.max() for m in maps]), np.array([m.any() for m in masks])
    assert figures["image_auroc"] == pytest.approx(roc_auc_score(defective, tops), abs=1e-9)
    assert figures["image_ap"] == pytest.approx(average_precision_score(defective, tops), abs=1e-9)
    assert figures["image_f1_max"] == pytest.approx(sklearn_f1_max(defective, tops), abs=1e-9)
    flagged = scores >= figures["pixel_threshold"]
    both, either = (flagged & labels).sum(), (flagged | labels).sum()
    assert figures["pixel_iou"] == pytest.approx(both / either, abs=1e-4)
    assert figures["pixel_dice"] == pytest.approx(2 * both / (flagged.sum() + labels.sum()), abs=1e-4)


@pytest.mark.parametrize("map_kind", ["smooth", "peaked", "saturated", "extreme", "clipped"])
def test_many_pixels_are_binned_and_stay_within_their_bounds(map_kind: str) -> None:
    """A million pixels no longer fit one bin per distinct score."""
    rng = np.random.default_rng(7)
    masks = [blobs(rng, (512, 512), "rectangles") for _ in range(4)]
    maps = [scored(rng, mask, map_kind) for mask in masks]
    metrics = measured(maps, masks)
    assert map_kind == "saturated" or metrics._histogram.level > 0
    figures = metrics.compute()
    labels = np.concatenate([m.ravel() for m in masks])
    scores = np.concatenate([m.ravel() for m in maps])
    truth = {
        "pixel_auroc": roc_auc_score(labels, scores),
        "pixel_ap": average_precision_score(labels, scores),
        "pixel_f1_max": sklearn_f1_max(labels, scores),
    }
    for name, expected in truth.items():
        error = abs(figures[name] - expected)
        assert error < (1e-5 if name == "pixel_f1_max" else 1e-6), name
        assert error <= figures["bounds"][name] + 1e-12, name
        assert figures["bounds"][name] < 1e-4, name
    assert figures["bounds"]["pro"] < 1e-4
    assert figures["bounds"]["pro_005"] < 1e-4


def test_bounds_are_large_when_bins_hide_the_order() -> None:
    """Scores that need more bins than there are: the figure may be off, and says by how much."""
    rng = np.random.default_rng(3)
    spread = np.exp(-rng.uniform(0, 87, (600, 600))).astype(np.float32)  # keeps the bins coarse
    close = np.float32(0.25) + rng.integers(0, 400, (600, 600)).astype(np.float32) * np.float32(2**-25)
    mask = close > np.median(close)
    metrics = measured([spread, close], [np.zeros_like(mask), mask])
    figures = metrics.compute()
    labels = np.concatenate([np.zeros(mask.size, bool), mask.ravel()])
    expected = roc_auc_score(labels, np.concatenate([spread.ravel(), close.ravel()]))
    error = abs(figures["pixel_auroc"] - expected)
    assert 1e-4 < error <= figures["bounds"]["pixel_auroc"]


def test_any_order_of_parts_gives_the_same_bits() -> None:
    rng = np.random.default_rng(11)
    masks = [blobs(rng, (200, 300), "rectangles") for _ in range(6)]
    kinds = ["smooth", "extreme", "hard", "peaked", "narrow", "saturated"]
    masks[1] = np.zeros((200, 300), bool)  # a good photo, so that every figure is defined
    parts = [measured([scored(rng, m, k)], [m]) for m, k in zip(masks, kinds, strict=True)]
    whole = PixelMetrics()
    for part in parts:
        whole = whole + part
    levels = {part._histogram.level for part in parts}
    assert len(levels) > 1, "the parts should be binned differently for this test to mean anything"
    expected = whole.compute()
    assert not any(np.isnan(value) for value in expected.values() if isinstance(value, float))
    for seed in range(6):
        shuffled = [parts[i] for i in np.random.default_rng(seed).permutation(6)]
        tree = (shuffled[0] + (shuffled[1] + shuffled[2])) + ((shuffled[3] + shuffled[4]) + shuffled[5])
        assert tree.compute() == expected
        assert pickle.loads(pickle.dumps(tree)).compute() == expected


def test_merging_leaves_the_parts_alone() -> None:
    maps, masks = make_case("smooth", "rectangles", 0)
    first, second = measured(maps, masks), measured(maps, masks)
    before = first.compute()
    total = first + second
    assert first.compute() == before
    assert total.compute()["photos"] == 2 * before["photos"]
    assert total.compute()["pixel_auroc"] == before["pixel_auroc"]
    with pytest.raises(UsageError, match="same arguments"):
        first + PixelMetrics(range=(0, 255))


def test_any_declared_range() -> None:
    maps, masks = make_case("smooth", "rectangles", 1)
    expected = measured(maps, masks).compute()
    logits = [np.log(m / (1 - m.astype(np.float64))) for m in maps]
    figures = measured(logits, masks, range=(-20.0, 20.0)).compute()
    for name in ("pixel_auroc", "pro", "pixel_ap", "pixel_f1_max", "image_auroc"):
        assert figures[name] == pytest.approx(expected[name], abs=1e-5)
    flagged = np.concatenate([m.ravel() for m in logits]) >= figures["pixel_threshold"] - 1e-5
    labels = np.concatenate([m.ravel() for m in masks])
    assert (flagged & labels).sum() / (flagged | labels).sum() == pytest.approx(figures["pixel_iou"])
    grey = [np.round(m * 255).astype(np.uint8) for m in maps]
    bytewise = measured(grey, masks, range=(0, 255)).compute()
    assert set(bytewise["bounds"].values()) == {0.0}
    labels_scores = labels, np.concatenate([m.ravel() for m in grey])
    assert bytewise["pixel_auroc"] == pytest.approx(roc_auc_score(*labels_scores), abs=1e-12)


def test_perfect_and_worst_detector() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:9, 5:9] = True
    perfect = measured([mask.astype(np.float32)], [mask]).compute()
    assert [perfect[k] for k in ("pixel_auroc", "pro", "pixel_ap", "pixel_f1_max", "pixel_iou")] == [1] * 5
    assert perfect["pixel_threshold"] == 1.0
    worst = measured([(~mask).astype(np.float32)], [mask]).compute()
    assert worst["pixel_auroc"] == 0
    assert worst["pro"] == 0


def test_undefined_figures_are_nan() -> None:
    maps = [np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)]
    good = measured(maps, [np.zeros((8, 8), bool)]).compute()
    assert all(np.isnan(good[k]) for k in ("pixel_auroc", "pro", "pixel_ap", "pixel_f1_max", "image_auroc"))
    defect = measured(maps, [np.ones((8, 8), bool)]).compute()
    assert np.isnan(defect["pixel_auroc"])
    assert np.isnan(defect["pro"])
    assert defect["pixel_ap"] == 1
    empty = PixelMetrics().compute()
    assert empty["photos"] == 0
    assert np.isnan(empty["image_f1_max"])


def test_image_scores_and_photos_without_masks() -> None:
    metrics = PixelMetrics()
    metrics.update(np.zeros((4, 4)), None, image_score=-3.5)
    metrics.update(np.zeros((4, 4)), np.eye(4), image_score=7.0)
    metrics.update_score(9.0, True)
    figures = metrics.compute()
    assert figures["image_auroc"] == 1
    assert figures["image_threshold"] == 7.0
    assert (figures["photos"], figures["defective"], figures["regions"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.full((4, 4), np.nan),), "16 NaN pixels"),
        ((np.full((4, 4), 1.5),), r"outside the declared range \[0, 1\]"),
        ((np.full((4, 4), np.inf),), "outside the declared range"),
        ((np.zeros((4, 4)), np.zeros((4, 5))), r"shape \(4, 5\).*\(4, 4\)"),
        ((np.zeros((4, 4, 3)),), r"expected a non-empty \[H, W\]"),
        ((np.zeros((0, 4)),), "non-empty"),
        ((np.zeros((4, 4), complex),), "real numbers"),
        ((np.zeros((4, 4)), None, float("nan")), "image_score is nan"),
    ],
)
def test_wrong_input_is_refused_and_not_counted(arguments: tuple, message: str) -> None:
    metrics = PixelMetrics()
    with pytest.raises(UsageError, match=message):
        metrics.update(*arguments)
    assert metrics.photos == 0
    assert metrics.compute()["regions"] == 0


def test_wrong_arguments_are_refused() -> None:
    for wrong in [(1, 0), (0, float("inf")), (0, 0)]:
        with pytest.raises(UsageError, match="range"):
            PixelMetrics(range=wrong)
    with pytest.raises(UsageError, match="pro_limit"):
        PixelMetrics(pro_limit=0)


def test_the_pasted_loop_depends_on_the_spread_and_pro_does_not() -> None:
    rng = np.random.default_rng(5)
    masks = [blobs(rng, (48, 48), "rectangles") for _ in range(6)]
    maps = [scored(rng, mask, "smooth") for mask in masks]
    squeezed = [m**60 for m in maps]  # the same ranking
    exact = measured(maps, masks).compute()["pro"]
    assert measured(squeezed, masks).compute()["pro"] == pytest.approx(exact, abs=1e-4)
    loop, loop_squeezed = (pasted_threshold_loop_pro(m, masks) for m in (maps, squeezed))
    assert abs(loop - exact) < 0.05
    assert abs(loop_squeezed - loop) > 0.02
    assert np.isnan(pasted_threshold_loop_pro([np.zeros((8, 8))], [np.eye(8)]))


def test_curves_end_where_they_must() -> None:
    maps, masks = make_case("smooth", "rectangles", 2)
    metrics = measured(maps, masks)
    curves = metrics.curves()
    assert np.all(np.diff(curves.thresholds) < 0)
    assert curves.fpr[-1] == curves.recall[-1] == curves.overlap[-1] == 1
    area = np.trapezoid(np.append(0, curves.recall), np.append(0, curves.fpr))
    assert area == pytest.approx(metrics.compute()["pixel_auroc"], abs=1e-9)


def test_keys_keep_order_and_can_be_read_back() -> None:
    rng = np.random.default_rng(0)
    edges = np.float32([0, -0.0, 1e-45, 1e-38, 0.25, 0.49999997, 0.5, 0.50000006, 0.99999994, 1])
    scores = np.unique(
        np.concatenate([edges, rng.random(5000, np.float32), rng.random(500, np.float32) ** 9])
    )
    written, spare = np.empty((2, scores.size), np.uint32)
    score_keys(scores, written, spare)
    keys = written.astype(np.int64)
    assert np.all(np.diff(keys) > 0)
    assert keys[0] == 0
    assert keys[-1] == TOP_KEY
    assert np.array_equal(key_scores(keys).astype(np.float32), scores)


def test_memory_of_the_histogram_stays_within_its_budget() -> None:
    histogram = AdaptiveHistogram()
    rng = np.random.default_rng(0)
    nothing = np.empty(0, np.int64)
    for _ in range(20):
        histogram.add(np.exp(-rng.uniform(0, 100, 50_000)).astype(np.float32), nothing, nothing)
        histogram.add(1 - rng.random(50_000, np.float32) ** 4, nothing, nothing)
    assert len(pickle.dumps(histogram)) < 16e6
    assert histogram.bins().negatives.sum() == 2_000_000
