from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from clipsam.result import Region, Segmentation


def region_of(full: np.ndarray, **known: object) -> Region:
    ys, xs = np.nonzero(full)
    x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
    values = {"score": 0.75, "defect": "scratch", **known}
    return Region((x0, y0, x1, y1), int(full.sum()), crop=full[y0:y1, x0:x1], photo_size=full.shape, **values)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = True
    return mask


@given(masks())
@settings(max_examples=300, deadline=None)
def test_rle_equals_the_encoding_of_the_full_mask(full: np.ndarray) -> None:
    region = region_of(full)
    expected = coco.encode(np.asfortranarray(full.astype(np.uint8)))
    assert region.rle() == {"size": list(full.shape), "counts": expected["counts"].decode()}
    np.testing.assert_array_equal(region.mask, full)


@pytest.mark.parametrize(
    "full", [np.ones((5, 4), bool), np.eye(6, dtype=bool), np.pad([[True]], ((7, 0), (3, 0)))]
)
def test_rle_at_the_borders_of_the_photo(full: np.ndarray) -> None:
    np.testing.assert_array_equal(coco.decode(region_of(full).rle()).astype(bool), full)


def test_rle_of_a_huge_photo_builds_no_full_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Region, "mask", property(lambda self: pytest.fail("the full mask was built")))
    region = Region((60_000, 40_000, 60_003, 40_002), 6, 0.5, "hole", np.ones((2, 3), bool), (50_000, 70_000))
    assert coco.area({**region.rle(), "counts": region.rle()["counts"].encode()}) == 6
    assert coco.toBbox(region.rle()).tolist() == [60_000, 40_000, 3, 2]


def test_region_survives_a_round_trip_through_json() -> None:
    full = np.zeros((20, 31), dtype=bool)
    full[3:9, 5:7] = full[7, 2:20] = True
    region = region_of(full, defect="Öl", score=0.123456789)
    again = Region.from_dict(json.loads(json.dumps(region.to_dict())))
    np.testing.assert_array_equal(again.mask, full)
    assert (again.box_xyxy, again.area_px, again.score, again.defect) == (
        region.box_xyxy,
        region.area_px,
        region.score,
        region.defect,
    )


def test_segmentation_row_has_the_fields_of_results_jsonl() -> None:
    full = np.zeros((4, 6), dtype=bool)
    full[1, 2] = True
    result = Segmentation(
        score=0.5,
        anomaly_map=np.zeros((4, 6), np.float32),
        coarse_map=np.zeros((4, 6), np.float32),
        mask=full,
        regions=(region_of(full),),
        timings={"heatmap": 0.25, "sam": 0.5},
        path=Path("parts/ä b.png"),
        sha256="ab",
    )
    row = json.loads(json.dumps(result.to_dict()))
    assert list(row) == ["path", "sha256", "score", "is_defective", "regions", "seconds"]
    assert row["path"] == "parts/ä b.png"
    assert row["is_defective"] is None
    assert row["seconds"] == 0.75
    assert row["regions"][0]["box_xyxy"] == [2, 1, 3, 2]
