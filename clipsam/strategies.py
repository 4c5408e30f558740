"""Strategies: what SAM is asked about the regions of a map, and which regions it is shown as zoomed crops.

Input: a coarse map [H, W], its `RegionPrompt`s and `SamSettings`. Output: the prompts of the strategy, and
`Look`s: a window of the photo with the prompts to ask there. Knows nothing of the photo, of SAM or of torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.regions import RegionPrompt
from clipsam.settings import SamSettings

_EIGHT = np.ones((3, 3), dtype=bool)
_MOST = 32  # components of the patch grid that are asked about, the highest ones
_LEAST_CROP = 32  # px

Window = tuple[int, int, int, int]
"""x0, y0, x1, y1 in photo pixels, the last two exclusive."""


@dataclass(frozen=True)
class Look:
    """A part of the photo that SAM embeds, and which prompts (by index) are asked there."""

    window: Window
    regions: tuple[int, ...]


def strategy_prompts(
    coarse: NDArray[np.float32], prompts: Sequence[RegionPrompt], settings: SamSettings
) -> tuple[RegionPrompt, ...]:
    """The prompts of `settings.strategy` for the regions `prompts` of the map `coarse` [H, W].

    - "ring" and "cascade": positive points in the region, negative ones in a ring around it (arXiv
      2510.11028). What makes the cascade are its three passes, in `clipsam/sam.py`.
    - "mmr": a box and positive points alone, ClipSAM's multi-level mask refinement (arXiv 2401.12665).
    - "patch-grid": points at the centres of patches that are surely abnormal or surely normal, and the
      rectangles around connected abnormal ones: PSMP-CLIP's PPSS (2026). See `patch_grid_prompts`.
    """
    if settings.strategy == "patch-grid":
        return patch_grid_prompts(coarse, settings)
    if settings.strategy == "mmr":
        return tuple(replace(prompt, negatives=np.zeros((0, 2), np.float32)) for prompt in prompts)
    return tuple(prompts)


def patch_grid_prompts(coarse: NDArray[np.float32], settings: SamSettings) -> tuple[RegionPrompt, ...]:
    """PPSS: one prompt per connected component of abnormal patches, highest peak first.

    PPSS compares s = cos(abnormal) - cos(normal) with tau and -tau. The map is sigmoid(s / T), so that is a
    distance of `settings.patch_margin` = sigmoid(tau / T) - 0.5 from 0.5. A patch's value is the mean of the
    map over it. Of many points the highest positives and the nearest negatives are kept, at most
    `settings.max_points` of each: the published method has no limit.
    """
    height, width = coarse.shape
    step = max(coarse.shape) / settings.patch_grid
    rows, columns = (np.linspace(0, side, max(1, round(side / step)) + 1) for side in (height, width))
    means = np.add.reduceat(coarse, rows[:-1].astype(int), axis=0)
    means = np.add.reduceat(means, columns[:-1].astype(int), axis=1)
    areas = np.diff([*rows[:-1].astype(int), height])[:, None] * np.diff([*columns[:-1].astype(int), width])
    values = means / areas
    negatives = np.argwhere(values < 0.5 - settings.patch_margin)
    labels, count = ndimage.label(values > 0.5 + settings.patch_margin, structure=_EIGHT)
    found = []
    for label in range(1, count + 1):
        cells = np.argwhere(labels == label)
        cells = cells[np.argsort(-values[cells[:, 0], cells[:, 1]], kind="stable")]
        gaps = ndimage.distance_transform_edt(labels != label)[negatives[:, 0], negatives[:, 1]]
        near = negatives[np.argsort(gaps, kind="stable")]
        (top, left), (bottom, right) = cells.min(axis=0), cells.max(axis=0) + 1
        y0, y1, x0, x1 = (int(rows[top]), int(rows[bottom]), int(columns[left]), int(columns[right]))
        pixel_rows = np.searchsorted(rows, np.arange(y0, y1) + 0.5) - 1
        pixel_columns = np.searchsorted(columns, np.arange(x0, x1) + 0.5) - 1
        component = (labels == label)[np.ix_(pixel_rows, pixel_columns)]
        found.append(
            RegionPrompt(
                box_xyxy=(columns[left], rows[top], columns[right], rows[bottom]),
                positives=_centres(cells[: settings.max_points], rows, columns),
                negatives=_centres(near[: settings.max_points], rows, columns),
                area_px=int(component.sum()),
                peak=float(coarse[y0:y1, x0:x1][component].max()),
                base=0.5 + settings.patch_margin,
                component=component,
                offset=(x0, y0),
            )
        )
    return tuple(sorted(found, key=lambda prompt: -prompt.peak)[:_MOST])


def looks(
    prompts: Sequence[RegionPrompt], photo: tuple[int, ...], mask_side: int, settings: SamSettings
) -> list[Look]:
    """How the `photo` (height, width) is shown to a SAM whose masks have `mask_side` cells a side.

    Regions whose box is shorter than `settings.crop` cells of the mask on both sides get a crop of their own,
    `settings.crop_context` times as wide; the others share the whole photo.
    """
    cell = max(photo) / mask_side
    sides = [max(box[2] - box[0], box[3] - box[1]) for box in (prompt.box_xyxy for prompt in prompts)]
    tiny = [index for index, side in enumerate(sides) if side < settings.crop * cell]
    rest = tuple(index for index in range(len(prompts)) if index not in tiny)
    whole = [Look((0, 0, photo[1], photo[0]), rest)] if rest else []
    wanted = [settings.crop_context * side for side in sides]
    return whole + [Look(_crop(prompts[index], wanted[index], photo), (index,)) for index in tiny]


def moved(prompt: RegionPrompt, window: Window) -> RegionPrompt:
    """The prompt as it lies in a window of the photo; points beside the window are left out."""
    x0, y0, x1, y1 = window
    if (x0, y0) == (0, 0) and prompt.box_xyxy[2] <= x1 and prompt.box_xyxy[3] <= y1:
        return prompt
    corner, end = np.array([x0, y0], np.float32), np.array([x1, y1], np.float32)
    inside = ((prompt.negatives >= corner) & (prompt.negatives <= end - 1)).all(axis=1)
    left, top, right, bottom = prompt.box_xyxy
    return replace(
        prompt,
        box_xyxy=(left - x0, top - y0, right - x0, bottom - y0),
        positives=prompt.positives - corner,
        negatives=prompt.negatives[inside] - corner,
        offset=(prompt.offset[0] - x0, prompt.offset[1] - y0),
    )


def _centres(
    cells: NDArray[np.intp], rows: NDArray[np.float64], columns: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Centres [n, 2] xy of cells [n, 2] (row, column), at ((u + 1/2) W / Wp, (v + 1/2) H / Hp)."""
    middle = [(edges[:-1] + edges[1:]) / 2 for edges in (columns, rows)]
    return np.stack([middle[0][cells[:, 1]], middle[1][cells[:, 0]]], axis=1).astype(np.float32)


def _crop(prompt: RegionPrompt, side: float, photo: tuple[int, ...]) -> Window:
    """A square of `side` px around the prompt's box, moved into the photo, or cut where that is narrower."""
    left, top, right, bottom = prompt.box_xyxy
    wanted = int(np.ceil(max(side, _LEAST_CROP)))
    edges = []
    for middle, limit in (((left + right) / 2, photo[1]), ((top + bottom) / 2, photo[0])):
        start = int(np.clip(round(middle - wanted / 2), 0, max(0, limit - wanted)))
        edges.append((start, min(limit, start + wanted)))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]
