"""Blurs: scipy's Gaussian and box filters along both axes as products with narrow band matrices.

Input: planes [..., H, W]. Output: the same shape, equal to scipy's filters (mode "reflect") up to rounding.
For photos of equal sizes, as on a line, the matrices are made once; then a matrix product takes a fraction of
the time that the filters take tap by tap. Knows nothing of what is blurred.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_BLOCK = 24  # rows at once: fewer would mean less of the zeros beside the band, and more products


@dataclass(frozen=True, eq=False)
class Blur:
    """A blur along one axis: blocks of places, the span of places that each is made of, and weights."""

    blocks: tuple[tuple[slice, slice, NDArray[np.float32]], ...]


@lru_cache(maxsize=32)
def gaussian(side: int, sigma: float) -> Blur:
    """`scipy.ndimage.gaussian_filter1d` along an axis of `side` px."""
    return _band(ndimage.gaussian_filter1d(np.eye(side, dtype=np.float32), sigma, axis=0))


@lru_cache(maxsize=32)
def boxes(side: int, width: int, times: int = 1) -> Blur:
    """`scipy.ndimage.uniform_filter1d` of `width` px along an axis of `side` px, so many times in a row."""
    matrix = np.eye(side)
    for _ in range(times):
        matrix = ndimage.uniform_filter1d(matrix, width, axis=0)
    return _band(np.where(np.abs(matrix) > 1e-12, matrix, 0).astype(np.float32))  # running sums leave dust


def blur(planes: NDArray[np.float32], rows: Blur, columns: Blur) -> NDArray[np.float32]:
    """The planes [..., H, W], blurred by `rows` along H and by `columns` along W."""
    both = np.empty_like(planes)
    down = np.empty(planes.shape[-2:], planes.dtype)  # of one plane at a time, which a cache holds
    for index in np.ndindex(planes.shape[:-2]):
        plane, result = planes[index], both[index]
        for places, span, weights in rows.blocks:
            np.matmul(weights, plane[span], out=down[places])
        for places, span, weights in columns.blocks:
            np.matmul(down[:, span], weights.T, out=result[:, places])
    return both


def _band(matrix: NDArray[np.float32]) -> Blur:
    blocks = []
    for start in range(0, len(matrix), _BLOCK):
        places = slice(start, min(start + _BLOCK, len(matrix)))
        used = np.flatnonzero(matrix[places].any(axis=0))
        span = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((places, span, np.ascontiguousarray(matrix[places, span])))
    return Blur(tuple(blocks))
