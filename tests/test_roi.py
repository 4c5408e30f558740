"""Regions of interest: which pixels they hold, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from clipsam.errors import PhotoError, UsageError
from clipsam.roi import Roi, fill

SQUARE = ((2.0, 1.0), (6.0, 1.0), (6.0, 4.0), (2.0, 4.0))


def test_a_square_holds_the_pixels_between_its_edges():
    mask = Roi((10, 6), include=(SQUARE,)).mask(6, 10)
    expected = np.zeros((6, 10), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(mask, expected)
    assert not mask.flags.writeable


def test_polygons_are_filled_by_the_centres_of_pixels():
    rng = np.random.default_rng(5)
    ys, xs = np.mgrid[:40, :60]
    centres = np.stack([xs.ravel() + 0.5, ys.ravel() + 0.5], axis=1)
    for _ in range(20):
        angles = np.sort(rng.random(7) * 2 * np.pi)  # a star-shaped polygon, which does not cross itself
        radii = rng.uniform(5, 19, 7)
        corners = np.stack([30 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1)
        oracle = Outline(corners).contains_points(centres).reshape(40, 60)
        np.testing.assert_array_equal(fill(tuple(map(tuple, corners)), (40, 60)), oracle)


def test_neighbours_share_no_pixel_and_leave_none_out():
    left = fill(((0, 0), (7.3, 0), (3.1, 9), (0, 9)), (9, 12))
    right = fill(((7.3, 0), (12, 0), (12, 9), (3.1, 9)), (9, 12))
    assert (left ^ right).all()


def test_ignore_zones_are_cut_out_of_the_photo_or_of_the_zones_to_include():
    hole = ((3.0, 2.0), (5.0, 2.0), (5.0, 3.0), (3.0, 3.0))
    everywhere_else = Roi((10, 6), ignore=(hole,)).mask(6, 10)
    assert everywhere_else.sum() == 60 - 2
    assert not everywhere_else[2, 3:5].any()
    assert Roi((10, 6), include=(SQUARE,), ignore=(hole,)).mask(6, 10).sum() == 12 - 2


def test_other_sizes_of_the_same_shape_are_scaled():
    roi = Roi((10, 6), include=(SQUARE,))
    large = roi.mask(60, 100)
    assert large[10:40, 20:60].all()
    assert large.sum() == 30 * 40
    drawn = Roi.from_mask(roi.mask(6, 10))
    np.testing.assert_array_equal(drawn.mask(60, 100), large)
    roi.mask(602, 1000)  # within one per cent
    for refused in (roi, drawn):
        with pytest.raises(PhotoError, match=r"60 x 100 px, but .* 10 x 6, another shape") as caught:
            refused.mask(100, 60)
        assert caught.value.kind == "other-shape"


def test_what_vanishes_in_a_small_photo_is_told():
    speck = Roi((1000, 600), include=(((500, 300), (503, 300), (503, 303), (500, 303)),))
    with pytest.raises(PhotoError, match="at 20 x 12 px nothing is left"):
        speck.mask(12, 20)


# ---- files


def test_polygons_of_several_products_in_one_file(tmp_path):
    path = tmp_path / "new" / "zones.json"
    bottle, screw = Roi((10, 6), include=(SQUARE,)), Roi((80, 50), ignore=(SQUARE,))
    bottle.save(path, "bottle")
    screw.save(path, "ball screw")
    for product, roi in (("bottle", bottle), ("ball screw", screw)):
        again = Roi.load(path, product)
        assert again.to_dict() == roi.to_dict()
        assert again.hash == roi.hash
    assert bottle.hash != screw.hash
    assert [file.name for file in path.parent.iterdir()] == ["zones.json"]
    with pytest.raises(UsageError, match="no region for the product 'cup'; it has: 'bottle', 'ball screw'"):
        Roi.load(path, "cup")
    content = json.loads(path.read_text())
    assert content["products"]["bottle"] == {
        "photo_size": [10, 6],
        "include": [[[2.0, 1.0], [6.0, 1.0], [6.0, 4.0], [2.0, 4.0]]],
        "ignore": [],
    }


def test_whole_numbers_and_fractions_are_the_same_region():
    rows = [{"photo_size": [10, 6], "include": [[[2, 1], [6, 1], [6, n]]]} for n in (4, 4.0)]
    assert len({Roi.from_dict(row).hash for row in rows}) == 1


def test_a_mask_image(tmp_path):
    values = np.zeros((6, 10), np.uint8)
    values[1:4, 2:6] = 255
    values[5, 5] = 127  # dark
    Image.fromarray(values).save(tmp_path / "mask.png")
    roi = Roi.load(tmp_path / "mask.png", "whatever")
    np.testing.assert_array_equal(roi.mask(6, 10), Roi((10, 6), include=(SQUARE,)).mask(6, 10))
    again = Roi.load(roi.save(tmp_path / "copy.png"))
    assert again.hash == roi.hash
    with pytest.raises(UsageError, match=r"copy.json: a mask is kept as .png"):
        roi.save(tmp_path / "copy.json")
    with pytest.raises(UsageError, match=r"zones.png: polygons are kept as .json"):
        Roi((10, 6), include=(SQUARE,)).save(tmp_path / "zones.png")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"photo_size": [10, 6]}, "has no polygon"),
        ({"photo_size": [10, 6], "include": [], "ignore": []}, "has no polygon"),
        ({"photo_size": [10], "include": [SQUARE]}, r"photo_size is \[10\]"),
        ({"include": [SQUARE]}, "photo_size is None"),
        ({"photo_size": "10x6", "include": [SQUARE]}, "photo_size is '10x6'"),
        ({"photo_size": [0, 6], "include": [SQUARE]}, "0 x 6 px"),
        ({"photo_size": [90_000, 90_000], "include": [SQUARE]}, "90000 x 90000 px"),
        ({"photo_size": [10, 6], "include": [SQUARE[:2]]}, "include 1 has 2 corners"),
        ({"photo_size": [10, 6], "ignore": [SQUARE, []]}, "ignore 2 has 0 corners"),
        ({"photo_size": [10, 6], "include": [[[1, 1], [5, 1], [9, 1]]]}, "include 1 is empty"),
        ({"photo_size": [10, 6], "include": [[[1, 1], [5, 1], [11, 1]]]}, "corner at 11, 1; .* 10 x 6"),
        ({"photo_size": [10, 6], "include": [[[1, 1], [5, 1], [None, 1]]]}, "include 1 is .* corners such"),
        ({"photo_size": [10, 6], "include": [[[1, 1], [5, 1], [float("nan"), 1]]]}, "corners such as"),
        ({"photo_size": [10, 6], "include": "all"}, "include is 'all'; expected a list"),
        ({"photo_size": [10, 6], "include": [SQUARE], "ignore": [SQUARE]}, "leaves nothing to inspect"),
        ({"photo_size": [10, 6], "exclude": [SQUARE]}, "key 'exclude'"),
        ([], r"a region is \[\]"),
    ],
)
def test_regions_that_make_no_sense(tmp_path: Path, row: Any, said: str):
    content = {"format": "clipsam-roi-1", "products": {"cup": row}}
    (tmp_path / "zones.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=rf"zones.json, product 'cup': .*{said}"):
        Roi.load(tmp_path / "zones.json", "cup")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read as regions"),
        ("[]", "format None"),
        ('{"format": "clipsam-roi-9"}', "format 'clipsam-roi-9'; expected 'clipsam-roi-1'"),
        ('{"format": "clipsam-roi-1", "products": {}}', "no products"),
    ],
)
def test_other_files_are_refused_and_not_overwritten(tmp_path, text, said):
    path = tmp_path / "zones.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        Roi.load(path)
    with pytest.raises(UsageError, match=said):
        Roi((10, 6), include=(SQUARE,)).save(path)
    assert path.read_text() == text


def test_files_that_are_neither(tmp_path):
    with pytest.raises(UsageError, match=r"there is no .*none.json"):
        Roi.load(tmp_path / "none.json")
    (tmp_path / "zones.txt").write_text("x" * 90)
    with pytest.raises(UsageError, match=r"expected a region of interest: a .json file"):
        Roi.load(tmp_path / "zones.txt")
    Image.new("L", (10, 6), 20).save(tmp_path / "dark.png")
    with pytest.raises(UsageError, match="all dark"):
        Roi.load(tmp_path / "dark.png")
