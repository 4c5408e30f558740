from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from clipsam.edges import contrast, sharpen, snap
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


def test_sharpen_adds_the_contrast_to_the_logit() -> None:
    coarse = np.full((120, 160), 0.6, np.float32)
    coarse[:, 100:] = 0.2
    sharp = sharpen(coarse, photo(), SHARP)
    expected = expit(logit(coarse) + 0.4 * (contrast(photo(), SHARP.edge_scale) - 1))
    np.testing.assert_allclose(sharp, expected, atol=1e-5)
    assert sharp.dtype == np.float32
    assert sharp[56, 80] > 0.75 > 0.6 > sharp[100, 20]
    assert sharpen(coarse, photo(), replace(SHARP, edge_weight=0.0)) is coarse


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
