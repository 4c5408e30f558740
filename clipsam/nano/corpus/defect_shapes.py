"""The shapes that defects are cut from: blobs, wandering lines, noise, bumps, and where on a part they sit.

Input: a numpy random generator and a part; output: float32 covers in [0, 1], height fields and positions, all
in pixels. Everything works inside a `Patch`, a small window of the picture, so that a small defect costs
little. It does not know what a defect looks like: that is in defects.py and its sisters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Rng = np.random.Generator


@dataclass(frozen=True)
class Patch:
    """A window of the picture around (y, x); `yy`, `xx` are pixel distances from there, up to `reach`."""

    rows: slice
    cols: slice
    yy: Floats
    xx: Floats
    reach: float = float("inf")

    @property
    def shape(self) -> tuple[int, int]:
        return self.yy.shape[0], self.xx.shape[1]

    @property
    def window(self) -> tuple[slice, slice]:
        return self.rows, self.cols


def patch_at(shape: tuple[int, int], y: float, x: float, radius: float) -> Patch:
    """The window of all pixels within `radius` of (y, x), cut at the picture's frame; at least 1 x 1."""
    height, width = shape
    reach = max(2.0, radius)
    top, left = int(np.clip(y - reach, 0, height - 1)), int(np.clip(x - reach, 0, width - 1))
    bottom = int(np.clip(y + reach + 1, top + 1, height))
    right = int(np.clip(x + reach + 1, left + 1, width))
    yy = (np.arange(top, bottom, dtype=np.float32) - np.float32(y))[:, None]
    xx = (np.arange(left, right, dtype=np.float32) - np.float32(x))[None, :]
    return Patch(slice(top, bottom), slice(left, right), yy, xx, reach)


def loguniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(max(low, high)))))


def inside(rng: Rng, part: Part) -> tuple[float, float] | None:
    """A random pixel of the part, or None where the part has none."""
    return _pick(rng, part.solid)


def edge_pixels(solid: Bools) -> Bools:
    """The pixels of `solid` with a neighbour outside it; the picture's frame does not count as outside."""
    edge = np.zeros_like(solid)
    edge[1:] |= ~solid[:-1]
    edge[:-1] |= ~solid[1:]
    edge[:, 1:] |= ~solid[:, :-1]
    edge[:, :-1] |= ~solid[:, 1:]
    return edge & solid


def at_border(rng: Rng, part: Part) -> tuple[float, float] | None:
    """A random pixel on the part's outline, or None where the part fills the whole picture."""
    return _pick(rng, edge_pixels(part.solid))


def outward(part: Part, y: float, x: float, reach: int = 8) -> float:
    """The direction (radians, 0 = right, pi/2 = down) from the part towards the background around (y, x)."""
    near = patch_at(part.solid.shape, y, x, reach)
    free = ~part.solid[near.window]
    if not free.any():
        return 0.0
    return float(np.arctan2((free * near.yy).sum(), (free * near.xx).sum()))


def _pick(rng: Rng, allowed: Bools) -> tuple[float, float] | None:
    # A few blind throws are much cheaper than listing all pixels of a part that fills the picture.
    height, width = allowed.shape
    for y, x in rng.integers(0, (height, width), size=(8, 2)):
        if allowed[y, x]:
            return float(y), float(x)
    flat = np.flatnonzero(allowed)
    if flat.size == 0:
        return None
    y, x = divmod(int(rng.choice(flat)), width)
    return float(y), float(x)


def resize(field: NDArray[Any], shape: tuple[int, int], method: int = Image.Resampling.BICUBIC) -> Floats:
    """A 2-D field resampled to `shape` (height, width)."""
    picture = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), method), dtype=np.float32)


def noise(rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 1) -> Floats:
    """Smooth random field, about standard normal, with lumps of `cell` pixels; more octaves give finer
    detail.
    """
    total = np.zeros(shape, np.float32)
    weight = 1.0
    for _ in range(octaves):
        if cell <= 1.3:
            total += np.float32(weight) * rng.standard_normal(shape, dtype=np.float32)
            break
        grid = int(shape[0] / cell) + 3, int(shape[1] / cell) + 3
        coarse = resize(
            rng.standard_normal(grid, dtype=np.float32) * 1.4, (_up(grid[0], cell), _up(grid[1], cell))
        )
        top, left = rng.integers(0, max(1, int(cell)), size=2)
        piece = coarse[top : top + shape[0], left : left + shape[1]]
        total += np.float32(weight) * piece
        cell, weight = cell / 2.2, weight * 0.55
    return total


def _up(cells: int, cell: float) -> int:
    return int(np.ceil(cells * cell))


def wiggle(rng: Rng, count: int, roughness: float) -> Floats:
    """A random 1-D curve of `count` values around 0, of unit size; roughness 0 is smooth, 1 is jagged."""
    curve = np.zeros(count, np.float64)
    knots, weight = 4, 1.0
    while knots < count:
        at = np.linspace(0, knots - 1, count)
        curve += weight * np.interp(at, np.arange(knots), rng.standard_normal(knots))
        knots, weight = knots * 2, weight * (0.25 + 0.45 * roughness)
    return curve.astype(np.float32)


def blob(
    rng: Rng,
    patch: Patch,
    radius: float,
    *,
    roughness: float = 0.3,
    stretch: float = 1.0,
    angle: float | None = None,
) -> Floats:
    """Signed distance (roughly, px) to the rim of a random lump: positive inside. `roughness` 0 gives an
    ellipse.

    `stretch` is the ratio of the axes; the area stays that of a disc of `radius`, or less where the
    window is too small for it.
    """
    turn = rng.uniform(0, np.pi) if angle is None else angle
    along = (patch.xx * np.cos(turn) + patch.yy * np.sin(turn)) / np.sqrt(stretch)
    across = (patch.yy * np.cos(turn) - patch.xx * np.sin(turn)) * np.sqrt(stretch)
    distance = np.hypot(along, across)
    turns = np.linspace(-np.pi, np.pi, 721, dtype=np.float32)
    wavy = np.ones_like(turns)
    for wave in range(2, 7):
        wavy += np.float32(roughness * rng.normal(0, 0.8) / wave) * np.cos(wave * turns + rng.uniform(0, 6.3))
    # A lump that outgrew its window would be cut off straight.
    radius = min(radius, 0.9 * patch.reach / (np.sqrt(stretch) * float(wavy.max())))
    rim = wavy[((np.arctan2(across, along) + np.float32(np.pi)) * np.float32(720 / 6.2832)).astype(np.int32)]
    if radius > 6 and roughness > 0.05:
        rim += np.float32(0.07 * roughness) * noise(rng, patch.shape, max(2.0, radius / 5), 2)
    return cast(Floats, (radius * np.maximum(rim, 0.15) - distance).astype(np.float32))


def soft(field: NDArray[Any], softness: float = 1.0) -> Floats:
    """A signed distance as cover in [0, 1]; the rim is `softness` px wide."""
    return np.clip(field / np.float32(max(softness, 1e-3)) + np.float32(0.5), 0, 1)


def wander(
    rng: Rng, y: float, x: float, angle: float, length: float, *, bend: float = 0.3, roughness: float = 0.3
) -> NDArray[np.float64]:
    """A line of `length` px through (y, x) as points [n, 2] (y, x), roughly along `angle`, swerving by
    `bend`.
    """
    count = int(np.clip(length / 2, 6, 90))
    step = length / count
    heading = angle + bend * wiggle(rng, count, roughness)
    points = np.stack([np.cumsum(np.sin(heading)), np.cumsum(np.cos(heading))], axis=1) * step
    return cast(NDArray[np.float64], points - points[count // 2] + (y, x))


def around(shape: tuple[int, int], lines: Sequence[NDArray[np.float64]], margin: float) -> Patch | None:
    """The window that holds all points of `lines` (and `margin` px more), or None off the picture."""
    points = np.concatenate(lines)
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    if high[0] < 1 or high[1] < 1 or low[0] > shape[0] - 2 or low[1] > shape[1] - 2:
        return None
    top, left = max(0, int(low[0])), max(0, int(low[1]))
    bottom, right = min(shape[0], int(high[0]) + 2), min(shape[1], int(high[1]) + 2)
    yy = np.arange(top, bottom, dtype=np.float32)[:, None]
    xx = np.arange(left, right, dtype=np.float32)[None, :]
    return Patch(slice(top, bottom), slice(left, right), yy, xx)


def stroke(patch: Patch, lines: Sequence[NDArray[np.float64]], widths: Sequence[float | Floats]) -> Floats:
    """Cover [h, w] in [0, 1] of lines drawn into the window; points in picture pixels, a width per line or
    per point.
    """
    scale = 3
    height, width = patch.shape
    canvas = Image.new("L", (width * scale, height * scale))
    draw = ImageDraw.Draw(canvas)
    origin = (patch.rows.start, patch.cols.start)
    for points, wide in zip(lines, widths, strict=True):
        local = (points - origin + 0.5) * scale
        if np.ndim(wide) == 0:
            xy = [(float(x), float(y)) for y, x in local]
            draw.line(xy, fill=255, width=max(1, round(float(wide) * scale)), joint="curve")
            continue
        for (y0, x0), (y1, x1), w in zip(local[:-1], local[1:], np.asarray(wide), strict=False):
            draw.line((x0, y0, x1, y1), fill=255, width=max(1, round(float(w) * scale)))
    return np.asarray(canvas.reduce(scale), np.float32) / np.float32(255)


def polygon(patch: Patch, points: NDArray[np.float64]) -> Floats:
    """Cover [h, w] in [0, 1] of a filled polygon; points [n, 2] (y, x) in picture pixels."""
    scale = 3
    canvas = Image.new("L", (patch.shape[1] * scale, patch.shape[0] * scale))
    local = (points - (patch.rows.start, patch.cols.start) + 0.5) * scale
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for y, x in local], fill=255)
    return np.asarray(canvas.reduce(scale), np.float32) / np.float32(255)


def light_direction(part: Part) -> tuple[float, float]:
    """Where the light comes from in the picture plane as a unit vector (dy, dx)."""
    given = np.asarray(part.light, dtype=np.float64).ravel()
    dx, dy = (float(given[0]), float(given[1])) if given.size >= 2 else (-0.7, -0.7)
    size = float(np.hypot(dy, dx))
    return (dy / size, dx / size) if size > 1e-3 else (-0.707, -0.707)


def shading(part: Part, height: Floats) -> Floats:
    """How much brighter a bump of `height` [h, w] px becomes on the side of the light (and darker behind)."""
    dy, dx = light_direction(part)
    gy, gx = np.gradient(height) if min(height.shape) > 1 else (np.zeros_like(height), np.zeros_like(height))
    return cast(Floats, -(gy * dy + gx * dx).astype(np.float32))


def blur(field: Floats, sigma: float) -> Floats:
    """Gaussian blur of a map [h, w] or picture [h, w, 3] over its first two axes."""
    axes = (sigma, sigma) + (0.0,) * (field.ndim - 2)
    return cast(Floats, ndimage.gaussian_filter(field, axes, truncate=3.0))


def smoothed(image: Floats, cell: int) -> Floats:
    """The picture [H, W, 3] without detail finer than about `cell` px; much faster than a true blur."""
    picture = Image.fromarray((image * 255).astype(np.uint8))
    again = picture.reduce(cell).resize(picture.size, Image.Resampling.BICUBIC)
    return np.asarray(again, np.float32) / np.float32(255)


def strongest(change: Floats) -> Floats:
    """The largest of the three channels of a picture [h, w, 3]; much faster than `max(axis=2)`."""
    return cast(Floats, np.maximum(np.maximum(change[..., 0], change[..., 1]), change[..., 2]))


def behind(part: Part) -> Floats:
    """What is seen where the part is not, everywhere: the background grown under the part, [H, W, 3].

    Where the part fills the picture the background is a dark or bright even ground, fixed per part.
    """
    height, width = part.solid.shape
    free = ~part.solid
    if free.mean() < 0.01:
        level = 0.04 if part.image.mean() > 0.35 else 0.88
        return np.full((height, width, 3), level, np.float32)
    step = max(1, min(height, width) // 48)
    weight = free[::step, ::step].astype(np.float32)[..., None]
    small = part.image[::step, ::step] * weight
    sigma = max(small.shape[:2]) / 6
    near, share = blur(small, 2), blur(weight, 2)
    wide = blur(small, sigma) / np.maximum(blur(weight, sigma), 1e-4)
    grown = np.where(share > 0.05, near / np.maximum(share, 1e-4), wide)
    under = np.stack([resize(grown[..., c], (height, width)) for c in range(3)], axis=2)
    # The ground's own grain, taken from the picture where it is free, mirrored into the part.
    grain = np.where(free[..., None], part.image - under, 0)[::-1, ::-1]
    return np.clip(under + grain * (np.abs(grain) < 0.15), 0, 1).astype(np.float32)
