"""Edges: what the photo itself shows of borders and contrast, as a cue beside CLIP's map.

Input: a photo, uint8 [H, W, 3], with its coarse map or the prompts made from it. Output: a map that follows
what is visible, or prompts moved to visible borders. Knows nothing of CLIP, of SAM or of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsam.bands import BLOCK, Band, bilinear
from clipsam.blurs import blur, boxes, gaussian
from clipsam.odds import logit, sigmoid
from clipsam.regions import RegionPrompt
from clipsam.settings import FusionSettings
from clipsam.strips import resized, strips

_WORK = 640  # contrast is computed on a photo of at most this many pixels a side
_FINE = 0.002  # sigma of the smoothing that takes out noise, as a fraction of the longer side
_VISIBLE = 0.02  # contrasts of less than 5 grey levels are noise, however flat the rest of the photo is
_MOST = 4.0  # times the photo's own contrast: beyond, more says nothing more
_FLAT = 1e-3  # variance of grey levels (0 to 1) below which a window counts as flat, and is averaged
_STANDS_OUT = 1.5  # times the mean along its way: a border that a box may move to


def contrast(pixels: NDArray[np.uint8], scale: float) -> NDArray[np.float32]:
    """How much each pixel differs from its surroundings, float32 [H, W] in [0, 4].

    The colour distance between the slightly smoothed photo and its mean over a neighbourhood of `scale`, a
    sigma as a fraction of the longer side, in units of the photo's own root mean square of it: 1 is what the
    photo shows everywhere, 4 what is rare in it.
    """
    return resized(_contrast(_planes(pixels), scale), pixels.shape)


def relief(pixels: NDArray[np.uint8], scale: float, reach: float) -> NDArray[np.float32]:
    """The contrast of each pixel above or below that of its neighbourhood, float32 [H, W].

    `reach` is the neighbourhood's sigma as a fraction of the longer side. Around every place it is 0 on
    average: a busy place as a whole stands out no more than a calm one.
    """
    return resized(_relief(_planes(pixels), scale, reach), pixels.shape)


def sharpen(
    coarse: NDArray[np.float32], pixels: NDArray[np.uint8], settings: FusionSettings
) -> NDArray[np.float32]:
    """The coarse map [H, W] in [0, 1], with the shapes that the photo shows; two steps on its logit.

    CLIP's patches are wider than most defects: of the pixels of a patch, those that differ from what is
    around them are the more likely ones. So `settings.edge_weight` * relief is added: which places are
    suspicious stays CLIP's decision, the photo decides on their shape. Then the map is smoothed along visible
    borders, not across them (see `guided`), over `settings.edge_guide`. At 0 each of the steps is left out.
    """
    if settings.edge_weight == 0 and settings.edge_guide == 0:
        return coarse
    planes = _planes(pixels)
    found = None
    if settings.edge_weight > 0:
        found = _relief(planes, settings.edge_scale, settings.edge_reach)
        found *= np.float32(settings.edge_weight)
    if settings.edge_guide == 0:
        assert found is not None
        return _added(coarse, found)
    target = _shrunk(coarse, planes.shape[1:], logit)
    if found is not None:
        target += _there_and_back(found, coarse.shape)
    result = np.empty(coarse.shape, np.float32)
    for part in _guide(result, target, pixels, planes, settings.edge_guide):
        sigmoid(part)
    return result


def guided(values: NDArray[np.float32], pixels: NDArray[np.uint8], radius: float) -> NDArray[np.float32]:
    """The guided filter of He et al. (2013): `values` [H, W] as locally linear in the photo's grey level.

    `radius` of its windows is a fraction of the longer side. Large photos: coefficients come from a smaller
    one, as in the fast guided filter (He and Sun, arXiv 1505.00996).
    """
    planes, result = _planes(pixels), np.empty(values.shape, np.float32)
    for _ in _guide(result, _shrunk(values, planes.shape[1:], np.copyto), pixels, planes, radius):
        pass
    return result


def snap(
    prompts: Sequence[RegionPrompt], pixels: NDArray[np.uint8], reach: float
) -> tuple[RegionPrompt, ...]:
    """Prompts that follow visible borders, each point and side moved by at most `reach` of the diagonal.

    A positive point goes to the pixel of its region that stands out most, a negative one to the pixel
    beside the region that stands out least; a side of the box goes to the strongest border along it, where
    one stands out, and never past a positive point.
    """
    distance = max(1, round(reach * float(np.hypot(*pixels.shape[:2]))))
    grey = 255 * _grey(pixels)
    steps = np.abs(np.diff(grey, axis=1)), np.abs(np.diff(grey, axis=0))
    standing = contrast(pixels, max(2 * reach, 0.02))
    return tuple(_snapped(prompt, standing, steps, distance) for prompt in prompts)


def _snapped(
    prompt: RegionPrompt,
    standing: NDArray[np.float32],
    steps: tuple[NDArray[np.float32], NDArray[np.float32]],
    distance: int,
) -> RegionPrompt:
    inside = np.zeros(standing.shape, dtype=bool)
    (x, y), (height, width) = prompt.offset, prompt.component.shape
    inside[y : y + height, x : x + width] = prompt.component
    positives = _best_near(prompt.positives, np.where(inside, standing, -np.inf), distance)
    negatives = _best_near(prompt.negatives, np.where(inside, -np.inf, -standing), distance)
    left, top, right, bottom = prompt.box_xyxy
    (first_x, first_y), (last_x, last_y) = positives.min(axis=0), positives.max(axis=0) + 1
    rows = slice(int(top), max(int(top) + 1, int(np.ceil(bottom))))
    columns = slice(int(left), max(int(left) + 1, int(np.ceil(right))))
    across, down = steps[0][rows].mean(axis=0), steps[1][:, columns].mean(axis=1)
    box = (
        _side(across, left, distance, (0, first_x)),
        _side(down, top, distance, (0, first_y)),
        _side(across, right, distance, (last_x, standing.shape[1])),
        _side(down, bottom, distance, (last_y, standing.shape[0])),
    )
    return replace(prompt, box_xyxy=box, positives=positives, negatives=negatives)


def _best_near(
    points: NDArray[np.float32], values: NDArray[np.floating], distance: int
) -> NDArray[np.float32]:
    """Each point [n, 2] xy at the pixel of the highest of `values` within a disc around it."""
    best = points.copy()
    for point in best:
        x, y = int(point[0]), int(point[1])
        left, top = max(0, x - distance), max(0, y - distance)
        near = values[top : y + distance + 1, left : x + distance + 1]
        ys, xs = np.ogrid[top : top + near.shape[0], left : left + near.shape[1]]
        near = np.where((ys - y) ** 2 + (xs - x) ** 2 <= distance**2, near, -np.inf)
        if near.max() > -np.inf:
            row, column = np.unravel_index(int(near.argmax()), near.shape)
            point[:] = left + column, top + row
    return best


def _side(profile: NDArray[np.float32], place: float, distance: int, limits: tuple[float, float]) -> float:
    """The side of a box at `place`, moved to the strongest step of `profile` within reach and limits.

    Step i of the profile lies between the pixels i and i + 1, at the edge i + 1.
    """
    first = max(int(place) - distance, int(np.ceil(limits[0])), 1)
    last = min(int(place) + distance, int(limits[1]), len(profile))
    way = profile[first - 1 : last]
    if len(way) < 2 or way.max() <= _STANDS_OUT * way.mean():
        return place
    return float(first + int(way.argmax()))


def _relief(planes: NDArray[np.float32], scale: float, reach: float) -> NDArray[np.float32]:
    """The relief on the grid of `planes`."""
    found = _contrast(planes, scale)
    sigma = reach * max(found.shape)
    found -= blur(found, *(gaussian(side, sigma) for side in found.shape))
    return found


def _added(coarse: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map with `found`, on a grid over the photo, added to its logit."""
    rows, columns = (bilinear(cells, side) for cells, side in zip(found.shape, coarse.shape, strict=True))
    wide, result = columns.across(found), np.empty(coarse.shape, np.float32)
    for places, span, weights in rows.blocks:
        part = result[places]
        logit(part, coarse[places])
        part += weights @ wide[span]
        sigmoid(part)
    return result


def _guide(
    result: NDArray[np.float32],
    target: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    planes: NDArray[np.float32],
    radius: float,
) -> Iterator[NDArray[np.float32]]:
    """Write `target`, on the grid of `planes`, as the guided filter sees it at the size of the photo, a few
    rows at a time, and give these: what is done to them now is done within the cache.
    """
    small = planes[0] if len(planes) == 1 else planes.mean(axis=0)
    box = 2 * max(1, round(radius * max(small.shape))) + 1
    windows = [boxes(side, box) for side in small.shape]
    # Plane by plane and in place: every fresh array costs more than what is computed in it.
    middle, offset, slope = (blur(field, *windows) for field in (small, target, small * target))
    spread = blur(np.square(small), *windows)
    slope -= middle * offset
    spread -= np.square(middle)
    spread += np.float32(_FLAT)
    slope /= spread
    offset -= slope * middle
    rows, columns = (
        _enlarged_boxes(cells, box, side) for cells, side in zip(small.shape, result.shape, strict=True)
    )
    slope, offset = columns.across(slope), columns.across(offset)
    more = np.empty((BLOCK, result.shape[1]), np.float32)
    for places, span, weights in rows.blocks:
        part, added = result[places], more[: len(weights)]
        np.matmul(weights, slope[span], out=part)
        part *= _grey(pixels[places])
        part += np.matmul(weights, offset[span], out=added)
        yield part


@lru_cache(maxsize=32)
def _enlarged_boxes(cells: int, width: int, places: int) -> Band:
    """A box of `width` cells and bilinear resizing as one matrix."""
    result = bilinear(cells, places)
    for band in reversed(boxes(cells, width)):
        result = result.after(band)
    return result


def _shrunk(
    values: NDArray[np.float32],
    shape: tuple[int, ...],
    function: Callable[[NDArray[np.float32], NDArray[np.float32]], None],
) -> NDArray[np.float32]:
    """`function(out, values)` of a map [H, W], made smaller; the map itself is met a few rows at a time."""
    if shape == values.shape:
        result = np.empty(shape, np.float32)
        for rows in strips(shape):
            function(result[rows], values[rows])
        return result
    down, across = (bilinear(side, cells) for side, cells in zip(values.shape, shape, strict=True))
    narrow = np.empty((shape[0], values.shape[1]), np.float32)
    for places, span, weights in down.blocks:
        part = np.empty((span.stop - span.start, values.shape[1]), np.float32)
        function(part, values[span])
        np.matmul(weights, part, out=narrow[places])
    return across.across(narrow)


def _there_and_back(found: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A field [h, w] brought to the size of the photo and back: a little smoother."""
    if found.shape == shape:
        return found
    rows, columns = (_back(cells, side) for cells, side in zip(found.shape, shape, strict=True))
    return columns.across(rows.down(found))


@lru_cache(maxsize=32)
def _back(cells: int, side: int) -> Band:
    return bilinear(side, cells).after(bilinear(cells, side))


def _contrast(planes: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    sides = planes.shape[1:]
    width, fine = max(1, round(2 * scale * max(sides))), _FINE * max(sides)
    near = [gaussian(side, fine) for side in sides]
    # Three boxes for the wide one: they are the Gaussian that the settings were chosen with.
    wide = [boxes(side, width, 3) for side in sides]
    total = np.zeros(sides, np.float32)
    for plane in planes:
        apart = blur(plane, *near)
        apart -= blur(plane, *wide)
        total += np.square(apart, out=apart)
    total *= np.float32(3 / len(planes))
    usual = max(float(np.sqrt(total.mean(dtype=np.float64))), _VISIBLE)
    distance = np.sqrt(total, out=total)
    distance /= np.float32(usual)
    return np.minimum(distance, np.float32(_MOST), out=distance)


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The mean of the colours [H, W], in [0, 1]; added up as integers, ten times quicker than `mean`."""
    total = np.add(pixels[..., 0], pixels[..., 1], dtype=np.uint16)
    total += pixels[..., 2]
    return np.multiply(total, np.float32(1 / (3 * 255)), dtype=np.float32)


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The photo in [0, 1], at most `_WORK` pixels a side, for filters run along whole planes: [3, h, w], or
    [1, h, w] where it has no colours.
    """
    height, width = pixels.shape[:2]
    colourless = _colourless(pixels)
    if colourless:
        pixels = pixels[..., 0]
    scale = _WORK / max(height, width)
    if scale < 1:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = resized(pixels, size, Image.Resampling.BOX)
    planes = pixels[None] if colourless else pixels.transpose(2, 0, 1)
    return np.multiply(planes, np.float32(1 / 255), order="C")


def _colourless(pixels: NDArray[np.uint8]) -> bool:
    """Whether a photo has three equal channels; one with colours is known by a few of its pixels."""
    return all(
        bool((part[..., 0] == part[..., 1]).all() and (part[..., 0] == part[..., 2]).all())
        for part in (pixels[::16, ::16], pixels)
    )
