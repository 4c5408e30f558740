"""The flawless world of the corpus: every family keeps the contract of `Part`, is repeatable and quick."""

from __future__ import annotations

import time

import numpy as np
import pytest

from clipsam.nano.corpus.camera import photograph
from clipsam.nano.corpus.families import FAMILIES, HELD_OUT, TRAIN_OBJECTS, TRAIN_SURFACES
from clipsam.nano.corpus.objects import OBJECTS
from clipsam.nano.corpus.part import Part, render_part
from clipsam.nano.corpus.surfaces import SURFACES


def draw(name: str, seed: int, height: int = 96, width: int = 128) -> Part:
    return FAMILIES[name](np.random.default_rng(seed), height, width)


@pytest.mark.parametrize("name", FAMILIES)
def test_part_keeps_its_contract(name: str) -> None:
    for seed, (height, width) in enumerate([(96, 128), (130, 70), (64, 64)]):
        part = draw(name, seed, height, width)
        assert part.image.shape == (height, width, 3)
        assert part.image.dtype == np.float32
        assert np.isfinite(part.image).all()
        assert part.image.min() >= 0
        assert part.image.max() <= 1
        assert part.solid.shape == (height, width)
        assert part.solid.dtype == bool
        assert part.kind == ("surface" if name in SURFACES else "object")
        assert part.product == part.names[0]
        assert len(set(part.names)) == len(part.names) >= 2
        assert np.linalg.norm(part.light) == pytest.approx(1, abs=1e-6)
        assert part.light[2] > 0
        if part.relief is not None:
            assert part.relief.shape == (height, width)
            assert part.relief.dtype == np.float32
            assert np.isfinite(part.relief).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_seeds_give_equal_parts_and_others_differ(name: str) -> None:
    one, same, other = draw(name, 5), draw(name, 5), draw(name, 6)
    assert np.array_equal(one.image, same.image)
    assert np.array_equal(one.solid, same.solid)
    assert [p.name for p in one.pieces] == [p.name for p in same.pieces]
    assert np.abs(one.image - other.image).mean() > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_can_be_taken_away(name: str) -> None:
    for seed in range(4):
        part = draw(name, seed)
        for piece in part.pieces:
            assert piece.mask.shape == part.solid.shape
            assert piece.mask.dtype == bool
            assert np.count_nonzero(piece.mask) >= 12
            if piece.without is None:
                continue
            assert piece.without.shape == part.image.shape
            assert piece.without.dtype == np.float32
            assert piece.without.min() >= 0
            assert piece.without.max() <= 1
            near = np.pad(piece.mask, 4)
            near = sum(np.roll(near, (y, x), (0, 1)) for y in range(-3, 4) for x in range(-3, 4)) > 0
            far = ~near[4:-4, 4:-4]
            change = np.abs(piece.without - part.image).max(axis=2)
            assert change[far].max(initial=0) <= 0.31, "a missing piece changes only its own place"


@pytest.mark.parametrize("name", SURFACES)
def test_surface_fills_the_photo(name: str) -> None:
    assert draw(name, 1).solid.all()


@pytest.mark.parametrize("name", OBJECTS)
def test_object_is_seen(name: str) -> None:
    shares = [draw(name, seed).solid.mean() for seed in range(6)]
    assert max(shares) > 0.03
    assert min(shares) > 0.002


def test_objects_mostly_leave_background() -> None:
    shares = [draw(name, seed).solid.mean() for name in OBJECTS for seed in range(2)]
    assert np.mean(np.array(shares) < 0.95) > 0.7


def test_some_parts_have_removable_pieces() -> None:
    with_pieces = [
        n for n in OBJECTS if any(p.without is not None for s in range(6) for p in draw(n, s).pieces)
    ]
    assert len(with_pieces) >= 14


def test_held_out_families_are_never_drawn_for_training() -> None:
    assert 3 <= len(HELD_OUT) <= 5
    assert set(HELD_OUT) <= set(FAMILIES)
    assert not set(HELD_OUT) & (set(TRAIN_SURFACES) | set(TRAIN_OBJECTS))
    assert set(HELD_OUT) | set(TRAIN_SURFACES) | set(TRAIN_OBJECTS) == set(SURFACES) | set(OBJECTS)


def test_render_part_draws_both_kinds_and_only_named_families() -> None:
    kinds = {render_part(np.random.default_rng(seed), 64, 64).kind for seed in range(12)}
    assert kinds == {"surface", "object"}
    assert render_part(np.random.default_rng(0), 64, 64, families=["zipper"]).product == "zipper"
    with pytest.raises(KeyError):
        render_part(np.random.default_rng(0), 64, 64, families=["no such family"])


def test_camera_keeps_shape_range_and_content() -> None:
    part, likeness = draw("label", 3), []
    for seed in range(12):
        photo = photograph(part.image, np.random.default_rng(seed))
        assert photo.shape == part.image.shape
        assert photo.dtype == np.float32
        assert photo.min() >= 0
        assert photo.max() <= 1
        likeness.append(np.corrcoef(photo.mean(2).ravel(), part.image.mean(2).ravel())[0, 1])
        assert np.array_equal(photo, photograph(part.image, np.random.default_rng(seed)))
    assert np.median(likeness) > 0.8


def test_rendering_is_quick() -> None:
    rng = np.random.default_rng(0)
    render_part(rng, 64, 64)
    start = time.process_time()
    for _ in range(20):
        render_part(rng, 256, 256)
    assert (time.process_time() - start) / 20 < 0.15  # seconds a part; about 0.01 on an idle core
