from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from clipsam.blurs import blur, boxes, gaussian

SIZES = [(3, 200, 330), (1, 640, 97), (2, 5, 7)]


def planes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("sigma", [0.3, 1.28, 12.8])
def test_the_gaussian_is_scipys(shape: tuple[int, ...], sigma: float) -> None:
    found = blur(planes(shape), *(gaussian(side, sigma) for side in shape[1:]))
    expected = ndimage.gaussian_filter(planes(shape).astype(np.float64), (0, sigma, sigma))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(("width", "times"), [(1, 1), (4, 1), (21, 1), (64, 3)])
def test_boxes_are_scipys(shape: tuple[int, ...], width: int, times: int) -> None:
    found = blur(planes(shape), *(boxes(side, width, times) for side in shape[1:]))
    expected = planes(shape).astype(np.float64)
    for _ in range(times):
        expected = ndimage.uniform_filter(expected, (1, width, width))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["boxes", "gaussian"])
def test_a_wide_blur_is_computed_at_every_third_place_and_as_good(kind: str) -> None:
    blurred = boxes(640, 64, 3) if kind == "boxes" else gaussian(640, 12.8)
    assert [band.shape for band in blurred] == [(215, 640), (640, 215)]
    photo = ndimage.gaussian_filter(planes((640, 640)), 1.5)  # neighbours are alike
    photo = (photo - photo.min()) / np.ptp(photo)
    expected = photo.astype(np.float64)
    if kind == "boxes":
        for _ in range(3):
            expected = ndimage.uniform_filter(expected, 64)
    else:
        expected = ndimage.gaussian_filter(expected, 12.8)
    np.testing.assert_allclose(blur(photo, blurred, blurred), expected, atol=2e-6)
    assert len(boxes(300, 8, 3)) == len(gaussian(640, 1.28)) == 1


def test_only_the_band_is_multiplied() -> None:
    spans = [span.stop - span.start for _, span, _ in boxes(640, 21)[0].blocks]
    assert max(spans) <= 96 + 20
