"""Fusion: the coarse map and SAM's soft masks become one anomaly map, an image score and the regions of a
photo.

Input: a coarse map [H, W] in [0, 1] and `SoftMask`s. Output: a map of the same shape and scale: never
stretched per photo, and where SAM says nothing the coarse map (or a fixed share of it) stands. Knows
nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import softmax

from clipsam.errors import UsageError
from clipsam.masks import SoftMask
from clipsam.regions import RegionPrompt
from clipsam.result import Region
from clipsam.settings import FusionSettings
from clipsam.strips import bounds, strips

__all__ = ["PUBLISHED", "FusionSettings", "find_regions", "fuse", "image_score", "photo_score", "region_peak"]

PUBLISHED = {
    # arXiv 2401.12665: the confidence-weighted sum of the masks, normalised, is added to the map. Half of
    # that sum ranks the same and stays within [0, 1].
    "clipsam": FusionSettings(merge="blend", weight=0.5, confidence="iou", normalisation="peak"),
    # PSMP-CLIP (2026): masks weighted by the softmax of their IoU scores; 0.2 of the map, 0.8 of the masks.
    "psmp-clip": FusionSettings(merge="blend", weight=0.8, confidence="softmax", normalisation="photo"),
}
"""Fusions as published, by method."""

_CHOICES = {
    "merge": ("lift", "redraw", "blend"),
    "weighting": ("fixed", "agreement"),
    "confidence": ("iou*agreement", "iou", "softmax"),
    "normalisation": ("region", "photo", "peak"),
    "score": ("max", "top", "coarse", "whole"),
}


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What SAM drew of one region: its share S of the SAM map, in a window of the photo."""

    prompt: RegionPrompt
    place: tuple[slice, slice]  # rows count from the first one that is worked on
    corner: tuple[int, int]  # upper left pixel (x, y) of the window in the photo
    share: NDArray[np.float32]  # [h, w] in [0, 1]
    trust: float  # in [0, 1], what the weight is multiplied by


def fuse(
    coarse: NDArray[np.float32],
    masks: Sequence[SoftMask],
    settings: FusionSettings | None = None,
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The anomaly map, float32 [H, W] in [0, 1], of a coarse map and the masks that SAM gave for its regions.

    The masks of a region, weighted by their confidence and normalised, give S in [0, 1]; w is
    `settings.weight`, C the coarse map. `settings.merge` says what S does to it:

    - "lift": P = C + w S (peak of the region - C) where that is more than C. Inside a mask the map rises
      towards what CLIP saw in the region; nowhere does it fall, and no photo gets a higher maximum than CLIP
      gave it: scores and thresholds mean the same with masks, without masks and without SAM.
    - "redraw": before the lift, what S leaves of a region sinks towards the value that the region was cut
      off at. At w = 1 the shape is SAM's alone; the level stays CLIP's.
    - "blend": P = (1 - w) C + w S everywhere, S = 0 where no mask is, as in the published methods. SAM
      decides the level too, and thresholds depend on w.

    With `settings.weighting` "agreement" w differs from region to region: it is multiplied by the mean
    agreement of the region's masks with the map, weighted by their confidence; so a mask that tells another
    story than the map changes little.

    `settings.confidence`: SAM's IoU score times the agreement with the map, the IoU score, or the softmax
    of the IoU scores over the photo. `settings.normalisation`: the sum of the weighted masks is divided by
    the confidences of the "region" (a mean; regions overlap by their maximum), by those of the whole
    "photo" (n regions share 1), or by its own "peak" in the photo (the best mask counts as 1 whatever its
    confidence).

    `out`: float32 [H, W] that the map is written to, `coarse` itself if that is not needed any more.
    """
    settings = settings or FusionSettings()
    _check(settings)
    confidences = _confidences(masks, settings)
    divisor = _shared_divisor(masks, confidences, settings, coarse.shape)
    result = np.empty(coarse.shape, np.float32) if out is None else out
    for rows in strips(coarse.shape):
        if result is not coarse:
            result[rows] = coarse[rows]
        drawn = partial(_regions, masks, confidences, divisor, settings, rows)
        _fuse(result[rows], drawn, settings)
    return result


def _fuse(
    values: NDArray[np.float32], regions: Callable[[], Iterator[_Drawn]], settings: FusionSettings
) -> None:
    """`fuse` of some rows of the map, in place; `regions` gives what SAM drew in them."""
    weight = settings.weight
    if settings.merge == "blend":
        values *= 1 - weight
        values += weight * _sam_map(values.shape, regions(), settings)
    else:
        if settings.merge == "redraw":
            for drawn in regions():
                _sink(values[drawn.place], drawn, weight * drawn.trust)
        base = values.copy()
        for drawn in regions():
            below = base[drawn.place]
            lifted = below + weight * drawn.trust * drawn.share * (drawn.prompt.peak - below)
            np.maximum(values[drawn.place], lifted, out=values[drawn.place])
    np.clip(values, 0, 1, out=values)


def image_score(anomaly: NDArray[np.float32], settings: FusionSettings | None = None) -> float:
    """One number in [0, 1] for a map or some of its pixels: the maximum, or the mean of the top ones.

    With scores "coarse" and "whole" the photo's score is not made from this map (see `photo_score`), and
    regions have their maximum.
    """
    settings = settings or FusionSettings()
    _check(settings)
    if settings.score != "top":
        return float(anomaly.max())
    count = max(1, round(settings.top_fraction * anomaly.size))
    return float(np.partition(anomaly, -count, axis=None)[-count:].mean(dtype=np.float64))


def photo_score(
    anomaly: NDArray[np.float32],
    coarse: NDArray[np.float32],
    whole: float | None,
    settings: FusionSettings,
    inside: NDArray[np.bool_] | None = None,
) -> float:
    """The score of a photo in [0, 1], by `settings.score`: from its map, from the coarse one, both [H, W], or
    `whole`, CLIP's own. `inside`: the pixels that count.

    Raises `UsageError` where CLIP's own is asked for and no scale was seen in one piece (None).
    """
    if settings.score == "coarse":
        return float(coarse.max())
    if settings.score != "whole":
        return image_score(anomaly if inside is None else anomaly[inside], settings)
    if whole is None:
        raise UsageError(
            "the image score 'whole' needs a scale that CLIP sees in one piece, but all of them are cut into "
            "tiles; add a smaller scale, or choose the score 'max', 'top' or 'coarse'"
        )
    return whole


def find_regions(
    anomaly: NDArray[np.float32],
    types: NDArray[np.float32],
    defects: Sequence[str],
    threshold: float,
    settings: FusionSettings | None = None,
) -> tuple[NDArray[np.bool_], tuple[Region, ...]]:
    """The pixels of `anomaly` [H, W] at or above `threshold`, bool [H, W], and their 8-connected regions.

    Regions below `settings.min_area` are left out of both. A region's score is the `image_score` of its
    pixels; its defect is the one of `defects` [k] whose map in `types` [k, gh, gw], a grid over the photo,
    is highest on average over its pixels. Highest score first, then the largest.
    """
    settings = settings or FusionSettings()
    mask = anomaly >= threshold
    left, top, right, bottom = bounds(mask) or (0, 0, 1, 1)  # labels take four bytes a pixel
    labels, _ = ndimage.label(mask[top:bottom, left:right], structure=np.ones((3, 3), dtype=bool))
    regions = []
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        crop = labels[place] == label
        rows, columns = (
            slice(side.start + first, side.stop + first)
            for side, first in zip(place, (top, left), strict=True)
        )
        area = int(np.count_nonzero(crop))
        if area < settings.min_area * anomaly.size:
            mask[rows, columns] &= ~crop
            continue
        score = _region_score(anomaly[rows, columns], crop, settings)
        box = (columns.start, rows.start, columns.stop, rows.stop)
        defect = defects[_explaining_type(types, crop, box, anomaly.shape)]
        regions.append(Region(box, area, score, defect, crop, (anomaly.shape[0], anomaly.shape[1])))
    return mask, tuple(sorted(regions, key=lambda region: (-region.score, -region.area_px)))


def _region_score(values: NDArray[np.float32], inside: NDArray[np.bool_], settings: FusionSettings) -> float:
    """`image_score` of the values [h, w] that lie inside; a maximum is found without a copy of them all."""
    if settings.score == "top":
        return image_score(values[inside], settings)
    parts = (values[part][inside[part]] for part in strips(values.shape))
    return max(float(part.max()) for part in parts if part.size)


def region_peak(anomaly: NDArray[np.float32], min_area: float) -> float:
    """The highest threshold at which `find_regions` keeps a region of a map [H, W] in [0, 1]; 0 if at none.

    With a `min_area` (a fraction of the photo) of a pixel or less it is the maximum; else higher specks do
    not count. The value is one of the map's, exactly: positive floats are in the order of their bits, which
    are bisected.
    """
    need = math.ceil(min_area * anomaly.size)
    if need <= 1:
        return float(anomaly.max())
    bits = np.ascontiguousarray(anomaly, np.float32).view(np.int32)
    low, high = 0, int(np.partition(bits, -need, axis=None)[-need])  # at 0 the whole photo is one region
    while low < high:
        middle = (low + high + 1) // 2
        labels, _ = ndimage.label(bits >= middle, structure=np.ones((3, 3), dtype=bool))
        if np.bincount(labels.ravel())[1:].max() >= need:
            low = middle
        else:
            high = middle - 1
    return float(np.int32(low).view(np.float32))


def _check(settings: FusionSettings) -> None:
    for name, known in _CHOICES.items():
        if (found := getattr(settings, name)) not in known:
            raise UsageError(f"fusion's {name} must be one of: {', '.join(known)}; found {found!r}")
    if settings.edge_weight < 0 or not 0 <= settings.edge_guide < 1:
        raise UsageError(
            "fusion's edge_weight must be at least 0 and its edge_guide a fraction of the longer side, found "
            f"{settings.edge_weight} and {settings.edge_guide}"
        )
    for name in ("edge_scale", "edge_reach"):
        if not 0 < (found := getattr(settings, name)) < 1:
            raise UsageError(f"fusion's {name} must be a fraction of the longer side, found {found}")
    for name in ("weight", "top_fraction"):
        if not 0 <= (found := getattr(settings, name)) <= 1:
            raise UsageError(f"fusion's {name} must lie in [0, 1], found {found}")


def _regions(
    masks: Sequence[SoftMask],
    confidences: Sequence[float],
    shared: float | None,
    settings: FusionSettings,
    rows: slice,
) -> Iterator[_Drawn]:
    """What SAM drew in some rows of the photo, region by region: one is in memory at a time."""
    order = sorted(range(len(masks)), key=lambda index: masks[index].region)
    for _, group in groupby(order, key=lambda index: masks[index].region):
        indices = list(group)
        divisor = shared if shared is not None else sum(confidences[index] for index in indices)
        if divisor > 0:  # else SAM itself gives its masks no credit
            drawn = _sum_of(
                [masks[index] for index in indices], [confidences[index] for index in indices], rows
            )
            trust = 1.0 if settings.weighting == "fixed" else _agreement(masks, confidences, indices)
            if drawn is not None:
                yield replace(drawn, share=drawn.share / np.float32(divisor), trust=trust)


def _agreement(masks: Sequence[SoftMask], confidences: Sequence[float], indices: Sequence[int]) -> float:
    weights = [confidences[index] for index in indices]
    return float(np.average([masks[index].agreement for index in indices], weights=weights))


def _confidences(masks: Sequence[SoftMask], settings: FusionSettings) -> list[float]:
    if settings.confidence == "softmax":
        return list(softmax([mask.iou for mask in masks])) if masks else []
    if settings.confidence == "iou":
        return [mask.iou for mask in masks]
    return [mask.iou * mask.agreement for mask in masks]


def _shared_divisor(
    masks: Sequence[SoftMask],
    confidences: Sequence[float],
    settings: FusionSettings,
    shape: tuple[int, ...],
) -> float | None:
    """What the weighted masks of all regions are divided by; None where each region has its own."""
    if settings.normalisation == "region" or not masks:
        return None
    if settings.normalisation == "photo":
        return sum(confidences)
    highest = 0.0
    for rows in strips(shape):
        total = np.zeros((rows.stop - rows.start, shape[1]), dtype=np.float32)
        for mask, confidence in zip(masks, confidences, strict=True):
            x0, y0, x1, y1 = mask.within(rows)
            total[y0 - rows.start : y1 - rows.start, x0:x1] += confidence * mask.part((x0, y0, x1, y1))
        highest = max(highest, float(total.max()))
    return highest


def _sum_of(masks: Sequence[SoftMask], confidences: Sequence[float], rows: slice) -> _Drawn | None:
    """The weighted masks of one region, added up in a window that holds them and the region; None where that
    has none of the rows.
    """
    prompt = masks[0].prompt
    (left, top), (height, width) = prompt.offset, prompt.component.shape
    windows = np.array([(left, top, left + width, top + height), *(mask.window for mask in masks)])
    (left, top), (right, bottom) = windows[:, :2].min(axis=0).tolist(), windows[:, 2:].max(axis=0).tolist()
    top, bottom = max(top, rows.start), min(bottom, rows.stop)
    if top >= bottom:
        return None
    total = np.zeros((bottom - top, right - left), dtype=np.float32)
    for mask, confidence in zip(masks, confidences, strict=True):
        x0, y0, x1, y1 = part = mask.within(rows)
        total[y0 - top : y1 - top, x0 - left : x1 - left] += np.float32(confidence) * mask.part(part)
    place = slice(top - rows.start, bottom - rows.start), slice(left, right)
    return _Drawn(prompt, place, (left, top), total, 1.0)


def _sink(values: NDArray[np.float32], drawn: _Drawn, weight: float) -> None:
    """Lower `values`, the map in the window of `drawn`, where the region is but SAM's mask is not."""
    component = drawn.prompt.component
    x, y = drawn.prompt.offset[0] - drawn.corner[0], drawn.prompt.offset[1] - drawn.corner[1]
    first, last = max(y, 0), min(y + component.shape[0], len(values))
    if first >= last:
        return
    place = slice(first, last), slice(x, x + component.shape[1])
    inside, left = values[place], 1 - drawn.share[place]
    inside -= weight * component[first - y : last - y] * left * (inside - np.float32(drawn.prompt.base))


def _sam_map(
    shape: tuple[int, ...], regions: Iterator[_Drawn], settings: FusionSettings
) -> NDArray[np.float32]:
    """S over some rows of the photo: the highest of the regions, or their sum where they share a divisor."""
    join = np.maximum if settings.normalisation == "region" else np.add
    total = np.zeros(shape, dtype=np.float32)
    for drawn in regions:
        join(total[drawn.place], drawn.trust * drawn.share, out=total[drawn.place])
    return total


def _explaining_type(
    types: NDArray[np.float32],
    crop: NDArray[np.bool_],
    box: tuple[int, int, int, int],
    photo: tuple[int, ...],
) -> int:
    """The type with the highest mean over a region's pixels, each read from the grid cell that it lies in."""
    count, height, width = types.shape
    pixels = np.zeros(height * width, np.intp)
    for part in strips(crop.shape):
        ys, xs = np.nonzero(crop[part])
        rows = ((ys + part.start + box[1] + 0.5) * height / photo[0]).astype(np.intp)
        columns = ((xs + box[0] + 0.5) * width / photo[1]).astype(np.intp)
        pixels += np.bincount(rows * width + columns, minlength=height * width)
    return int(np.argmax(types.reshape(count, -1) @ pixels.astype(np.float64)))
