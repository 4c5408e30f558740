"""Tiles: they cover every grid, keep their overlap, and blend without seams."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipsam.tiles import Blend, Tile, cut


@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 40), st.floats(0, 0.9))
def test_tiles_cover_the_grid_with_their_overlap(height: int, width: int, side: int, overlap: float) -> None:
    tiles = cut((height, width), side, overlap)
    covered = torch.zeros(height, width, dtype=torch.int)
    for tile in tiles:
        assert 0 <= tile.top <= height - tile.height
        assert 0 <= tile.left <= width - tile.width
        covered[tile.window] += 1
    assert covered.min() >= 1
    assert {(tile.height, tile.width) for tile in tiles} == {(min(height, side), min(width, side))}
    for starts, length in (({t.top for t in tiles}, height), ({t.left for t in tiles}, width)):
        steps = [b - a for a, b in zip(sorted(starts), sorted(starts)[1:], strict=False)]
        shared = min(round(overlap * side), side - 1)
        assert all(min(length, side) - step >= shared - 1 for step in steps)


def test_a_grid_that_fits_is_one_tile() -> None:
    assert cut((7, 12), 12, 0.25) == (Tile(0, 0, 7, 12),)


def test_no_more_tiles_than_needed() -> None:
    assert len(cut((20, 20), 10, 0.0)) == 4
    assert len(cut((19, 10), 10, 0.1)) == 2


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_what_all_tiles_agree_on_is_kept_exactly(overlap: float) -> None:
    """Cut from one field, constant or not, the tiles give that field back."""
    field = torch.linspace(-3, 5, 23 * 31).reshape(1, 23, 31).repeat(2, 1, 1) ** 3
    field[1] = 0.25
    blend = Blend(2, (23, 31))
    for tile in cut((23, 31), 8, overlap):
        blend.add(tile, field[:, *tile.window])
    torch.testing.assert_close(blend.mean(), field)


def test_disagreeing_tiles_fade_into_each_other() -> None:
    """Tiles at different levels: steps between neighbours are a small part of the difference."""
    tiles = cut((16, 16), 10, 0.4)
    assert len(tiles) == 4
    blend = Blend(1, (16, 16))
    for level, tile in enumerate(tiles):
        blend.add(tile, torch.full((1, tile.height, tile.width), float(level % 2 + level // 2)))
    mean = blend.mean()[0]
    assert mean[0, 0] == 0
    assert mean[-1, -1] == 2
    assert mean.diff(dim=0).abs().max() < 0.35
    assert mean.diff(dim=1).abs().max() < 0.35
    assert (mean.diff(dim=0) >= -1e-6).all()
