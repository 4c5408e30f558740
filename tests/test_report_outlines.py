"""Outlines as SVG paths: drawn again, they cover the region, however it is shaped, in few characters."""

from __future__ import annotations

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from clipsam.report.outlines import outline_path, simplified
from clipsam.result import Region


def region_of(mask: NDArray[np.bool_]) -> Region:
    rows, columns = np.nonzero(mask)
    x0, y0, x1, y1 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    box = (int(x0), int(y0), int(x1), int(y1))
    return Region(box, int(mask.sum()), 0.8, "hole", mask[y0:y1, x0:x1], mask.shape)


def drawn(path: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """What the path covers by the even-odd rule, pixel centres being half a pixel in."""
    image = Image.new("1", (shape[1], shape[0]))
    for ring in path.removesuffix("Z").split("Z"):
        numbers = [int(number) for number in re.findall(r"-?\d+", ring)]
        points = np.cumsum(np.array(numbers).reshape(-1, 2), axis=0)
        one = Image.new("1", image.size)
        ImageDraw.Draw(one).polygon([(x - 0.5, y - 0.5) for x, y in points.tolist()], fill=1)
        image = ImageChops.logical_xor(image, one)
    return np.asarray(image)


def disc(size: int, x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:size, :size]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("size", [200, 1000, 3000])
def test_a_ring_keeps_its_hole(size: int) -> None:
    mask = disc(size, 0.5 * size, 0.4 * size, 0.3 * size) & ~disc(size, 0.5 * size, 0.4 * size, 0.15 * size)
    path = outline_path(region_of(mask))
    assert path.count("M") == 2
    assert overlap(drawn(path, mask.shape), mask) > 0.96
    assert len(path) < 700


def test_a_region_at_the_border_and_one_of_a_pixel() -> None:
    mask = np.zeros((50, 80), bool)
    mask[:10, 70:] = True
    assert overlap(drawn(outline_path(region_of(mask)), mask.shape), mask) > 0.85
    speck = np.zeros((50, 80), bool)
    speck[20, 30] = True
    path = outline_path(region_of(speck))
    numbers = [int(number) for number in re.findall(r"-?\d+", path)]
    assert 29 <= numbers[0] <= 31
    assert 19 <= numbers[1] <= 21


def test_a_frayed_region_fits_the_limit_all_the_same() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((400, 400)) > 0.5
    mask[::2] = True  # one piece, with holes everywhere
    for limit in (100, 400, 1200):
        path = outline_path(region_of(mask), limit)
        assert path
        assert len(path) <= limit


def test_a_thin_line_in_a_large_photo_is_not_lost() -> None:
    mask = np.zeros((4000, 4000), bool)
    for i in range(3500):
        mask[200 + i, 200 + i : 203 + i] = True
    path = outline_path(region_of(mask))
    assert path.startswith("M")
    assert len(path) <= 1200


def test_simplified_keeps_corners_and_stays_close() -> None:
    square = np.array(
        [(x, 0) for x in range(10)]
        + [(10, y) for y in range(10)]
        + [(10 - x, 10) for x in range(10)]
        + [(0, 10 - y) for y in range(10)],
        float,
    )
    assert simplified(square, 0.1).tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 100
    few = simplified(circle, 1.0)
    assert 15 < len(few) < 60
    middles = (few + np.roll(few, -1, axis=0)) / 2
    assert np.hypot(*middles.T).min() > 98.9
