from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import logit

from clipsam.errors import UsageError
from clipsam.fusion import PUBLISHED, find_regions, fuse, image_score, region_peak
from clipsam.masks import MaskFrame, SoftMask
from clipsam.regions import RegionPrompt, region_prompts
from clipsam.settings import FusionSettings, RegionSettings

LIFT, REDRAW, BLEND = (FusionSettings(merge=merge, weight=1.0) for merge in ("lift", "redraw", "blend"))


def mask_of(
    full: NDArray[np.float64], prompt: RegionPrompt, region: int = 0, iou: float = 0.9, agreement: float = 0.8
) -> SoftMask:
    """A mask whose probabilities on the photo are `full`, cropped to where they exceed 0."""
    ys, xs = np.nonzero(full)
    window = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    logits = logit(np.clip(full, 1e-7, 1 - 1e-7)).astype(np.float32)
    frame = MaskFrame(photo=full.shape, mask=full.shape, resized=full.shape, padded=None)
    return SoftMask(region, prompt, "box", iou, agreement, window, logits, frame)


@pytest.fixture
def coarse() -> NDArray[np.float32]:
    """Two blobs, the left one higher, on 60 x 100 pixels."""
    ys, xs = np.mgrid[:60, :100]
    left = 0.9 * np.exp(-((ys - 30) ** 2 + (xs - 25) ** 2) / 200)
    right = 0.7 * np.exp(-((ys - 30) ** 2 + (xs - 70) ** 2) / 200)
    return (0.1 + 0.9 * np.maximum(left, right)).astype(np.float32)


@pytest.fixture
def prompts(coarse: NDArray[np.float32]) -> tuple[RegionPrompt, ...]:
    found = region_prompts(coarse, RegionSettings(work_size=1000))
    assert len(found) == 2
    return found


@pytest.fixture
def masks(prompts: tuple[RegionPrompt, ...]) -> list[SoftMask]:
    """On each blob a mask, smaller than the region and off its centre, of soft edge."""
    drawn = []
    for region, (row, column) in enumerate([(28, 27), (32, 70)]):
        ys, xs = np.mgrid[:60, :100]
        full = np.clip(6.5 - np.hypot(ys - row, xs - column), 0, 1)
        drawn.append(mask_of(full, prompts[region], region))
    return drawn


@pytest.mark.parametrize("merge", ["lift", "redraw"])
def test_without_masks_the_map_stands(coarse: NDArray[np.float32], merge: str) -> None:
    fused = fuse(coarse, [], FusionSettings(merge=merge))
    np.testing.assert_array_equal(fused, coarse)
    assert fused is not coarse


def test_the_map_can_take_the_place_of_the_coarse_one(
    coarse: NDArray[np.float32], masks: list[SoftMask]
) -> None:
    before, fused = coarse.copy(), fuse(coarse, masks)
    np.testing.assert_array_equal(coarse, before)
    assert fuse(coarse, masks, out=coarse) is coarse
    np.testing.assert_array_equal(coarse, fused)


def test_blend_without_masks_is_the_same_share_of_every_map(coarse: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(fuse(coarse, [], PUBLISHED["psmp-clip"]), 0.2 * coarse, atol=1e-6)


@pytest.mark.parametrize("settings", [FusionSettings(), LIFT, REDRAW, *PUBLISHED.values()])
def test_every_fusion_stays_a_continuous_map_in_0_1(
    coarse: NDArray[np.float32], masks: list[SoftMask], settings: FusionSettings
) -> None:
    before = coarse.copy()
    fused = fuse(coarse, masks, settings)
    assert (fused.dtype, fused.shape) == (np.float32, coarse.shape)
    assert 0 <= fused.min() <= fused.max() <= 1
    assert len(np.unique(fused)) > 500
    assert np.abs(fused - coarse).max() > 0.02
    np.testing.assert_array_equal(coarse, before)


def test_lift_raises_inside_masks_to_the_peak_of_the_region_and_nothing_else(
    coarse: NDArray[np.float32], masks: list[SoftMask], prompts: tuple[RegionPrompt, ...]
) -> None:
    fused = fuse(coarse, masks, LIFT)
    assert fused[28, 27] == pytest.approx(prompts[0].peak, abs=1e-5)
    assert fused[34, 74] == pytest.approx(prompts[1].peak, abs=1e-5)
    assert (fused >= coarse).all()
    assert fused.max() == pytest.approx(coarse.max(), abs=1e-6)
    np.testing.assert_allclose(fused[:, 40:60], coarse[:, 40:60], atol=1e-6)
    half = fuse(coarse, masks, replace(LIFT, weight=0.5))
    np.testing.assert_allclose(half - coarse, (fused - coarse) / 2, atol=1e-6)
    np.testing.assert_allclose(fuse(coarse, masks, replace(LIFT, weight=0.0)), coarse, atol=1e-6)


def test_a_mask_does_not_lower_a_higher_neighbour(
    coarse: NDArray[np.float32], prompts: tuple[RegionPrompt, ...]
) -> None:
    everything = mask_of(np.full(coarse.shape, 0.999999), prompts[1], 1)
    fused = fuse(coarse, [everything], LIFT)
    assert fused[30, 25] == pytest.approx(coarse[30, 25])
    assert fused[0, 0] == pytest.approx(prompts[1].peak, abs=1e-4)


def test_redraw_sinks_what_the_mask_leaves_of_its_region_to_the_cut_off(
    coarse: NDArray[np.float32], masks: list[SoftMask], prompts: tuple[RegionPrompt, ...]
) -> None:
    fused = fuse(coarse, masks, REDRAW)
    inside = np.zeros(coarse.shape, bool)
    (x0, y0), component = prompts[0].offset, prompts[0].component
    inside[y0 : y0 + component.shape[0], x0 : x0 + component.shape[1]] = component
    ys, xs = np.mgrid[:60, :100]
    untouched = np.hypot(ys - 28, xs - 27) > 7
    np.testing.assert_allclose(fused[inside & untouched], prompts[0].base, atol=1e-4)
    assert fused[28, 27] == pytest.approx(prompts[0].peak, abs=1e-4)
    outside = coarse < 0.39
    np.testing.assert_allclose(fused[outside], coarse[outside], atol=1e-6)


def test_blend_is_the_weighted_sum_of_map_and_masks(
    coarse: NDArray[np.float32], masks: list[SoftMask]
) -> None:
    drawn = np.zeros(coarse.shape)
    for mask in masks:
        height, width = mask.probability.shape
        drawn[mask.y0 : mask.y0 + height, mask.x0 : mask.x0 + width] = mask.probability
    expected = 0.3 * coarse + 0.7 * drawn
    np.testing.assert_allclose(fuse(coarse, masks, replace(BLEND, weight=0.7)), expected, atol=1e-5)


def test_confidences_weigh_the_masks_of_a_region(
    coarse: NDArray[np.float32], prompts: tuple[RegionPrompt, ...]
) -> None:
    left, right = np.zeros((2, *coarse.shape))
    left[20:40, 15:25], right[20:40, 25:35] = 1, 1
    masks = [mask_of(left, prompts[0], 0, iou=0.9, agreement=0.8), mask_of(right, prompts[0], 0, 0.5, 0.4)]
    at = {}
    for confidence in ("iou*agreement", "iou", "softmax"):
        fused = fuse(coarse, masks, replace(BLEND, confidence=confidence))
        at[confidence] = fused[30, 20] / (fused[30, 20] + fused[30, 30])
        assert fused[30, 20] + fused[30, 30] == pytest.approx(1, abs=1e-4)
    weights = {"iou*agreement": 0.72 / 0.92, "iou": 0.9 / 1.4, "softmax": 1 / (1 + np.exp(-0.4))}
    assert at == pytest.approx(weights, abs=1e-4)


@pytest.mark.parametrize("merge", ["lift", "redraw", "blend"])
def test_a_region_weighs_what_its_masks_agree_with_the_map(
    coarse: NDArray[np.float32], masks: list[SoftMask], merge: str
) -> None:
    settings = FusionSettings(merge=merge, weight=0.8, weighting="agreement")
    agreed = [replace(mask, agreement=0.5) for mask in masks]
    expected = fuse(coarse, masks, replace(settings, weighting="fixed", weight=0.4))
    if merge == "blend":  # what is not given to the masks is not given to the map
        expected = expected - 0.4 * coarse
    np.testing.assert_allclose(fuse(coarse, agreed, settings), expected, atol=1e-5)
    fixed = fuse(coarse, agreed, replace(settings, weighting="fixed"))
    np.testing.assert_allclose(fixed, fuse(coarse, masks, replace(settings, weighting="fixed")), atol=1e-5)
    doubted = fuse(coarse, [replace(mask, agreement=1e-6) for mask in masks], settings)
    nothing = coarse if merge != "blend" else 0.2 * coarse
    np.testing.assert_allclose(doubted, nothing, atol=1e-4)


def test_the_agreement_of_a_region_is_the_mean_over_its_masks(
    coarse: NDArray[np.float32], prompts: tuple[RegionPrompt, ...]
) -> None:
    full = np.zeros(coarse.shape)
    full[20:40, 15:35] = 1
    masks = [mask_of(full, prompts[0], 0, iou=0.9, agreement=1.0), mask_of(full, prompts[0], 0, 0.3, 0.2)]
    settings = FusionSettings(merge="blend", weight=1.0, confidence="iou", weighting="agreement")
    assert fuse(coarse, masks, settings)[30, 25] == pytest.approx((0.9 * 1 + 0.3 * 0.2) / 1.2, abs=1e-4)


def test_normalisation_per_region_per_photo_and_by_the_peak(
    coarse: NDArray[np.float32], prompts: tuple[RegionPrompt, ...]
) -> None:
    left, right = np.zeros((2, *coarse.shape))
    left[20:40, 15:25], right[20:40, 60:80] = 1, 1
    masks = [mask_of(left, prompts[0], 0, iou=0.9), mask_of(right, prompts[1], 1, iou=0.3)]
    expected = {"region": (1.0, 1.0), "photo": (0.75, 0.25), "peak": (1.0, 1 / 3)}
    for normalisation, (first, second) in expected.items():
        fused = fuse(coarse, masks, replace(BLEND, confidence="iou", normalisation=normalisation))
        assert (fused[30, 20], fused[30, 70]) == pytest.approx((first, second), abs=1e-4)


def test_masks_without_credit_change_nothing(coarse: NDArray[np.float32], masks: list[SoftMask]) -> None:
    worthless = [replace(mask, iou=0.0) for mask in masks]
    np.testing.assert_allclose(fuse(coarse, worthless, LIFT), coarse, atol=1e-6)


def test_image_score_is_the_maximum_or_the_mean_of_the_top() -> None:
    values = np.arange(100, dtype=np.float32).reshape(10, 10) / 100
    assert image_score(values) == pytest.approx(0.99)
    assert image_score(values, FusionSettings(score="top", top_fraction=0.04)) == pytest.approx(0.975)
    assert image_score(values, FusionSettings(score="top", top_fraction=0.0)) == pytest.approx(0.99)


def test_find_regions_gives_boxes_scores_and_the_type_that_explains_best() -> None:
    anomaly = np.full((40, 60), 0.2, np.float32)
    anomaly[5:10, 40:50] = 0.6
    anomaly[7, 45] = 0.8
    anomaly[30:34, 10:12] = 0.9
    anomaly[34, 12] = 0.9  # joined by a corner
    anomaly[20, 20] = 0.95  # smaller than allowed
    types = np.full((3, 4, 6), 0.1, np.float32)
    types[1, 0, 4] = 0.6
    types[2, 3, 1] = 0.7
    settings = FusionSettings(min_area=2 / anomaly.size)
    mask, regions = find_regions(anomaly, types, ("scratch", "hole", "stain"), 0.5, settings)
    assert [region.box_xyxy for region in regions] == [(10, 30, 13, 35), (40, 5, 50, 10)]
    assert [region.area_px for region in regions] == [9, 50]
    assert [region.score for region in regions] == pytest.approx([0.9, 0.8])
    assert [region.defect for region in regions] == ["stain", "hole"]
    np.testing.assert_array_equal(mask, regions[0].mask | regions[1].mask)
    assert not mask[20, 20]


def test_the_type_is_averaged_over_the_pixels_of_the_region() -> None:
    anomaly = np.zeros((40, 40), np.float32)
    anomaly[0:40, 0:10] = anomaly[38:40, 0:40] = 1.0
    types = np.zeros((2, 4, 4), np.float32)
    types[0, 3, 1:] = 1.0  # the thin foot
    types[1, :, 0] = 0.5  # the broad upright
    assert find_regions(anomaly, types, ("foot", "upright"), 0.5)[1][0].defect == "upright"


def test_only_the_box_around_all_regions_is_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels take four times the memory of a mask: 400 MB of a photo of 100 megapixels."""
    anomaly = np.zeros((200, 300), np.float32)
    anomaly[90:95, 100:110] = anomaly[97, 130] = 0.9
    sizes, label = [], ndimage.label
    monkeypatch.setattr(ndimage, "label", lambda mask, **how: sizes.append(mask.shape) or label(mask, **how))
    _, regions = find_regions(anomaly, np.ones((1, 2, 2), np.float32), ("hole",), 0.5)
    assert sizes == [(8, 31)]
    assert [region.box_xyxy for region in regions] == [(100, 90, 110, 95), (130, 97, 131, 98)]


def test_nothing_above_the_threshold_gives_an_empty_mask() -> None:
    mask, regions = find_regions(np.zeros((5, 6), np.float32), np.ones((1, 2, 2), np.float32), ("hole",), 0.5)
    assert regions == ()
    assert not mask.any()


@pytest.mark.parametrize("min_area", [0.0, 1e-4, 0.004, 0.03, 0.5, 1.0])
def test_the_peak_is_the_highest_threshold_that_leaves_a_region(min_area: float) -> None:
    rng = np.random.default_rng(1)
    settings = FusionSettings(min_area=min_area)
    types = np.ones((1, 2, 2), np.float32)
    for smooth in (0, 2):
        anomaly = rng.random((30, 50)).astype(np.float32)
        for _ in range(smooth):
            anomaly = (anomaly + np.roll(anomaly, 1, 0) + np.roll(anomaly, 1, 1)) / np.float32(3)
        peak = region_peak(anomaly, min_area)
        assert peak in anomaly
        assert find_regions(anomaly, types, ("hole",), peak, settings)[0].any()
        above = float(np.nextafter(np.float32(peak), np.float32(2)))
        assert not find_regions(anomaly, types, ("hole",), above, settings)[0].any()


def test_the_peak_of_a_quiet_map_is_0() -> None:
    assert region_peak(np.zeros((30, 40), np.float32), 0.01) == 0
    speck = np.zeros((30, 40), np.float32)
    speck[3, 4] = 1
    assert region_peak(speck, 0.01) == 0
    assert region_peak(-speck * 0, 0.01) == 0  # minus zero is no less


@pytest.mark.parametrize(
    "wrong",
    [
        {"merge": "add"},
        {"confidence": "x"},
        {"weight": 1.5},
        {"score": "mean"},
        {"weighting": "x"},
        {"edge_weight": -1.0},
        {"edge_reach": 0.0},
        {"edge_guide": 1.0},
    ],
)
def test_unknown_settings_are_refused_with_the_known_ones(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        fuse(np.zeros((2, 2), np.float32), [], FusionSettings(**wrong))
