from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.special import expit, logit

from clipsam.edges import _planes, contrast, guided, relief, sharpen, snap
from clipsam.regions import RegionPrompt
from clipsam.settings import FusionSettings

SHARP = FusionSettings(edge_weight=0.4)


def photo(shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A grey plate with a dark bar of 12 x 40 px at (50, 60)."""
    pixels = np.full((*shape, 3), 150, np.uint8)
    pixels[50:62, 60:100] = 40
    return pixels


def test_contrast_is_high_on_the_bar_and_low_on_the_plate() -> None:
    found = contrast(photo(), 0.05)
    assert (found.shape, found.dtype) == ((120, 160), np.float32)
    assert 0 <= found.min() <= found.max() <= 4
    assert found[56, 80] > 3
    assert found[100, 20] < 0.1


def test_a_flat_photo_has_no_contrast_to_blow_up() -> None:
    noise = np.random.default_rng(0).integers(149, 152, (100, 100, 3), dtype=np.uint8)
    assert contrast(noise, 0.05).mean() < 0.5
    assert (contrast(np.zeros((9, 7, 3), np.uint8), 0.05) == 0).all()


def test_contrast_is_in_units_of_the_photo_and_blind_to_brightness() -> None:
    bright = photo()
    dim = (photo() // 2 + 30).astype(np.uint8)
    np.testing.assert_allclose(contrast(bright, 0.05), contrast(dim, 0.05), atol=0.05)


@pytest.mark.parametrize("shape", [(900, 1300), (1401, 333)])
def test_large_photos_are_answered_at_their_own_size(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 150, np.uint8)
    pixels[300:330, 100:200] = 40
    found = contrast(pixels, 0.05)
    assert found.shape == shape
    assert found[315, 150] > 3
    assert found[-20, -20] < 0.1


def test_relief_is_contrast_less_that_of_the_neighbourhood() -> None:
    found = relief(photo(), 0.05, 0.02)
    expected = contrast(photo(), 0.05)
    expected = expected - ndimage.gaussian_filter(expected, 0.02 * 160)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert abs(found.mean()) < 0.01
    assert found[51, 61] > 1
    assert found[56, 59] < -0.5


def test_sharpen_shares_the_logit_out_among_neighbours() -> None:
    coarse = np.full((120, 160), 0.6, np.float32)
    coarse[:, 100:] = 0.2
    sharp = sharpen(coarse, photo(), SHARP)
    expected = expit(logit(coarse) + 0.4 * relief(photo(), SHARP.edge_scale, SHARP.edge_reach))
    np.testing.assert_allclose(sharp, expected, atol=1e-5)
    assert sharp.dtype == np.float32
    assert sharp[51, 61] > 0.7 > 0.58 > sharp[56, 59]
    assert sharp[100, 20] == pytest.approx(0.6, abs=0.01)
    assert sharpen(coarse, photo(), replace(SHARP, edge_weight=0.0)) is coarse


def test_the_guided_filter_is_the_regression_of_every_window() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (14, 17, 3), dtype=np.uint8)
    values = random.normal(size=(14, 17)).astype(np.float32)
    grey = pixels.mean(axis=-1) / 255
    found = guided(values, pixels, 2 / 17)
    padded = [np.pad(field, 4, mode="symmetric") for field in (grey, values)]
    slopes, offsets = np.zeros((2, 18, 21))  # windows of 5 x 5 px, centred up to 2 px outside of the photo
    for row in range(18):
        for column in range(21):
            x, y = (field[row : row + 5, column : column + 5].ravel() for field in padded)
            slopes[row, column] = ((x * y).mean() - x.mean() * y.mean()) / (x.var() + 1e-3)
            offsets[row, column] = y.mean() - slopes[row, column] * x.mean()
    row, column = 7, 8
    around = slice(row, row + 5), slice(column, column + 5)
    assert found[row, column] == pytest.approx(
        slopes[around].mean() * grey[row, column] + offsets[around].mean(), abs=1e-4
    )


def test_the_guided_filter_smooths_along_borders_and_not_across() -> None:
    values = np.where(photo()[..., 0] < 100, 2.0, -2.0).astype(np.float32)
    blurred = ndimage.gaussian_filter(values, 4)
    found = guided(blurred, photo(), 0.03)
    inside = found[56, 98]
    assert inside - found[56, 101] > 1.4 * (blurred[56, 98] - blurred[56, 101])
    noise = np.random.default_rng(0).normal(size=values.shape).astype(np.float32)
    assert guided(noise, photo(), 0.03)[80:].std() < 0.3 * noise.std()
    large = np.repeat(np.repeat(photo(), 8, axis=0), 8, axis=1)  # 960 x 1280
    assert guided(np.repeat(np.repeat(blurred, 8, 0), 8, 1), large, 0.03)[452, 788] == pytest.approx(
        inside, abs=0.2
    )


def test_sharpen_relief_first_then_the_guided_filter() -> None:
    coarse = np.clip(0.3 + ndimage.gaussian_filter(photo()[..., 0] < 100, 6.0, output=np.float32), 0, 0.9)
    both = replace(SHARP, edge_guide=0.015)
    shifted = logit(coarse) + 0.4 * relief(photo(), SHARP.edge_scale, SHARP.edge_reach)
    expected = expit(guided(shifted.astype(np.float32), photo(), 0.015))
    np.testing.assert_allclose(sharpen(coarse, photo(), both), expected, atol=1e-5)
    alone = sharpen(coarse, photo(), FusionSettings(edge_guide=0.015))
    np.testing.assert_allclose(alone, expit(guided(logit(coarse), photo(), 0.015)), atol=1e-5)


@pytest.mark.parametrize("shape", [(300, 200), (900, 1300), (1401, 333)])
def test_sharpen_equals_the_plain_filters_of_scipy(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    noise = ndimage.gaussian_filter(random.normal(size=(*shape, 3)), (3, 3, 0))
    pixels = np.clip(600 * noise + 128, 0, 255).astype(np.uint8)
    coarse = np.clip(0.5 + 20 * ndimage.gaussian_filter(random.normal(size=shape), 20), 0, 1)
    settings = replace(SHARP, edge_guide=0.015)
    found = sharpen(coarse.astype(np.float32), pixels, settings)
    np.testing.assert_allclose(found, plain_sharpen(coarse, pixels, settings), atol=1e-5)
    assert np.ptp(found) > 0.3


def plain_sharpen(coarse: np.ndarray, pixels: np.ndarray, settings: FusionSettings) -> np.ndarray:
    """The definition in float64: each filter by scipy, nothing shared, nothing cached."""
    height, width = pixels.shape[:2]
    scale = min(1, 640 / max(height, width))
    size = (round(width * scale), round(height * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)) / 255
    side = max(size)
    wide = small
    for _ in range(3):
        wide = ndimage.uniform_filter(wide, (box := round(2 * settings.edge_scale * side), box, 1))
    fine = ndimage.gaussian_filter(small, (0.002 * side, 0.002 * side, 0))
    distance = np.sqrt(((fine - wide) ** 2).sum(axis=-1))
    found = np.minimum(distance / max(np.sqrt((distance**2).mean()), 0.02), 4)
    found = found - ndimage.gaussian_filter(found, settings.edge_reach * side)
    logits = logit(np.clip(coarse, 1e-3, 1 - 1e-3)) + settings.edge_weight * fitted(found, (width, height))

    def mean(field: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(field, 2 * round(settings.edge_guide * side) + 1)

    grey, target = small.mean(axis=-1), fitted(logits, size)
    slope = (mean(grey * target) - mean(grey) * mean(target)) / (mean(grey**2) - mean(grey) ** 2 + 1e-3)
    offset = mean(target) - slope * mean(grey)
    slope, offset = (fitted(mean(field), (width, height)) for field in (slope, offset))
    return expit(slope * pixels.mean(axis=-1) / 255 + offset)


def fitted(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float64)


@pytest.mark.parametrize(
    "change", [{"edge_scale": 0.02}, {"edge_reach": 0.05}, {"edge_weight": 0.8}, {"edge_guide": 0.02}]
)
def test_each_parameter_of_the_cue_changes_the_map(change: dict[str, float]) -> None:
    coarse = np.full((120, 160), 0.6, np.float32)
    one, other = (sharpen(coarse, photo(), settings) for settings in (SHARP, replace(SHARP, **change)))
    assert np.abs(one - other).max() > 0.02


def test_extreme_maps_stay_in_0_1() -> None:
    coarse = np.zeros((120, 160), np.float32)
    coarse[:60] = 1
    sharp = sharpen(coarse, photo(), replace(SHARP, edge_weight=5.0))
    assert 0 <= sharp.min() <= sharp.max() <= 1
    assert np.isfinite(sharp).all()


def prompt() -> RegionPrompt:
    """A region a few pixels larger than the bar, with points beside it."""
    component = np.ones((24, 52), bool)
    positives = np.array([[58, 48], [80, 56]], np.float32)
    negatives = np.array([[80, 40]], np.float32)
    return RegionPrompt(
        (54.0, 44.0, 106.0, 68.0), positives, negatives, component.size, 0.9, 0.4, component, (54, 44)
    )


def test_boxes_snap_to_the_borders_of_the_bar() -> None:
    (found,) = snap([prompt()], photo(), 0.04)
    assert found.box_xyxy == (60.0, 50.0, 100.0, 62.0)


def test_positive_points_move_onto_what_stands_out_and_negative_ones_off_it() -> None:
    pixels = photo()
    pixels[38:42, 78:83] = 230  # a highlight under the negative point
    (found,) = snap([prompt()], pixels, 0.04)
    for x, y in found.positives.astype(int):
        assert 60 <= x < 100
        assert 50 <= y < 62
    (x, y) = found.negatives[0].astype(int)
    assert not (38 <= y < 42 and 78 <= x < 83)
    assert (pixels[y, x] == 150).all()
    moves = np.linalg.norm(found.positives - prompt().positives, axis=1)
    assert moves.max() <= round(0.04 * 200)


def test_a_box_never_loses_a_positive_point_and_stays_where_nothing_stands_out() -> None:
    (found,) = snap([prompt()], np.full((120, 160, 3), 90, np.uint8), 0.04)
    assert found.box_xyxy == prompt().box_xyxy
    far = replace(prompt(), positives=np.array([[56, 66]], np.float32))
    (found,) = snap([far], photo(), 0.005)
    left, top, right, bottom = found.box_xyxy
    for x, y in found.positives:
        assert left <= x < right
        assert top <= y < bottom


@pytest.mark.parametrize("shape", [(120, 160), (700, 900)])
def test_a_photo_without_colours_is_worked_on_once(shape: tuple[int, int]) -> None:
    pixels, coarse = photo(shape), np.linspace(0.1, 0.9, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    tinted = pixels.copy()
    tinted[0, 1, 2] ^= 1  # a colour that nobody sees
    both = replace(SHARP, edge_guide=0.015)
    assert len(_planes(pixels)) == 1
    assert len(_planes(tinted)) == 3
    np.testing.assert_allclose(sharpen(coarse, pixels, both), sharpen(coarse, tinted, both), atol=1e-3)


def test_probabilities_of_0_and_1_and_steep_slopes_stay_probabilities() -> None:
    pixels = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (60, 80, 1)).repeat(3, axis=2)
    coarse = (pixels[..., 0] > 0).astype(np.float32)
    found = sharpen(coarse, pixels, replace(SHARP, edge_guide=0.015))
    assert 0 <= found.min() < 0.1 < 0.9 < found.max() <= 1
