"""SoftMask: one of SAM's masks, kept as small logits and rendered at photo resolution on access.

Input: mask logits, and the frame that says how they lie over the photo. Output: a crop of probabilities. So
n masks cost n small arrays, however large the photo is. Knows nothing of torch or of the model that made
the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsam.odds import sigmoid
from clipsam.regions import RegionPrompt


@dataclass(frozen=True)
class MaskFrame:
    """How SAM's low-resolution mask lies over the photo; all sizes are (height, width).

    SAM 1 scales the photo to `resized` and pads it to `padded`, and the mask covers the padded square; SAM
    2 stretches the photo over the whole mask (`padded` is None). Resizing is bilinear between pixel
    centres, in the same steps as `post_process_masks` of transformers' image processors. Where SAM saw a
    crop, `photo` is the size of the crop and `origin` its upper left pixel (y, x).
    """

    photo: tuple[int, int]
    mask: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int] | None
    origin: tuple[int, int] = (0, 0)

    def weights(self, axis: int, positions: NDArray[Any]) -> NDArray[np.float32]:
        """Matrix [n, mask] that reads the mask along `axis` at n `positions` of the photo (pixel centres).

        `weights(0, ys) @ logits @ weights(1, xs).T` is the resized mask at (ys, xs), without computing the
        rest of it.
        """
        photo, mask, resized = self.photo[axis], self.mask[axis], self.resized[axis]
        positions = positions - self.origin[axis]
        if self.padded is None:
            return _matrix(*_taps(positions, mask / photo, mask), mask)
        steps = _resized_weights(mask, self.padded[axis], resized)
        lower, upper, share = _taps(positions, resized / photo, resized)
        share = share[:, None].astype(np.float32)
        return ((1 - share) * steps[lower] + share * steps[upper]).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class SoftMask:
    """A mask that SAM gave for a region: probabilities in a crop of the photo, 0 outside of it."""

    region: int  # index of the prompt it answers
    prompt: RegionPrompt
    kind: str  # how SAM was asked
    iou: float  # SAM's own estimate of the mask's quality, clipped to [0, 1]
    agreement: float  # with the coarse map, in [0, 1]; see `clipsam/sam.py`
    window: tuple[int, int, int, int]  # the crop: x0, y0, x1, y1 in photo pixels, the last two exclusive
    logits: NDArray[np.float32]  # SAM's own resolution
    frame: MaskFrame

    @property
    def x0(self) -> int:
        return self.window[0]

    @property
    def y0(self) -> int:
        return self.window[1]

    @property
    def probability(self) -> NDArray[np.float32]:
        """The mask at photo resolution, float32 [y1 - y0, x1 - x0] in [0, 1]; computed at every access."""
        return self.part(self.window)

    def within(self, rows: slice) -> tuple[int, int, int, int]:
        """The part of the window that lies in some rows of the photo; of no height where none does."""
        x0, y0, x1, y1 = self.window
        first = max(y0, rows.start)
        return x0, first, x1, max(first, min(y1, rows.stop))

    def part(self, window: tuple[int, int, int, int]) -> NDArray[np.float32]:
        """The mask in a part of its window, in photo pixels."""
        x0, y0, x1, y1 = window
        rows, columns = self.frame.weights(0, np.arange(y0, y1)), self.frame.weights(1, np.arange(x0, x1))
        return sigmoid(np.asarray(rows @ self.logits @ columns.T, np.float32))


def _taps(
    positions: NDArray[Any], scale: float, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Between which two pixels, and at which share of the second, the centres of another grid fall."""
    source = np.clip((positions + 0.5) * scale - 0.5, 0, size - 1)
    lower = source.astype(np.intp)
    return lower, np.minimum(lower + 1, size - 1), source - lower


def _matrix(
    lower: NDArray[np.intp], upper: NDArray[np.intp], share: NDArray[np.float64], size: int
) -> NDArray[np.float32]:
    matrix = np.zeros((len(lower), size), dtype=np.float32)
    each = np.arange(len(lower))
    matrix[each, lower] = 1 - share
    matrix[each, upper] += share.astype(np.float32)
    return matrix


@lru_cache(maxsize=16)
def _resized_weights(mask: int, padded: int, resized: int) -> NDArray[np.float32]:
    """The first of SAM 1's two steps: mask to padded square, of which `resized` pixels show the photo."""
    return _matrix(*_taps(np.arange(resized), mask / padded, mask), mask)
