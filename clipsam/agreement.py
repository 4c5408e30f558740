"""Agreement: how well SAM's masks match the coarse map, and which of them are kept.

Input: mask logits with SAM's IoU scores, and the regions of the map that were asked about. Output: a
`Verdict`. All is judged on a small grid over the photo, at most as fine as the masks. Knows nothing of how
the masks were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.masks import MaskFrame
from clipsam.regions import RegionPrompt
from clipsam.settings import SamSettings

_BETA = 0.5  # precision counts twice as much as recall: a coarse map is wider than its defect
_TAIL = 0.02  # lower probabilities count as 0: summed over a photo they would outweigh a small mask


@dataclass(frozen=True)
class Verdict:
    """For n prompts with m answers each: which answer is best, whether it is kept, and what speaks for it."""

    best: Tensor  # [n] index of the answer that `SamSettings.selection` prefers among those not refused
    accepted: Tensor  # [n] bool: whether any answer is not refused
    iou: Tensor  # [n] SAM's own score of the best answer, clipped to [0, 1]
    agreement: Tensor  # [n] in [0, 1]
    windows: list[tuple[int, int, int, int]]  # n crops x0, y0, x1, y1 of the photo that hold the best answer


class MapView:
    """The regions of one photo's coarse map, as SAM's masks see them.

    Agreement is the F-measure (beta 0.5) of a soft mask against the map, stretched for each region so that
    its cut-off is 0 and its peak is 1. Recall is taken over the region alone: one mask need not explain the
    other regions.
    """

    def __init__(
        self,
        coarse: NDArray[np.float32],
        prompts: Sequence[RegionPrompt],
        frame: MaskFrame,
        device: torch.device,
    ) -> None:
        self._photo = frame.photo
        # As many cells as the mask has over the photo: fewer would overlook parts of it, more show nothing.
        shown = zip(frame.photo, frame.mask, frame.resized, frame.padded or frame.resized, strict=True)
        self._grid = tuple(
            min(photo, max(1, round(mask * resized / padded))) for photo, mask, resized, padded in shown
        )
        self._rows, self._columns = (
            torch.from_numpy(frame.weights(axis, self._centres(axis))).to(device) for axis in (0, 1)
        )
        values = self._cell_means(coarse, (0, 0))
        own = [self._cell_means(prompt.component, prompt.offset) for prompt in prompts]
        targets = [_stretched(values, cover, prompt) for cover, prompt in zip(own, prompts, strict=True)]
        self._own = torch.from_numpy(np.stack(own)).to(device)
        self._targets = torch.from_numpy(np.stack(targets)).to(device)

    def judge(self, regions: Sequence[int], logits: Tensor, ious: Tensor, settings: SamSettings) -> Verdict:
        """Judge `logits` [n, m, h, w] with scores `ious` [n, m]: m answers for each of n `regions`."""
        masks = torch.sigmoid(self._rows @ logits @ self._columns.T)
        masks = torch.where(masks >= _TAIL, masks, 0)
        ious = ious.clamp(0, 1)
        own, target = self._own[regions][:, None], self._targets[regions][:, None]
        agreement = _f_measure(masks, target, own)
        cells = (masks >= 0.5).sum(dim=(-2, -1))
        kept = (cells > 0) & (cells <= settings.swallow * (own > 0).sum(dim=(-2, -1)))
        kept &= (agreement >= settings.min_agreement) & (ious >= settings.min_iou)
        merit = _merit(logits, ious, agreement, settings.selection)
        best = torch.where(kept, merit, merit - 2).argmax(dim=1)
        each = torch.arange(len(best), device=best.device)
        windows = [self._window(mask) for mask in masks[each, best].cpu().numpy()]
        return Verdict(best, kept.any(dim=1), ious[each, best], agreement[each, best], windows)

    def _centres(self, axis: int) -> NDArray[np.float64]:
        return (np.arange(self._grid[axis]) + 0.5) * self._photo[axis] / self._grid[axis] - 0.5

    def _cell_means(self, crop: NDArray[np.generic], offset: tuple[int, int]) -> NDArray[np.float32]:
        """A crop of the photo at `offset` (x, y), 0 elsewhere, averaged over the cells of the grid."""
        means: NDArray[Any] = crop
        places = []
        for axis, start in ((0, offset[1]), (1, offset[0])):
            pixels, cells = self._photo[axis], self._grid[axis]
            cell_of = ((np.arange(pixels) + 0.5) * cells / pixels).astype(np.intp)
            inside = cell_of[start : start + crop.shape[axis]]
            present, starts = np.unique(inside, return_index=True)
            share = 1 / np.bincount(cell_of, minlength=cells)[present].astype(np.float32)
            means = np.add.reduceat(means, starts, axis=axis, dtype=np.float32)
            means *= share[:, None] if axis == 0 else share
            places.append(present)
        grid = np.zeros(self._grid, dtype=np.float32)
        grid[np.ix_(*places)] = means
        return grid

    def _window(self, mask: NDArray[np.float32]) -> tuple[int, int, int, int]:
        edges = []
        for axis in (1, 0):
            cells = np.flatnonzero(mask.max(axis=1 - axis) > 0)
            scale = self._photo[axis] / self._grid[axis]
            first, last = (cells[0], cells[-1]) if len(cells) else (0, 0)
            # One cell more: between the centres of two cells the mask may still be above the tail.
            edges.append(
                (max(0, int((first - 1) * scale)), min(self._photo[axis], int((last + 2) * scale) + 1))
            )
        (x0, x1), (y0, y1) = edges
        return x0, y0, x1, y1


def _merit(logits: Tensor, ious: Tensor, agreement: Tensor, selection: str) -> Tensor:
    """What the answers [n, m] are ranked by, in [0, 1].

    Stability is the one of segment-anything's automatic masks: the IoU of the masks at logits above 1 and -1.
    """
    if selection == "stability":
        core, wide = ((logits > level).sum(dim=(-2, -1)) for level in (1, -1))
        return core / wide.clamp_min(1)
    if selection == "agreement":
        return agreement
    return ious * agreement if selection == "iou*agreement" else ious


def _stretched(
    values: NDArray[np.float32], cover: NDArray[np.float32], prompt: RegionPrompt
) -> NDArray[np.float32]:
    """The map with a region's cut-off at 0 and its highest cell at 1."""
    span = float(values[cover > 0].max()) - prompt.base
    if (
        span <= 1e-6
    ):  # a region smaller than a cell, whose mean is below the cut-off: its cells are all there is
        return cover / cover.max()
    return np.clip((values - prompt.base) / span, 0, 1)


def _f_measure(masks: Tensor, target: Tensor, own: Tensor) -> Tensor:
    """F-measure of soft masks [n, m, h, w] against targets [n, 1, h, w]; recall within `own` only."""
    hits = masks * target
    precision = hits.sum(dim=(-2, -1)) / masks.sum(dim=(-2, -1)).clamp_min(1e-6)
    recall = (hits * own).sum(dim=(-2, -1)) / (target * own).sum(dim=(-2, -1)).clamp_min(1e-6)
    mixed = _BETA**2 * precision + recall
    return (1 + _BETA**2) * precision * recall / mixed.clamp_min(1e-6)
