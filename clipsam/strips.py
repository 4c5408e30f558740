"""Strips: a large photo is worked on a few rows at a time, so that what is computed on the way stays small.

Input: arrays [H, W, ...] of a photo. Output: slices of rows, the box around a mask, and pictures resized
strip by strip. A photo of ordinary size is one strip, and nothing changes for it. Knows nothing of what is
computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PIXELS = 2**22  # of a strip; a float32 plane of it is 16 MB

_REACH = {Image.Resampling.BOX: 0.5, Image.Resampling.BILINEAR: 1.0}  # Pillow's support, in source steps


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows of an array [H, W, ...], each of at most `PIXELS` places, or a single row."""
    rows = max(1, PIXELS // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The box x0, y0, x1, y1 (the last two exclusive) around all that is set in a mask [H, W]; None where
    nothing is.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def resized(
    values: NDArray[Any], shape: tuple[int, ...], filtering: Image.Resampling = Image.Resampling.BILINEAR
) -> NDArray[Any]:
    """float32 [h, w] or uint8 [h, w, 3] at the size (H, W) of `shape`, by Pillow; an array of its own.

    `filtering`: BILINEAR or BOX. Large pictures go through Pillow, which copies them, in strips; the same up
    to rounding.
    """
    (height, width), target = values.shape[:2], (shape[0], shape[1])
    if (height, width) == target:
        return values.copy()
    if max(height * width, math.prod(target)) <= PIXELS:
        return np.array(Image.fromarray(values).resize(target[::-1], filtering))
    result = np.empty((*target, *values.shape[2:]), values.dtype)
    wide = max(target[1], round(width * height / target[0]))  # source pixels per row of the result count too
    for rows in strips((target[0], wide)):
        result[rows] = resized_rows(values, target, rows, filtering)
    return result


def resized_rows(
    values: NDArray[Any],
    shape: tuple[int, ...],
    rows: slice,
    filtering: Image.Resampling = Image.Resampling.BILINEAR,
) -> NDArray[Any]:
    """The rows `rows` of what `resized` gives, computed from the part of `values` that they need."""
    (height, width), target = values.shape[:2], (shape[0], shape[1])
    if (height, width) == target:
        return values[rows].copy()
    if (rows.start, rows.stop) == (0, target[0]):
        return np.array(Image.fromarray(values).resize(target[::-1], filtering))
    step = height / target[0]
    reach = math.ceil(_REACH[filtering] * max(step, 1)) + 1
    first = max(0, math.floor(rows.start * step) - reach)
    last = min(height, math.ceil(rows.stop * step) + reach)
    # Pillow reads beyond the box, so that parts fit together. It takes the box as single floats: relative to
    # the part they are exact enough.
    box = (0, max(0.0, rows.start * step - first), width, min(rows.stop * step, height) - first)
    part = Image.fromarray(np.ascontiguousarray(values[first:last]))
    return np.array(part.resize((target[1], rows.stop - rows.start), filtering, box=box))
