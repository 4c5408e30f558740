"""What surrounds an object: the ground it lies on, its shadow, and the surroundings that shiny metal mirrors.

Input: a generator and a `Canvas`. Output: paint on the canvas, or tables of reflections.
It does not know which object lies there.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, any_colour, vary
from clipsam.nano.corpus.noise import (
    Field,
    along,
    axes,
    cells,
    chance,
    fractal,
    lookup,
    pick,
    smooth,
    streaks,
    wave,
    white,
)

METALS = (
    (0.62, 0.63, 0.65),
    (0.62, 0.63, 0.65),
    (0.45, 0.45, 0.46),
    (0.74, 0.6, 0.34),
    (0.7, 0.46, 0.33),
    (0.3, 0.3, 0.32),
    (0.8, 0.8, 0.8),
)


def metal(rng: np.random.Generator) -> Field:
    """A metal's colour [3]: mostly steel greys, sometimes brass or copper."""
    return vary(rng, pick(rng, METALS), 0.06)


def backdrop(rng: np.random.Generator, height: int, width: int, bright: float = 0.35) -> Canvas:
    """A canvas with a ground: bright table (probability `bright`), dark, cloth, board, belt or plain
    colour."""
    if chance(rng, bright):
        level = rng.uniform(0.82, 1.0)
        canvas = Canvas(height, width, vary(rng, (level, level, level), 0.015))
        canvas.shade(1 + rng.uniform(0, 0.025) * smooth(rng, height, width, min(height, width) * 0.5))
        return canvas
    style = pick(rng, ["black", "dark", "plain", "plain", "cloth", "grain", "streak", "belt"])
    if style == "black":
        canvas = Canvas(height, width, np.full(3, rng.uniform(0.0, 0.06), np.float32))
        canvas.glow(rng.uniform(0, 0.02) * white(rng, height, width))
        return canvas
    canvas = Canvas(
        height,
        width,
        any_colour(rng, pick(rng, [0.05, 0.2, 0.6])) * np.float32(0.4 if style == "dark" else 1),
    )
    tone = rng.uniform(0.02, 0.12) * smooth(rng, height, width, min(height, width) * rng.uniform(0.2, 0.7))
    if style == "cloth":
        y, x = axes(height, width)
        k = 2 * math.pi / rng.uniform(3, 7)
        tone += rng.uniform(0.03, 0.12) * np.sin(x * np.float32(k)) * np.sin(y * np.float32(k))
    elif style == "grain":
        tone += rng.uniform(0.03, 0.12) * fractal(rng, height, width, rng.uniform(2, 12), 3, 0.7)
    elif style == "streak":
        tone += rng.uniform(0.03, 0.12) * streaks(
            rng, height, width, rng.uniform(0, 3), 1.2, rng.uniform(20, 120)
        )
    elif style == "belt":
        y, x = axes(height, width)
        first, _, _ = cells(rng, y / np.float32(7), x / np.float32(7), 0.1)
        tone += rng.uniform(0.05, 0.2) * (0.4 - first)
    canvas.shade(1 + tone)
    if chance(rng, 0.2):
        tray_edge(rng, canvas)
    return canvas


def tray_edge(rng: np.random.Generator, canvas: Canvas) -> None:
    """The straight edge of a tray, table or fixture near one border, with its lamp-lit rim."""
    y, x = axes(canvas.height, canvas.width)
    turn = int(rng.integers(4)) * math.pi / 2 + rng.normal(0, 0.06)
    reach = (y - canvas.height / 2) * math.sin(turn) + (x - canvas.width / 2) * math.cos(turn)
    limit = (
        rng.uniform(0.7, 0.95)
        * (abs(math.sin(turn)) * canvas.height + abs(math.cos(turn)) * canvas.width)
        / 2
    )
    beyond = (reach - np.float32(limit)).astype(np.float32)
    canvas.paint(np.clip(beyond + 0.5, 0, 1), any_colour(rng, 0.2))
    rim = np.exp(-np.square(beyond / np.float32(rng.uniform(1, 6))))
    shine = np.clip(0.6 + 0.5 * smooth(rng, canvas.height, canvas.width, 60), 0, 1)
    canvas.glow(rim * np.float32(rng.uniform(-0.3, 0.6)) * shine)


def shadow(rng: np.random.Generator, canvas: Canvas, distance: Field, size: float) -> None:
    """A soft shadow on the ground around an object of signed `distance` [H, W]; no dust, not a defect."""
    if chance(rng, 0.3):
        return
    reach = size * rng.uniform(0.04, 0.3)
    shift = size * rng.uniform(0, 0.25)
    turn = rng.uniform(0, 2 * math.pi)
    moved = np.roll(distance, (int(shift * math.sin(turn)), int(shift * math.cos(turn))), axis=(0, 1))
    dark = np.exp(np.maximum(moved, 0) * np.float32(-1 / max(reach, 1)))
    canvas.shade(1 - np.float32(rng.uniform(0.1, 0.6)) * dark)


def surroundings(rng: np.random.Generator, windows: int = 3, length: int = 512) -> Field:
    """A line [512] of brightness around 1 that metal mirrors: lamps, dark gaps, soft walls. Read it with
    `along`."""
    t = np.arange(length, dtype=np.float32) / np.float32(length)
    table = 0.55 + 0.25 * wave(rng, length, length / 6)
    for _ in range(int(rng.integers(1, windows + 2))):
        middle, half = rng.random(), rng.uniform(0.01, 0.12)
        gap = np.abs(np.mod(t - middle + 0.5, 1) - np.float32(0.5))
        edge = rng.uniform(0.005, 0.04)
        table += np.float32(rng.uniform(-0.4, 1.1)) * np.clip((half - gap) / edge + 0.5, 0, 1)
    return np.clip(table, 0.05, 1.9).astype(np.float32)


def cylinder(rng: np.random.Generator, across: Field, windows: int = 3) -> Field:
    """Brightness of a mirror-like cylinder; `across` is the place over its width in [-1, 1]."""
    normal = np.arcsin(np.clip(across, -1, 1)) * np.float32(0.5 / math.pi)
    return along(
        surroundings(rng, windows), normal * np.float32(rng.uniform(0.7, 1.6)) + np.float32(rng.random())
    )


def mirror(rng: np.random.Generator) -> Field:
    """A picture [64, 64] of the surroundings that curved shiny metal mirrors: soft walls, bright and dark
    boxes."""
    y, x = axes(64, 64)
    table = 0.6 + 0.18 * smooth(rng, 64, 64, 14)
    for _ in range(int(rng.integers(2, 7))):
        cy, cx, edge = rng.uniform(0, 64), rng.uniform(0, 64), rng.uniform(0.7, 6)
        half_y, half_x = rng.uniform(1.5, 14), rng.uniform(1.5, 14)
        gap_y, gap_x = (
            np.abs(y - np.float32(cy)) - np.float32(half_y),
            np.abs(x - np.float32(cx)) - np.float32(half_x),
        )
        inside = np.clip(np.float32(0.5) - np.maximum(gap_y, gap_x) * np.float32(1 / edge), 0, 1)
        table += (
            (np.float32(pick(rng, [0.1, 0.25, 1.3, 1.7])) - table) * inside * np.float32(rng.uniform(0.4, 1))
        )
    return np.clip(table, 0.05, 1.8)


def reflected(table: Field, nx: Field, ny: Field) -> Field:
    """What a surface with normals (nx, ny) in [-1, 1] shows of the surroundings `table` (see `mirror`)."""
    return lookup(table, ny * np.float32(28) + np.float32(32), nx * np.float32(28) + np.float32(32))


def arcs(rng: np.random.Generator, turn: Field, count: int) -> Field:
    """Light around a ring [H, W] in [0, 1]: `count` bright arcs of random place and length; `turn` in
    turns."""
    table = np.zeros(512, dtype=np.float32)
    t = np.arange(512, dtype=np.float32) * np.float32(2 * math.pi / 512)
    for _ in range(count):
        sharp = math.exp(rng.uniform(0.5, 4.5))
        table = np.maximum(
            table, np.float32(rng.uniform(0.3, 1)) * np.exp(sharp * (np.cos(t - rng.uniform(0, 6.28)) - 1))
        )
    return table.astype(np.float32)[(turn * np.float32(512)).astype(np.int32) & 511]
