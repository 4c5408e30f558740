"""Outlines of regions as short SVG paths, for pages that draw them over a photo.

Input: a `Region`. Output: the text of a path's `d` in whole pixels of the photo, of a bounded length. Knows
nothing of pages and of what is drawn below.
"""

from __future__ import annotations

import math

import numpy as np
from contourpy import LineType, contour_generator
from numpy.typing import NDArray

from clipsam.result import Region

Points = NDArray[np.float64]  # [n, 2]: x, y

GRID = 192  # cells along the longer side on which an outline is traced
FINEST = 1 / 600  # of the photo's longer side: by how much a line may be off, where the length allows it
STAIRS = 0.6  # pixels: what takes the stairs out of a slanted border


def outline_path(region: Region, limit: int = 1200) -> str:
    """The region's border as SVG path data in pixels of the photo, at most `limit` characters.

    Lines are straightened (Ramer 1972, Douglas and Peucker 1973), and specks left out, until they fit; holes
    are rings of their own, to be filled with the even-odd rule. A region too frayed for the limit becomes its
    box.
    """
    rings = _rings(region)
    tolerance = max(max(region.photo_size) * FINEST, STAIRS)
    while tolerance < max(region.photo_size) / 8:
        # What was straightened before is straightened further: quick, and off by three times this at most.
        rings = [simplified(ring, tolerance) for ring in rings]
        rings = [ring for ring in rings if _area(ring) >= (2 * tolerance) ** 2] or rings[:1]
        path = "".join(map(_path, rings))
        if path and len(path) <= limit:
            return path
        tolerance *= 1.5
    x0, y0, x1, y1 = region.box_xyxy
    return f"M{x0} {y0}H{x1}V{y1}H{x0}Z"


def simplified(ring: Points, tolerance: float) -> Points:
    """The closed line [n, 2] (the first point is not repeated) with no left-out point farther than
    `tolerance`."""
    if len(ring) < 4:
        return ring
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    closed = np.vstack([ring, ring[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        start, end = spans.pop()
        if end - start < 2:
            continue
        off = _distances(closed[start + 1 : end], closed[start], closed[end])
        worst = int(np.argmax(off))
        if off[worst] > tolerance:
            middle = start + 1 + worst
            keep[middle] = True
            spans += [(start, middle), (middle, end)]
    return ring[keep[:-1]]


def _rings(region: Region) -> list[Points]:
    """The border as closed lines in pixels of the photo, the longest first."""
    step = math.ceil(max(region.crop.shape) / GRID)
    cover = _reduced(region.crop, step)
    lines = contour_generator(z=np.pad(cover, 1), line_type=LineType.Separate).lines(0.5)
    x0, y0 = region.box_xyxy[:2]
    # A cell's centre is half a cell from its corner, and one cell was added around.
    rings = [(np.asarray(line)[:-1] - 0.5) * step + (x0, y0) for line in lines]
    return sorted(rings, key=len, reverse=True)


def _reduced(crop: NDArray[np.bool_], step: int) -> NDArray[np.float64]:
    """How much of each cell of `step` x `step` pixels is covered, in [0, 1]; never nothing at all."""
    if step == 1:
        return crop.astype(np.float64)
    height, width = (-(-side // step) for side in crop.shape)
    whole = np.zeros((height * step, width * step))
    whole[: crop.shape[0], : crop.shape[1]] = crop
    cover = whole.reshape(height, step, width, step).mean(axis=(1, 3))
    return cover if cover.max() > 0.5 else (cover >= cover.max()).astype(np.float64)


def _distances(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    along = end - start
    length = math.hypot(*along)
    if length == 0:
        return np.hypot(*(points - start).T)
    return np.abs(along[0] * (points[:, 1] - start[1]) - along[1] * (points[:, 0] - start[0])) / length


def _area(ring: Points) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


def _path(ring: Points) -> str:
    """Relative steps between whole pixels; nothing for a ring that is no area any more."""
    corners = np.round(ring).astype(int)
    if len(corners) < 3:
        return ""
    steps = np.diff(corners, axis=0).tolist()
    x, y = corners[0].tolist()
    return f"M{x} {y}l" + " ".join(f"{dx} {dy}" for dx, dy in steps if dx or dy).replace(" -", "-") + "Z"
