"""Coarse map to prompts: connected regions of high values become boxes, positive points and ring negatives.

Input: an anomaly map [H, W] in [0, 1]. Output: `RegionPrompt`s, highest peak first, none for a quiet map.
Pixel (x, y) is `map[y, x]`: a point names a pixel, whose centre is the integer; a box names edges, so that
`map[y0:y1, x0:x1]` is inside. Deterministic. Knows nothing of CLIP, of SAM or of torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.errors import UsageError
from clipsam.settings import RegionSettings

__all__ = ["RegionPrompt", "RegionSettings", "find_peaks", "hysteresis_components", "region_prompts"]

_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class RegionPrompt:
    """What SAM is asked about one region, in photo coordinates."""

    box_xyxy: tuple[float, float, float, float]  # edges of the region plus margin, x1 and y1 exclusive
    positives: NDArray[np.float32]  # [m, 2] xy, inside the region, highest first, m >= 1
    negatives: NDArray[np.float32]  # [n, 2] xy, in the ring around the region, lowest first
    area_px: int  # pixels of the region
    peak: float  # highest map value of the region
    base: float  # the map value at which the region was cut off
    component: NDArray[np.bool_]  # [h, w], the region's pixels ...
    offset: tuple[int, int]  # ... in a crop whose upper left pixel is (x0, y0)


def region_prompts(
    anomaly: NDArray[np.float32], settings: RegionSettings | None = None
) -> tuple[RegionPrompt, ...]:
    """Regions of `anomaly` [H, W] as prompts, highest peak first; none where nothing reaches `settings.high`.

    Maps with a side above `settings.work_size` are searched on a grid of block maxima: no narrow peak is
    lost, the cost is bounded, and gaps narrower than a block close. Pixels and points come from the full map.
    """
    settings = settings or RegionSettings()
    if not 0.0 <= settings.low <= settings.high:
        found = f"found low={settings.low}, high={settings.high}"
        raise UsageError(f"the region thresholds need 0 <= low <= high, {found}")
    if anomaly.size == 0 or not anomaly.max() >= settings.high:
        return ()
    stride = -(-max(anomaly.shape) // settings.work_size)
    grid = _block_maxima(anomaly, stride)
    labels, bases = _bounded_components(grid, settings)
    prompts = []
    for label, window in _ranked(grid, labels, settings.min_area * grid.size):
        prompt = _prompt(anomaly, grid, stride, labels, label, window, bases[label - 1], settings)
        if prompt.area_px >= settings.min_area * anomaly.size:
            prompts.append(prompt)
        if len(prompts) == settings.max_regions:
            break
    return tuple(prompts)


def hysteresis_components(
    values: NDArray[np.float32], low: float, high: float
) -> tuple[NDArray[np.int32], int]:
    """8-connected components of `values >= low` that reach `high` somewhere: labels [H, W] 0 ... n, and n."""
    labels, count = ndimage.label(values >= low, structure=_EIGHT)
    reaches = np.zeros(count + 1, dtype=bool)
    reaches[labels[values >= high]] = True
    reaches[0] = False
    renumber = np.where(reaches, np.cumsum(reaches), 0).astype(np.int32)
    return renumber[labels], int(reaches.sum())


def find_peaks(
    values: NDArray[np.float32],
    distance: float,
    threshold: float,
    *,
    inside: NDArray[np.bool_] | None = None,
    limit: int | None = None,
) -> NDArray[np.intp]:
    """Local maxima at or above `threshold`, none closer than `distance` to a higher one: [n, 2] row, column.

    Highest first; among equals the one deepest inside `inside` (default: everywhere), then in reading order.
    """
    inside = np.ones(values.shape, dtype=bool) if inside is None else inside
    local = values == ndimage.maximum_filter(values, size=3, mode="nearest")
    allowed = local & inside & (values >= threshold)
    return _spread(values, _depth(inside), allowed, distance, limit)


def _block_maxima(values: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Maxima of the blocks of stride x stride pixels, [ceil(H / stride), ceil(W / stride)]."""
    if stride == 1:
        return values
    rows = _maxima(values, stride)
    return np.ascontiguousarray(_maxima(np.ascontiguousarray(rows.T), stride).T)


def _maxima(values: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """Maxima of so many rows at a time, the last of what is left; whole rows are compared at once."""
    whole = len(values) // stride * stride
    maxima = np.empty((-(-len(values) // stride), values.shape[1]), np.float32)
    np.max(values[:whole].reshape(-1, stride, values.shape[1]), axis=1, out=maxima[: whole // stride])
    if whole < len(values):
        np.max(values[whole:], axis=0, out=maxima[-1])
    return maxima


def _bounded_components(
    grid: NDArray[np.float32], settings: RegionSettings
) -> tuple[NDArray[np.int32], list[float]]:
    """Components none larger than `max_area`, and the value that each was cut at."""
    labels, count = hysteresis_components(grid, settings.low, settings.high)
    bases = [settings.low] * count
    limit = settings.max_area * grid.size
    if not _too_large(labels, limit).any():
        return labels, bases
    # A background just above `low` must not hide the defect in it: what is too large is cut again, higher up.
    cores = np.where(_too_large(labels, limit)[labels], grid, -np.inf)
    labels[cores > -np.inf] = 0
    again, more = hysteresis_components(cores, settings.high, settings.high)
    again[_too_large(again, limit)[again]] = 0
    labels[again > 0] = again[again > 0] + count
    return labels, bases + [settings.high] * more


def _too_large(labels: NDArray[np.int32], limit: float) -> NDArray[np.bool_]:
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return areas > limit


def _ranked(
    grid: NDArray[np.float32], labels: NDArray[np.int32], min_area: float
) -> list[tuple[int, tuple[slice, slice]]]:
    """Labels with their windows: highest peak first, then the largest, then the first in reading order."""
    windows = ndimage.find_objects(labels)
    found = [label for label, window in enumerate(windows, start=1) if window is not None]
    if not found:
        return []
    peaks = ndimage.maximum(grid, labels, found)
    areas = np.bincount(labels.ravel())[found]
    order = sorted(zip(-peaks, -areas, found, strict=True))
    return [(label, windows[label - 1]) for _, area, label in order if -area >= min_area]


def _prompt(
    anomaly: NDArray[np.float32],
    grid: NDArray[np.float32],
    stride: int,
    labels: NDArray[np.int32],
    label: int,
    window: tuple[slice, slice],
    base: float,
    settings: RegionSettings,
) -> RegionPrompt:
    diagonal = float(np.hypot(*anomaly.shape))
    spacing = settings.peak_distance * diagonal / stride
    width = max(1, round(settings.ring * diagonal / stride))
    rows, columns = (
        slice(max(0, part.start - width), min(part.stop + width, side))
        for part, side in zip(window, grid.shape, strict=True)
    )
    cells, inside = grid[rows, columns], labels[rows, columns] == label
    corner = np.array([rows.start, columns.start])
    positives = _positive_cells(cells, inside, spacing, settings)
    negatives = _negative_cells(cells, inside, width, settings)
    component, (x0, y0) = _photo_component(anomaly, labels, label, window, stride, base)
    height, breadth = component.shape
    return RegionPrompt(
        box_xyxy=_with_margin((x0, y0, x0 + breadth, y0 + height), settings.margin, anomaly.shape),
        positives=_photo_points(anomaly, positives + corner, stride, highest=True),
        negatives=_photo_points(anomaly, negatives + corner, stride, highest=False),
        area_px=int(component.sum()),
        peak=float(cells[inside].max()),
        base=base,
        component=component,
        offset=(x0, y0),
    )


def _positive_cells(
    cells: NDArray[np.float32], inside: NDArray[np.bool_], spacing: float, settings: RegionSettings
) -> NDArray[np.intp]:
    """Peaks first; a long region with few of them is filled up with its highest cells that lie far enough."""
    limit = max(1, settings.max_positives)
    chosen = find_peaks(cells, spacing, settings.high, inside=inside, limit=limit)
    high = inside & (cells >= settings.high)
    more = _spread(cells, _depth(inside), high, spacing, limit - len(chosen), taken=chosen)
    return np.concatenate([chosen, more])


def _negative_cells(
    cells: NDArray[np.float32], inside: NDArray[np.bool_], width: int, settings: RegionSettings
) -> NDArray[np.intp]:
    """The lowest cell of the ring, then cells of its lower half, each as far as can be from those before it.

    Ring negatives as in arXiv 2510.11028: the globally lowest values would push SAM to take the whole object.
    """
    ring = ~inside & (ndimage.distance_transform_cdt(~inside, metric="chessboard") <= width)
    ring &= cells < settings.low
    if not ring.any() or settings.max_negatives < 1:
        return np.zeros((0, 2), dtype=np.intp)
    spots = np.argwhere(ring & (cells <= np.median(cells[ring])))
    values = cells[spots[:, 0], spots[:, 1]]
    chosen = [int(np.argmin(values))]
    nearest = ((spots - spots[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < settings.max_negatives and nearest.max() > 0:
        chosen.append(int(np.lexsort((values, -nearest))[0]))
        nearest = np.minimum(nearest, ((spots - spots[chosen[-1]]) ** 2).sum(axis=1))
    return spots[chosen]


def _spread(
    values: NDArray[np.float32],
    depth: NDArray[np.integer],
    allowed: NDArray[np.bool_],
    distance: float,
    limit: int | None,
    taken: NDArray[np.intp] | tuple[()] = (),
) -> NDArray[np.intp]:
    """Highest allowed cells [n, 2], none closer than `distance` to those before it or to `taken`."""
    cells = np.argwhere(allowed)
    order = np.lexsort((-depth[allowed], -values[allowed]))
    cells = cells[order]
    for cell in taken:
        cells = _far_from(cell, cells, distance)
    chosen: list[NDArray[np.intp]] = []
    while len(cells) and (limit is None or len(chosen) < limit):
        chosen.append(cells[0])
        cells = _far_from(cells[0], cells, distance)
    return np.array(chosen, dtype=np.intp).reshape(-1, 2)


def _far_from(cell: NDArray[np.intp], cells: NDArray[np.intp], distance: float) -> NDArray[np.intp]:
    return cells[((cells - cell) ** 2).sum(axis=1) >= max(distance, 1.0) ** 2]


def _depth(inside: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Steps to the nearest cell outside, to break ties on plateaus; the map's border counts as outside."""
    return ndimage.distance_transform_cdt(np.pad(inside, 1), metric="chessboard")[1:-1, 1:-1]


def _photo_component(
    anomaly: NDArray[np.float32],
    labels: NDArray[np.int32],
    label: int,
    window: tuple[slice, slice],
    stride: int,
    base: float,
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """The pixels at or above `base` within a component's cells, tightly cropped, and the crop's (x0, y0)."""
    y0, x0 = window[0].start * stride, window[1].start * stride
    inside = labels[window] == label
    if stride > 1:
        values = anomaly[y0 : window[0].stop * stride, x0 : window[1].stop * stride]
        cells = inside.repeat(stride, axis=0).repeat(stride, axis=1)
        inside = cells[: values.shape[0], : values.shape[1]] & (values >= base)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    crop = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return crop, (x0 + int(columns[0]), y0 + int(rows[0]))


def _photo_points(
    anomaly: NDArray[np.float32], cells: NDArray[np.intp], stride: int, *, highest: bool
) -> NDArray[np.float32]:
    """Cells (row, column) as photo points [n, 2] xy: the pixel of the cell that is highest, or lowest."""
    points = np.zeros((len(cells), 2), dtype=np.float32)
    for point, (row, column) in zip(points, cells * stride, strict=True):
        block = anomaly[row : row + stride, column : column + stride]
        best = block.argmax() if highest else block.argmin()
        y, x = np.unravel_index(best, block.shape)
        point[:] = column + x, row + y
    return points


def _with_margin(
    box: tuple[int, int, int, int], margin: float, shape: tuple[int, ...]
) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    return max(0.0, x0 - dx), max(0.0, y0 - dy), min(float(shape[1]), x1 + dx), min(float(shape[0]), y1 + dy)
