from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from clipsam.nano.corpus import defects
from clipsam.nano.corpus.defect_blend import VISIBLE
from clipsam.nano.corpus.defect_shapes import behind, edge_pixels, noise, patch_at, soft
from clipsam.nano.corpus.part import Part, Piece


def disc(seed: int = 0, side: int = 128) -> Part:
    """A textured disc on a bright ground with a lid that can go missing."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:side, :side].astype(np.float32)
    radius = np.hypot(yy - side / 2, xx - side / 2)
    body = 0.4 + 0.1 * np.cos(radius / 5) + 0.02 * noise(rng, (side, side), 2)
    image = np.where((radius < 0.4 * side)[..., None], body[..., None] * np.array([1, 0.9, 0.8]), 0.9).astype(
        np.float32
    )
    lid = np.hypot(yy - side * 0.4, xx - side * 0.55) < side * 0.08
    with_lid = np.where(lid[..., None], np.float32(0.75), image).astype(np.float32)
    pieces = (Piece("lid", lid, image), Piece("print", np.roll(lid, 20, axis=0)))
    return Part(with_lid, "disc", ("disc",), radius < 0.4 * side, pieces, None, (0.5, -0.5, 0.7), "object")


def plate(seed: int = 0, side: int = 128) -> Part:
    """An even textured surface that fills the picture."""
    grain = 0.5 + 0.02 * noise(np.random.default_rng(seed), (side, side), 2, 2)
    image = np.repeat(grain[..., None], 3, axis=2).astype(np.float32)
    return Part(
        image, "plate", ("plate",), np.ones((side, side), bool), (), None, (0.5, -0.5, 0.7), "surface"
    )


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_each_type_changes_what_its_mask_says_and_little_else(defect: str) -> None:
    found = 0
    for seed in range(12):
        part = disc(seed)
        before = part.image.copy()
        change = defects.apply(np.random.default_rng(seed), part, defect)
        assert np.array_equal(part.image, before), "the part itself must stay as it was"
        if change is None:
            continue
        found += 1
        image, mask = change
        assert image.shape == before.shape
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert mask.dtype == bool
        assert mask.shape == part.solid.shape
        difference = np.abs(image - before).max(axis=2)
        assert (difference[mask] > VISIBLE).sum() >= 3
        assert mask.mean() < 0.6
    assert found >= 8


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_surfaces_without_pieces_or_outline(defect: str) -> None:
    changes = [defects.apply(np.random.default_rng(k), plate(k), defect) for k in range(6)]
    if defect in ("missing part", "misplaced part"):
        assert changes == [None] * 6
    elif defect != "deformation":  # an even surface bends unseen
        assert sum(change is not None for change in changes) >= 4


@pytest.mark.parametrize("defect", defects.DEFECTS)
def test_same_seed_same_defect(defect: str) -> None:
    first, second = (defects.apply(np.random.default_rng(5), disc(), defect) for _ in range(2))
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert np.array_equal(first[0], second[0])
        assert np.array_equal(first[1], second[1])


def test_missing_part_shows_the_part_without_it() -> None:
    part = disc()
    change = defects.apply(np.random.default_rng(0), part, "missing part")
    assert change is not None
    lid = part.pieces[0]
    assert lid.without is not None
    assert np.allclose(change[0][lid.mask], lid.without[lid.mask])
    assert (change[1] & lid.mask).sum() > 0.9 * lid.mask.sum()


def test_mask_is_where_the_change_is() -> None:
    part = plate()
    for seed in range(10):
        change = defects.apply(np.random.default_rng(seed), part, "hole")
        assert change is not None
        difference = np.abs(change[0] - part.image).max(axis=2)
        assert difference[change[1]].mean() > 10 * difference[~change[1]].mean()


def test_sizes_span_from_specks_to_half_the_picture() -> None:
    shares = []
    for seed in range(150):
        kind = ("stain", "broken", "bubble")[seed % 3]
        change = defects.apply(np.random.default_rng(seed), plate(), kind)
        if change is not None:
            shares.append(float(change[1].mean()))
    assert min(shares) < 12 / 128**2
    assert max(shares) > 0.05


def test_non_square_pictures() -> None:
    wide = plate(side=160)
    wide = replace(wide, image=wide.image[:64].copy(), solid=wide.solid[:64].copy())
    for seed, defect in enumerate(defects.DEFECTS):
        change = defects.apply(np.random.default_rng(seed), wide, defect)
        if change is not None:
            assert change[0].shape == (64, 160, 3)


def test_held_out_and_tables_name_known_types() -> None:
    named = {*defects.HELD_OUT, *defects.MOVING, *defects.SHARES, *defects.LARGE, *defects.LONG}
    assert named <= set(defects.DEFECTS)
    assert 2 <= len(defects.HELD_OUT) <= 3


def test_unknown_type_is_refused() -> None:
    with pytest.raises(KeyError):
        defects.apply(np.random.default_rng(0), plate(), "no such type")


def test_a_defect_takes_milliseconds() -> None:
    part, rng = disc(side=256), np.random.default_rng(0)
    start = time.process_time()
    for defect in [*defects.DEFECTS] * 3:
        defects.apply(rng, part, defect)
    assert (time.process_time() - start) / (
        3 * len(defects.DEFECTS)
    ) < 0.03  # about 4 ms where nothing else runs


def test_background_is_grown_under_the_part() -> None:
    part = disc()
    ground = behind(part)
    assert np.abs(ground[part.solid] - 0.9).max() < 0.15
    assert ground.dtype == np.float32


def test_edge_pixels_ignore_the_frame() -> None:
    assert not edge_pixels(np.ones((5, 5), bool)).any()
    solid = np.zeros((5, 5), bool)
    solid[1:4, 1:4] = True
    assert edge_pixels(solid).sum() == 8


def test_patch_is_cut_at_the_frame_and_centred() -> None:
    patch = patch_at((20, 30), 1, 28, 5)
    assert patch.shape == (patch.rows.stop, 30 - patch.cols.start)
    assert patch.yy[1, 0] == 0
    assert patch.xx[0, 28 - patch.cols.start] == 0


def test_noise_has_the_asked_shape_and_scale() -> None:
    for shape, cell in (((7, 90), 3.0), ((64, 64), 200.0), ((5, 5), 1.0)):
        field = noise(np.random.default_rng(0), shape, cell, 2)
        assert field.shape == shape
    assert 0.5 < noise(np.random.default_rng(1), (128, 128), 4.0).std() < 1.6


def test_soft_cover_is_half_at_the_rim() -> None:
    assert soft(np.array([-5.0, 0.0, 5.0], np.float32), 2.0).tolist() == [0.0, 0.5, 1.0]
