"""Noise and texture primitives of the rendered corpus: value, fractal and spectral noise, cells, streaks,
look-ups.

Input: a `numpy.random.Generator` and sizes in pixels. Output: float32 fields [H, W], most of them around
[-1, 1].
Every function is vectorised and draws only from the generator it is given, so equal seeds give equal fields.
It does not know of products, colours or defects.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Field = NDArray[np.float32]
T = TypeVar("T")


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of `choices`, each equally likely."""
    return choices[int(rng.integers(len(choices)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in [low, high] whose logarithm is uniform: scales are drawn this way."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def axes(height: int, width: int) -> tuple[Field, Field]:
    """Pixel-centre coordinates y [H, 1] and x [1, W]."""
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    x = np.arange(width, dtype=np.float32)[None, :] + np.float32(0.5)
    return y, x


def rotated(
    height: int, width: int, angle: float, centre: tuple[float, float] | None = None
) -> tuple[Field, Field]:
    """Coordinates (u, v) [H, W] in pixels about `centre` (y, x), turned by `angle` radians."""
    y, x = axes(height, width)
    cy, cx = centre if centre is not None else (height / 2, width / 2)
    c, s = math.cos(angle), math.sin(angle)
    return (x - cx) * c + (y - cy) * s, (y - cy) * c - (x - cx) * s


def white(rng: np.random.Generator, height: int, width: int) -> Field:
    """Uniform white noise in [-1, 1]."""
    return rng.random((height, width), dtype=np.float32) * 2 - 1


def _spline(rng: np.random.Generator, length: int, cell: float) -> Field:
    """Weights [length, knots] of a uniform cubic B-spline with knots every `cell` pixels and a random
    phase."""
    place = np.arange(length, dtype=np.float32) / np.float32(cell) + np.float32(rng.random())
    knot = place.astype(np.int32)
    t = place - knot
    weights = np.zeros((length, int(knot[-1]) + 4), dtype=np.float32)
    rows = np.arange(length)
    s = 1 - t
    weights[rows, knot] = s * s * s / 6
    weights[rows, knot + 1] = (3 * t * t * t - 6 * t * t + 4) / 6
    weights[rows, knot + 2] = (3 * s * s * s - 6 * s * s + 4) / 6
    weights[rows, knot + 3] = t * t * t / 6
    return weights


def smooth(rng: np.random.Generator, height: int, width: int, cell: float | tuple[float, float]) -> Field:
    """Value noise of wavelength about 2 `cell` pixels (one number, or one each for y and x); mostly in
    [-1, 1]."""
    cy, cx = cell if isinstance(cell, tuple) else (cell, cell)
    rows, columns = _spline(rng, height, max(cy, 0.7)), _spline(rng, width, max(cx, 0.7))
    knots = rng.random((rows.shape[1], columns.shape[1]), dtype=np.float32) * 4 - 2
    return np.asarray(rows @ knots @ columns.T, dtype=np.float32)


def fractal(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4, gain: float = 0.5
) -> Field:
    """Sum of `octaves` value noises, each of half the wavelength and `gain` times the weight; mostly in
    [-1, 1]."""
    total = np.zeros((height, width), dtype=np.float32)
    weight, power = 1.0, 0.0
    for _ in range(octaves):
        if cell < 0.7:
            break
        total += weight * smooth(rng, height, width, cell)
        power += weight * weight
        weight, cell = weight * gain, cell / 2
    return total / np.float32(math.sqrt(max(power, 1e-6)))


def wave(rng: np.random.Generator, length: int, cell: float) -> Field:
    """Value noise on a line [length]."""
    weights = _spline(rng, length, cell)
    return weights @ (rng.random(weights.shape[1], dtype=np.float32) * 4 - 2)


def spectral(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    centre: float,
    spread: float,
    angle: float,
    focus: float,
) -> Field:
    """Random texture with energy near `centre` cycles per pixel (log-normal, `spread` octaves) and near
    `angle`.

    `focus` 0 is isotropic; larger values narrow the directions. Zero mean, unit standard deviation.
    """
    grain = fft.rfft2(white(rng, height, width))
    fy = fft.fftfreq(height).astype(np.float32)[:, None]
    fx = fft.rfftfreq(width).astype(np.float32)[None, :]
    radius = np.sqrt(fy * fy + fx * fx) + np.float32(1e-6)
    octaves = np.log2(radius / np.float32(centre)) / np.float32(spread)
    turn = (fx * math.cos(angle) + fy * math.sin(angle)) / radius
    field = fft.irfft2(
        grain * np.exp(-0.5 * octaves * octaves + focus * (turn * turn - 1)), s=(height, width)
    )
    field -= field.mean()
    return field / (field.std() + np.float32(1e-6))


def lookup(table: Field, v: Field, u: Field) -> Field:
    """Bilinear samples of a texture [h, w] at rows `v` and columns `u` (pixels of the table), wrapped
    around."""
    h, w = table.shape
    v0, u0 = np.floor(v), np.floor(u)
    i, j = v0.astype(np.int32) % h, u0.astype(np.int32) % w
    padded = np.pad(table, ((0, 1), (0, 1)), mode="wrap").ravel()
    return _corners(padded, w + 1, i * (w + 1) + j, v - v0, u - u0)


def along(table: Field, place: Field) -> Field:
    """Linear samples of a line [n] at fractional `place` (in [0, 1] once around), wrapped around."""
    n = len(table)
    at = place * n
    base = np.floor(at)
    t = at - base
    i = base.astype(np.int32) % n
    return table[i] * (1 - t) + np.roll(table, -1)[i] * t


def streaks(
    rng: np.random.Generator, height: int, width: int, angle: float, across: float, length: float
) -> Field:
    """Fine lines at `angle` radians: value noise `across` pixels wide and `length` pixels long, in about
    [-1, 1]."""
    if abs(math.sin(angle)) < 1e-3:
        return smooth(rng, height, width, (across, length))
    if abs(math.cos(angle)) < 1e-3:
        return smooth(rng, height, width, (length, across))
    side = int(math.hypot(height, width)) + 4
    table = smooth(rng, side, side, (across, length)).ravel()
    u, v = rotated(height, width, angle)
    u, v = u + np.float32(side / 2), v + np.float32(side / 2)
    i, j = v.astype(np.int32), u.astype(np.int32)
    return _corners(table, side, i * side + j, v - i, u - j)


@functools.cache
def _cell_tables(jitter: float) -> tuple[Field, Field, NDArray[np.int16]]:
    """Distances to the nearest and second point, and the nearest point's number, over 32 x 32 cells that
    repeat.

    16 samples a cell, with one repeated row and column (513 x 513, flat). The points are fixed: a caller's
    generator
    chooses where and how the table is read.
    """
    rng = np.random.default_rng(20240917)
    places = np.float32(0.5) + np.float32(jitter) * (
        rng.random((2, 1024), dtype=np.float32) - np.float32(0.5)
    )
    v, u = axes(513, 513)
    v, u = v / np.float32(16), u / np.float32(16)
    row, column = v.astype(np.int32), u.astype(np.int32)
    first, second = np.full((2, 513, 513), 9, np.float32)
    number = np.zeros(first.shape, np.int16)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            key = ((row + dy) & 31) * 32 + ((column + dx) & 31)
            distance = np.square(v - row - dy - places[0][key]) + np.square(u - column - dx - places[1][key])
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            number = np.where(nearer, key, number).astype(np.int16)
            first = np.where(nearer, distance, first)
    return np.sqrt(first).ravel(), np.sqrt(second).ravel(), number.ravel()


def cells(rng: np.random.Generator, v: Field, u: Field, jitter: float = 0.9) -> tuple[Field, Field, Field]:
    """Worley cells over coordinates in cell units: distance to the nearest and second point, and a value
    per cell.

    Points lie in a jittered grid that repeats after 32 cells. The cell value is uniform in [0, 1].
    """
    nearest, runner_up, number = _cell_tables(round(jitter, 1))
    v = (v + np.float32(rng.uniform(64, 96))) * np.float32(16)
    u = (u + np.float32(rng.uniform(64, 96))) * np.float32(16)
    i, j = (
        v.astype(np.int32),
        u.astype(np.int32),
    )  # truncation is floor here: v, u > -64 cells in every family
    tv, tu = v - i, u - j
    corner = (i & 511) * 513 + (j & 511)
    first, second = _corners(nearest, 513, corner, tv, tu), _corners(runner_up, 513, corner, tv, tu)
    return first, second, rng.random(1024, dtype=np.float32)[number[corner]]


def _corners(table: Field, columns: int, corner: NDArray[np.int32], tv: Field, tu: Field) -> Field:
    """Bilinear samples of a flat table with `columns` columns at `corner` + (tv, tu)."""
    top = table[corner]
    top += (table[corner + 1] - top) * tu
    bottom = table[corner + columns]
    bottom += (table[corner + (columns + 1)] - bottom) * tu
    return top + (bottom - top) * tv


def scatter(rng: np.random.Generator, row: NDArray[np.int32], column: NDArray[np.int32]) -> Field:
    """A uniform value in [0, 1] for every integer cell (row, column); repeats every 64 cells."""
    return rng.random(4096, dtype=np.float32)[(row & 63) * 64 + (column & 63)]


def unit(field: Field) -> Field:
    """The field stretched to [0, 1]."""
    low, high = float(field.min()), float(field.max())
    return (field - low) * np.float32(1 / max(high - low, 1e-6))


def soft_step(field: Field, low: float, high: float) -> Field:
    """Smooth rise from 0 below `low` to 1 above `high` (falls when low > high)."""
    t = np.clip((field - low) * np.float32(1 / (high - low if high != low else 1e-6)), 0, 1)
    return t * t * (3 - 2 * t)
