"""Bands: matrices that are 0 but near a diagonal, as blocks, for filters and resizing along one axis.

Input: planes [cells, n] or [n, cells]. Output: the matrix times them, by dense products of small blocks: a
fraction of the time that filters and Pillow take tap by tap. Knows nothing of what is filtered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BLOCK = 24  # rows at once: fewer would mean less of the zeros beside the band, and more products

Block = tuple[slice, slice, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Band:
    """A matrix [places, cells]. Of each of its `blocks`: rows, the span of columns where they are not 0, and
    the weights there.
    """

    shape: tuple[int, int]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, matrix: NDArray[np.floating]) -> Band:
        """The band of a dense matrix."""
        starts = range(0, len(matrix), BLOCK)
        blocks = (_block(start, 0, matrix[start : start + BLOCK]) for start in starts)
        return cls((matrix.shape[0], matrix.shape[1]), tuple(blocks))

    def down(self, plane: NDArray[np.float32], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Along the first axis: [cells, n] -> [places, n]."""
        result = np.empty((self.shape[0], plane.shape[1]), np.float32) if out is None else out
        for places, span, weights in self.blocks:
            np.matmul(weights, plane[span], out=result[places])
        return result

    def across(
        self, plane: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Along the second axis: [n, cells] -> [n, places]."""
        result = np.empty((len(plane), self.shape[0]), np.float32) if out is None else out
        for places, span, weights in self.blocks:
            np.matmul(plane[:, span], weights.T, out=result[:, places])
        return result

    def after(self, first: Band) -> Band:
        """One matrix that does both, `first` before this one: [places, cells of the first]."""
        products = []
        for places, span, weights in self.blocks:
            start, stop, dense = first._dense(span)
            products.append((places, slice(start, stop), weights @ dense))
        return Band((self.shape[0], first.shape[1]), tuple(products))

    def _dense(self, rows: slice) -> tuple[int, int, NDArray[np.float32]]:
        """These rows as a matrix of the columns from `start` to `stop`."""
        met = [block for block in self.blocks if block[0].start < rows.stop and block[0].stop > rows.start]
        start, stop = min(span.start for _, span, _ in met), max(span.stop for _, span, _ in met)
        dense = np.zeros((met[-1][0].stop - met[0][0].start, stop - start), np.float32)
        for places, span, weights in met:
            first = places.start - met[0][0].start
            dense[first : first + len(weights), span.start - start : span.stop - start] = weights
        first = rows.start - met[0][0].start
        return start, stop, dense[first : first + rows.stop - rows.start]


@lru_cache(maxsize=32)
def bilinear(cells: int, places: int) -> Band:
    """Pillow's bilinear resizing of `cells` px to `places` px; it averages where it shrinks."""
    step = cells / places
    reach = max(step, 1.0)
    blocks = []
    for start in range(0, places, BLOCK):
        centres = (np.arange(start, min(start + BLOCK, places)) + 0.5) * step
        first, last = max(0, int(centres[0] - reach)), min(cells, int(centres[-1] + reach) + 1)
        apart = np.abs(np.arange(first, last) + 0.5 - centres[:, None]) / reach
        weights = np.clip(1 - apart, 0, None)
        blocks.append(_block(start, first, weights / weights.sum(axis=1, keepdims=True)))
    return Band((places, cells), tuple(blocks))


def _block(place: int, cell: int, rows: NDArray[np.floating]) -> Block:
    """The block of some rows of a matrix, the first of them `place`, given from the column `cell` on."""
    used = np.flatnonzero(rows.any(axis=0))
    first, last = int(used[0]), int(used[-1]) + 1
    weights = np.ascontiguousarray(rows[:, first:last], np.float32)
    return slice(place, place + len(rows)), slice(cell + first, cell + last), weights
