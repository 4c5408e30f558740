"""Blurs: scipy's Gaussian and box filters along both axes as products with narrow band matrices.

Input: planes [..., H, W]. Output: the same shape, equal to scipy's filters (mode "reflect") up to rounding.
For photos of equal sizes, as on a line, the matrices are made once. What a wide blur leaves is so smooth
that it is computed at every third place and fitted between. Knows nothing of what is blurred.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.bands import Band

_STEP = 3  # of so many places of a wide blur one is computed, and the others are made of these
_TAPS = 6  # computed places of which one is made
_FIT = 3e-5  # by which a plane of noise of spread 1 may come out otherwise; photos have next to none
_EVEN = 30.0  # how much more than noise what is even counts in the fit

Blur = tuple[Band, ...]
"""A blur along one axis: matrices to multiply with one after the other."""


@lru_cache(maxsize=32)
def gaussian(side: int, sigma: float) -> Blur:
    """`scipy.ndimage.gaussian_filter1d` along an axis of `side` px."""
    return _blur(ndimage.gaussian_filter1d(np.eye(side), sigma, axis=0))


@lru_cache(maxsize=32)
def boxes(side: int, width: int, times: int = 1) -> Blur:
    """`scipy.ndimage.uniform_filter1d` of `width` px along an axis of `side` px, so many times in a row."""
    matrix = np.eye(side)
    for _ in range(times):
        matrix = ndimage.uniform_filter1d(matrix, width, axis=0)
    return _blur(np.where(np.abs(matrix) > 1e-12, matrix, 0))  # running sums leave dust


def blur(planes: NDArray[np.float32], rows: Blur, columns: Blur) -> NDArray[np.float32]:
    """The planes [..., H, W], blurred by `rows` along H and by `columns` along W."""
    if planes.ndim > 2:  # one plane at a time, which a cache holds
        return np.stack([blur(plane, rows, columns) for plane in planes])
    for down, across in zip_longest(rows, columns):
        planes = planes if down is None else down.down(planes)
        planes = planes if across is None else across.across(planes)
    return planes


def _blur(matrix: NDArray[np.float64]) -> Blur:
    """The matrix as one band, or as two where that is less work and as good."""
    side = len(matrix)
    if np.count_nonzero(matrix[side // 2]) < 16 * _STEP:
        return (Band.of(matrix),)
    chosen = np.unique([*range(_STEP // 2, side, _STEP), 0, side - 1])
    some = matrix[chosen]
    between = _between(matrix, some, chosen)
    apart = between @ some - matrix
    if np.sqrt(np.einsum("pc,pc->p", apart, apart).max()) > _FIT:
        return (Band.of(matrix),)
    return Band.of(some), Band.of(between)


def _between(
    matrix: NDArray[np.float64], some: NDArray[np.float64], chosen: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Rows of `matrix` made of the nearest of `some`, those of its rows that are `chosen`: weights [side,
    chosen]; least squares over planes whose neighbours are alike, as in photos.
    """
    first = np.searchsorted(chosen, np.arange(len(matrix))) - _TAPS // 2
    taps = np.clip(first, 0, len(chosen) - _TAPS)[:, None] + np.arange(_TAPS)
    given, wanted = _steps(some), _steps(matrix)
    like, wanted = given @ given.T, wanted @ given.T
    each = np.arange(len(matrix))[:, None]
    weights = np.linalg.solve(like[taps[:, :, None], taps[:, None]], wanted[each, taps][..., None])
    result = np.zeros(wanted.shape)
    result[each, taps] = weights[..., 0]
    return result


def _steps(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What rows of weights make of a step at each place, and of an even plane."""
    steps = np.cumsum(rows[:, ::-1], axis=1)[:, ::-1].copy()
    steps[:, 0] *= _EVEN
    return steps
