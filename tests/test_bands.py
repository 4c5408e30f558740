from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipsam.bands import Band, bilinear


def plane(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


@pytest.mark.parametrize(("cells", "places"), [(640, 1024), (1024, 640), (7, 100), (1000, 10), (50, 50)])
def test_bilinear_resizing_is_pillows(cells: int, places: int) -> None:
    band, values = bilinear(cells, places), plane(cells, 30)
    expected = np.array(Image.fromarray(values).resize((30, places), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(band.down(values), expected, atol=1e-6)
    np.testing.assert_allclose(band.across(np.ascontiguousarray(values.T)), expected.T, atol=1e-6)
    assert band.down(values).dtype == np.float32


def test_two_bands_are_one() -> None:
    first, second = bilinear(90, 140), bilinear(140, 61)
    both = second.after(first)
    assert both.shape == (61, 90)
    np.testing.assert_allclose(both.down(plane(90, 5)), second.down(first.down(plane(90, 5))), atol=1e-6)


def test_only_what_lies_near_the_diagonal_is_multiplied() -> None:
    matrix = np.eye(100) + np.eye(100, k=3)
    band = Band.of(matrix)
    assert all(weights.shape[1] <= 24 + 3 for _, _, weights in band.blocks)
    np.testing.assert_allclose(band.down(plane(100, 4)), matrix @ plane(100, 4), atol=1e-6)
