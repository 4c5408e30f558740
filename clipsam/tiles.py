"""Tiles: how a grid of patches too large for one forward pass is cut up, and its pieces blended without
seams.

Everything counts in patches; a tile is a pair of half-open ranges of rows and columns. Knows nothing of
pixels or towers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """Rows `top` to `top + height` and columns `left` to `left + width` of the grid."""

    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[slice, slice]:
        """The tile as an index into [..., h, w]."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def cut(grid: tuple[int, int], side: int, overlap: float) -> tuple[Tile, ...]:
    """Tiles of one size, at most `side` patches, that cover the grid (h, w), neighbours sharing at least
    `overlap` of a side.
    """
    (rows, height), (columns, width) = (_starts(length, side, overlap) for length in grid)
    return tuple(Tile(top, left, height, width) for top in rows for left in columns)


def _starts(length: int, side: int, overlap: float) -> tuple[list[int], int]:
    if length <= side:
        return [0], length
    shared = min(math.ceil(side * overlap), side - 1)
    count = math.ceil((length - shared) / (side - shared))
    return [round(i * (length - side) / (count - 1)) for i in range(count)], side


class Blend:
    """The weighted mean of overlapping tiles, in memory of one [k, h, w] array; weights fade linearly towards
    tile borders.
    """

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        self._sum = torch.zeros(channels, *grid)
        self._weight = torch.zeros(grid)

    def add(self, tile: Tile, values: Tensor) -> None:
        """Add the values [k, height, width] of a tile."""
        weight = _fade(tile.height)[:, None] * _fade(tile.width)
        self._sum[:, *tile.window] += values.cpu() * weight
        self._weight[tile.window] += weight

    def mean(self) -> Tensor:
        """The blended values [k, h, w]; every patch must have been covered."""
        return self._sum / self._weight


def _fade(length: int) -> Tensor:
    """1 in the middle, falling linearly to half a step above 0 at both ends."""
    steps = torch.arange(length) + 0.5
    return torch.minimum(steps, length - steps) / (length / 2)
