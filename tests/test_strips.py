"""Strips: what is done to a large photo piece by piece is what is done to it at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import segmentation_of
from PIL import Image

import clipsam.strips
from clipsam.edges import guided, sharpen
from clipsam.fusion import find_regions, fuse
from clipsam.images import read_photo
from clipsam.masks import MaskFrame, SoftMask
from clipsam.regions import region_prompts
from clipsam.result import Region
from clipsam.runs.overlay import draw_overlay
from clipsam.runs.pictures import map_to_png
from clipsam.settings import FusionSettings
from clipsam.strips import bounds, resized, resized_rows, strips

SHAPE = (301, 187)


def in_small_strips(monkeypatch: pytest.MonkeyPatch, width: int = SHAPE[1], rows: int = 23) -> None:
    """From here on strips are of a few rows, as if photos were a thousand times larger."""
    monkeypatch.setattr(clipsam.strips, "PIXELS", width * rows)


def random() -> np.random.Generator:
    return np.random.default_rng(7)


def field(cells: int = 9) -> np.ndarray:
    """A smooth map in [0, 1]."""
    return resized(random().random((cells, cells), np.float32), SHAPE)


def photo() -> np.ndarray:
    return random().integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def test_strips_cover_all_rows_once_and_an_ordinary_photo_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(strips((1600, 2400, 3))) == [slice(0, 1600)]
    assert len(list(strips((10_000, 10_000)))) > 20
    in_small_strips(monkeypatch, 300, 77)
    found = list(strips((1000, 300)))
    assert [rows.start for rows in found] == list(range(0, 1000, 77))
    assert [rows.stop for rows in found[:-1]] == [rows.start for rows in found[1:]]
    assert found[-1].stop == 1000
    assert list(strips((5, 10**9))) == [slice(n, n + 1) for n in range(5)]


def test_the_box_around_a_mask() -> None:
    mask = np.zeros((9, 12), bool)
    assert bounds(mask) is None
    mask[6, 2] = mask[3, 10] = True
    assert bounds(mask) == Image.fromarray(mask).getbbox() == (2, 3, 11, 7)


@pytest.mark.parametrize("source", [(40, 33), (301, 187), (997, 500)])
def test_resizing_in_strips_is_resizing(monkeypatch: pytest.MonkeyPatch, source: tuple[int, int]) -> None:
    in_small_strips(monkeypatch)
    values = random().random(source, np.float32)
    expected = np.asarray(Image.fromarray(values).resize(SHAPE[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resized(values, SHAPE), expected, atol=1e-4)
    for rows in (slice(0, 1), slice(100, 140), slice(290, 301)):
        np.testing.assert_allclose(resized_rows(values, SHAPE, rows), expected[rows], atol=1e-4)


def test_photos_are_shrunk_in_strips_too(monkeypatch: pytest.MonkeyPatch) -> None:
    in_small_strips(monkeypatch)
    pixels = photo()
    expected = np.asarray(Image.fromarray(pixels).resize((50, 81), Image.Resampling.BOX))
    found = resized(pixels, (81, 50), Image.Resampling.BOX)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_sharpening_and_guiding_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = FusionSettings(edge_weight=0.4, edge_guide=0.02)
    coarse, pixels = field(), photo()
    expected = sharpen(coarse, pixels, settings), guided(coarse, pixels, 0.02)
    in_small_strips(monkeypatch)
    np.testing.assert_allclose(sharpen(coarse, pixels, settings), expected[0], atol=1e-4)
    np.testing.assert_allclose(guided(coarse, pixels, 0.02), expected[1], atol=1e-4)


@pytest.mark.parametrize("merge", ["lift", "redraw", "blend"])
@pytest.mark.parametrize("normalisation", ["region", "photo", "peak"])
def test_fusing_in_strips(monkeypatch: pytest.MonkeyPatch, merge: str, normalisation: str) -> None:
    settings = FusionSettings(merge=merge, normalisation=normalisation, weighting="agreement")
    coarse = field()
    prompts = region_prompts(coarse)
    assert len(prompts) > 1
    frame = MaskFrame(SHAPE, (64, 64), SHAPE, None)
    noise = random()
    masks = [
        SoftMask(
            region=region,
            prompt=prompt,
            kind=kind,
            iou=0.8,
            agreement=0.3 + 0.1 * region,
            window=_wider(prompt.offset, prompt.component.shape),
            logits=noise.normal(0, 3, (64, 64)).astype(np.float32),
            frame=frame,
        )
        for region, prompt in enumerate(prompts)
        for kind in ("points", "box")
    ]
    expected = fuse(coarse, masks, settings)
    assert np.abs(expected - coarse).max() > 0.01
    in_small_strips(monkeypatch)
    np.testing.assert_allclose(fuse(coarse, masks, settings), expected, atol=1e-5)


def _wider(offset: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    (x, y), (height, width) = offset, shape
    return max(x - 20, 0), max(y - 20, 0), min(x + width + 20, SHAPE[1]), min(y + height + 20, SHAPE[0])


def test_types_pictures_and_photos_in_strips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values, pixels = field(), photo()
    types = random().random((5, 12, 8), np.float32)
    names = tuple("abcde")
    Image.fromarray(random().integers(0, 256, (*SHAPE, 4), dtype=np.uint8), "RGBA").save(tmp_path / "a.png")
    turned = Image.fromarray(pixels)
    turned.getexif()[274] = 6
    turned.save(tmp_path / "b.png", exif=turned.getexif())

    def all_of_it() -> list[object]:
        _, regions = find_regions(values, types, names, 0.5, replace(FusionSettings(), min_area=0))
        assert len(regions) > 1
        overlay = np.asarray(draw_overlay(pixels, segmentation_of(values))).tolist()
        photos = [read_photo(tmp_path / name).pixels.tolist() for name in ("a.png", "b.png")]
        return [[region.to_dict() for region in regions], map_to_png(values), overlay, photos]

    expected = all_of_it()
    in_small_strips(monkeypatch)
    assert all_of_it() == expected


def test_the_runs_of_a_region_are_those_of_its_whole_mask() -> None:
    crop = random().random((30, 20)) > 0.4
    crop[:, 3] = crop[0, 4] = True
    region = Region((160, 271, 180, 301), int(crop.sum()), 0.5, "a", crop, SHAPE)
    again = Region.from_dict(region.to_dict())
    np.testing.assert_array_equal(again.mask, region.mask)
