from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.errors import UsageError
from clipsam.regions import find_peaks, hysteresis_components, region_prompts
from clipsam.settings import RegionSettings

EXACT = RegionSettings(work_size=10_000, min_area=0.0)


def bumps(shape: tuple[int, int], *peaks: tuple[float, float, float, float]) -> NDArray[np.float32]:
    """A map at 0.1 with Gaussian bumps (row, column, height, sigma)."""
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    values = np.full(shape, 0.1)
    for row, column, height, sigma in peaks:
        values = np.maximum(values, height * np.exp(-((ys - row) ** 2 + (xs - column) ** 2) / (2 * sigma**2)))
    return values.astype(np.float32)


def test_a_quiet_map_asks_nothing() -> None:
    assert region_prompts(bumps((50, 80), (20, 30, 0.59, 6))) == ()
    assert len(region_prompts(bumps((50, 80), (20, 30, 0.61, 6)))) == 1
    assert region_prompts(np.full((30, 30), np.nan, np.float32)) == ()


def test_hysteresis_keeps_weak_pixels_only_beside_strong_ones_and_joins_diagonals() -> None:
    values = np.array(
        [
            [0.5, 0.0, 0.0, 0.5, 0.5],
            [0.0, 0.9, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.5, 0.0, 0.7],
        ],
        dtype=np.float32,
    )
    labels, count = hysteresis_components(values, 0.4, 0.6)
    assert count == 2
    assert labels.tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 2]]


def test_hysteresis_equals_reconstruction_from_the_strong_pixels() -> None:
    values = ndimage.gaussian_filter(np.random.default_rng(3).random((90, 70)), 2).astype(np.float32)
    low, high = np.quantile(values, [0.7, 0.95])
    labels, count = hysteresis_components(values, low, high)
    expected = ndimage.binary_propagation(values >= high, np.ones((3, 3)), mask=values >= low)
    np.testing.assert_array_equal(labels > 0, expected)
    assert count == ndimage.label(expected, np.ones((3, 3)))[1] > 3


def test_peaks_come_highest_first_and_none_too_close_to_a_higher_one() -> None:
    values = bumps((60, 60), (10, 10, 0.8, 3), (10, 22, 0.9, 3), (40, 40, 0.7, 3), (50, 10, 0.3, 3))
    assert find_peaks(values, 5, 0.5).tolist() == [[10, 22], [10, 10], [40, 40]]
    assert find_peaks(values, 15, 0.5).tolist() == [[10, 22], [40, 40]]
    assert find_peaks(values, 5, 0.5, limit=1).tolist() == [[10, 22]]
    assert find_peaks(values, 5, 0.95).shape == (0, 2)


def test_on_a_plateau_the_deepest_pixel_is_the_peak() -> None:
    values = np.zeros((40, 60), np.float32)
    values[5:24, 10:29] = 1.0
    assert find_peaks(values, 50, 0.5, inside=values > 0.5).tolist() == [[14, 19]]


@pytest.mark.parametrize("shape", [(60, 90), (91, 60)])
def test_points_and_boxes_are_in_photo_coordinates(shape: tuple[int, int]) -> None:
    anomaly = bumps(shape, (20, 41, 0.9, 5))
    (prompt,) = region_prompts(anomaly, replace(EXACT, margin=0.0, max_positives=1))
    inside = anomaly >= 0.4
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert prompt.positives.tolist() == [[41.0, 20.0]]
    assert prompt.box_xyxy == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert prompt.area_px == inside.sum()
    assert prompt.peak == pytest.approx(0.9)
    (x0, y0), (height, width) = prompt.offset, prompt.component.shape
    full = np.zeros(shape, bool)
    full[y0 : y0 + height, x0 : x0 + width] = prompt.component
    np.testing.assert_array_equal(full, inside)


def test_the_margin_is_a_fraction_of_the_box_and_stays_in_the_photo() -> None:
    anomaly = np.zeros((50, 80), np.float32)
    anomaly[0:20, 30:40] = 1.0
    (prompt,) = region_prompts(anomaly, replace(EXACT, margin=0.25))
    assert prompt.box_xyxy == (27.5, 0.0, 42.5, 25.0)


def test_positives_are_inside_spread_and_high_negatives_in_the_ring_and_low() -> None:
    anomaly = bumps((200, 300), (60, 80, 0.9, 12), (70, 105, 0.8, 12), (150, 240, 0.95, 9))
    diagonal = np.hypot(200, 300)
    prompts = region_prompts(anomaly, replace(EXACT, peak_distance=0.05, ring=0.03))
    assert [prompt.peak for prompt in prompts] == sorted((prompt.peak for prompt in prompts), reverse=True)
    assert prompts[1].positives[:2].tolist() == [[80.0, 60.0], [105.0, 70.0]]
    for prompt in prompts:
        (x0, y0), component = prompt.offset, prompt.component
        full = np.zeros(anomaly.shape, bool)
        full[y0 : y0 + component.shape[0], x0 : x0 + component.shape[1]] = component
        away = ndimage.distance_transform_cdt(~full, metric="chessboard")
        for points in (prompt.positives, prompt.negatives):
            gaps = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(len(points))
            assert gaps.min() >= 0.05 * diagonal
        assert len(prompt.negatives) == 4
        for x, y in prompt.positives.astype(int):
            assert full[y, x]
            assert anomaly[y, x] >= 0.6
        for x, y in prompt.negatives.astype(int):
            assert 0 < away[y, x] <= round(0.03 * diagonal)
            assert anomaly[y, x] < 0.4


def test_negatives_avoid_the_neighbouring_region() -> None:
    anomaly = bumps((100, 100), (50, 30, 0.9, 8), (50, 57, 0.9, 8))
    first, second = region_prompts(anomaly, replace(EXACT, ring=0.2))
    for x, y in np.concatenate([first.negatives, second.negatives]).astype(int):
        assert anomaly[y, x] < 0.4


def test_limits_on_count_and_area() -> None:
    anomaly = bumps((100, 140), (20, 20, 0.7, 5), (20, 80, 0.8, 5), (70, 50, 0.9, 5), (70, 110, 0.65, 1.5))
    assert [prompt.peak for prompt in region_prompts(anomaly, EXACT)] == pytest.approx([0.9, 0.8, 0.7, 0.65])
    assert len(region_prompts(anomaly, replace(EXACT, max_regions=2))) == 2
    assert len(region_prompts(anomaly, replace(EXACT, min_area=20 / 14_000))) == 3


def test_a_region_that_is_too_large_is_cut_again_at_the_high_threshold() -> None:
    anomaly = np.maximum(bumps((80, 80), (30, 30, 0.9, 6)), np.float32(0.45))
    (prompt,) = region_prompts(anomaly, EXACT)
    assert prompt.base == EXACT.high
    assert prompt.area_px == (anomaly >= EXACT.high).sum()
    assert region_prompts(np.full((80, 80), 0.9, np.float32), EXACT) == ()


@pytest.mark.parametrize("shape", [(403, 607), (1000, 390)])
def test_large_maps_are_searched_coarsely_but_answered_exactly(shape: tuple[int, int]) -> None:
    anomaly = bumps(shape, (101, 203, 0.9, 20), (333, 303, 0.8, 12))
    coarse = region_prompts(anomaly, replace(EXACT, work_size=100))
    exact = region_prompts(anomaly, EXACT)
    assert len(coarse) == len(exact) == 2
    for one, other in zip(coarse, exact, strict=True):
        assert one.box_xyxy == other.box_xyxy
        assert one.peak == other.peak
        assert one.positives[0].tolist() == other.positives[0].tolist()
        assert one.offset == other.offset
        np.testing.assert_array_equal(one.component, other.component)
        for x, y in one.negatives.astype(int):
            assert anomaly[y, x] < EXACT.low


def test_a_narrow_peak_is_not_lost_on_a_large_map() -> None:
    anomaly = np.full((997, 1501), 0.1, np.float32)
    anomaly[996, 1500] = 0.95
    (prompt,) = region_prompts(anomaly, replace(EXACT, work_size=64))
    assert prompt.positives.tolist() == [[1500.0, 996.0]]
    assert (prompt.area_px, prompt.offset) == (1, (1500, 996))


def test_the_same_map_gives_the_same_prompts_and_mirrors_with_it() -> None:
    anomaly = bumps((90, 120), (30, 40, 0.9, 9), (60, 90, 0.7, 7))
    first, again = region_prompts(anomaly, EXACT), region_prompts(anomaly.copy(), EXACT)
    mirrored = region_prompts(np.ascontiguousarray(anomaly[:, ::-1]), EXACT)
    for one, other, mirror in zip(first, again, mirrored, strict=True):
        np.testing.assert_array_equal(one.positives, other.positives)
        np.testing.assert_array_equal(one.negatives, other.negatives)
        assert mirror.positives[0].tolist() == [119 - one.positives[0, 0], one.positives[0, 1]]
        assert mirror.box_xyxy[0] == pytest.approx(120 - one.box_xyxy[2])


def test_thresholds_out_of_order_are_refused() -> None:
    with pytest.raises(UsageError, match="low <= high"):
        region_prompts(np.ones((4, 4), np.float32), RegionSettings(low=0.8, high=0.5))
