"""The measurements of growth: what they make is what they say they make."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

EVAL = Path(__file__).parents[1] / "eval"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"eval_{name}", EVAL / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("count", [0, 1, 16, 64])
def test_spots_are_so_many_regions(count: int) -> None:
    spots = script("bench_growth").spots(count)
    assert ndimage.label(spots >= 0.4)[1] == ndimage.label(spots >= 0.5)[1] == count
    assert 0 <= spots.min() <= spots.max() <= 1


def test_the_loop_without_models_and_the_figure(tmp_path: Path) -> None:
    growth = script("bench_growth")
    row = growth.the_loop(5)
    assert row["photos"] == 5
    assert row["ms_per_photo"] > 0
    assert row["bytes_per_row"] > 100
    sized = {"megapixels": 1, "seconds": 0.5, "peak_mb": 900}
    found = {"photos": {"rows": [row, row | {"photos": 50}]}, "size": {"rows": [sized]}}
    growth.draw(found, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").width > 700  # a panel for each of the two


def test_growth_is_the_slope_of_the_second_half() -> None:
    memory = script("bench_memory")
    flat = [(number, 500.0 + (number < 400) * number) for number in range(100, 1100, 100)]
    assert memory.kilobytes_a_photo(flat) == pytest.approx(0, abs=0.01)
    leaking = [(number, 500 + 0.025 * number) for number in range(100, 1100, 100)]
    assert memory.kilobytes_a_photo(leaking) == pytest.approx(25)
    assert memory.kilobytes_a_photo(leaking[:2]) == 0.0
    assert 0 < memory.resident_mb() <= memory.peak_mb() + 20  # the kernel counts in batches


def test_photos_of_the_benches(tmp_path: Path) -> None:
    script("bench_memory").link_photos(tmp_path / "a", 7, 32, distinct=4)
    sizes = [Image.open(path).format for path in sorted((tmp_path / "a").iterdir())]
    assert sizes == ["JPEG", "PNG"] * 3 + ["JPEG"]
    arrays = script("bench_inspect").write_photos(tmp_path / "b", 10, 48)
    for array, path in zip(arrays, sorted((tmp_path / "b").iterdir()), strict=True):
        np.testing.assert_array_equal(array, np.asarray(Image.open(path).convert("RGB")))
