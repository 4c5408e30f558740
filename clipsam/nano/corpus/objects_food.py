"""Grown and baked products: cookies, bread, nuts, fruit, pasta, and heaps of small lumps.

Input: a generator and a size. Output: a `Part` of kind "object" with a background.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import any_colour, gloss, place, random_light, shading, vary
from clipsam.nano.corpus.noise import Field, along, chance, fractal, pick, smooth, soft_step, streaks, wave
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import backdrop, shadow
from clipsam.nano.corpus.shapes import blob, box, cover, dome

CRUSTS = ((0.78, 0.58, 0.35), (0.7, 0.47, 0.25), (0.85, 0.72, 0.5), (0.45, 0.28, 0.17), (0.9, 0.82, 0.66))


def cookie(rng: np.random.Generator, height: int, width: int) -> Part:
    """A round baked thing: uneven outline, bumpy crust, browned rim, chips or seeds in it, fine cracks of
    baking."""
    canvas = backdrop(rng, height, width, 0.25)
    at = place(rng, height, width, (0.26, 0.47), upright=0)
    long = np.float32(rng.uniform(1, 1.3))
    distance = blob(rng, at.u * long, at.v, at.size * 0.93, rng.uniform(0.01, 0.09))
    distance += np.float32(at.size * 0.02) * fractal(rng, height, width, at.size * 0.15, 3)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size * 0.5)
    bumps = fractal(rng, height, width, at.size * rng.uniform(0.08, 0.3), 5, rng.uniform(0.4, 0.62))
    relief = (
        dome(distance, at.size * rng.uniform(0.1, 0.4)) * np.float32(0.5)
        + np.float32(at.size * rng.uniform(0.004, 0.018)) * bumps
    )
    if chance(rng, 0.5):
        wrinkle = np.abs(fractal(rng, height, width, at.size * 0.25, 3))
        relief -= np.float32(at.size * 0.015) * np.exp(wrinkle * -12)
    light = random_light(rng)
    base = vary(rng, pick(rng, CRUSTS), 0.06)
    body = cover(distance)
    canvas.paint(body, base)
    toast = soft_step(-distance, at.size * rng.uniform(0.1, 0.4), 0) * np.float32(rng.uniform(0, 0.5))
    canvas.shade(1 - body * (toast + np.float32(0.08) * bumps))
    canvas.shade(1 + body * (shading(relief, light, rng.uniform(0.5, 1)) - 1))
    chip = vary(
        rng, pick(rng, [(0.2, 0.12, 0.08), (0.15, 0.1, 0.08), (0.85, 0.8, 0.65), (0.5, 0.1, 0.12)]), 0.05
    )
    for _ in range(int(pick(rng, [0, 4, 8, 14]))):
        t, away = rng.uniform(0, 6.28), at.size * 0.85 * math.sqrt(rng.random())
        size = at.size * rng.uniform(0.03, 0.12)
        cu, cv = away * math.cos(t), away * math.sin(t)
        c, s = math.cos(at.angle), math.sin(at.angle)
        where = canvas.window(at.cy + cu * s + cv * c, at.cx + cu * c - cv * s, size * 1.7 + 2)
        if where is None:
            continue
        shape = blob(rng, at.u[where] - np.float32(cu), at.v[where] - np.float32(cv), size, 0.25)
        mound = dome(shape, size * 0.7)
        lit = shading(mound, light, 0.7) + rng.uniform(0, 2) * gloss(mound, light, 0.7, 60)
        canvas.piece("chip", cover(shape, 1.5) * body[where], chip[:, None, None] * lit, where)
    names = pick(
        rng, [("cookie", "biscuit", "chocolate chip cookie"), ("cracker", "biscuit"), ("patty", "food")]
    )
    return canvas.finish(names, "object", light, relief)


def bread(rng: np.random.Generator, height: int, width: int) -> Part:
    """A slice, loaf or fillet: crust around a porous or marbled inside."""
    canvas = backdrop(rng, height, width, 0.25)
    aspect = rng.uniform(1.0, 2.0)
    at = place(rng, height, width, (0.3, 0.47), aspect=aspect)
    half = at.size / aspect
    bend = np.float32(half * 0.06)
    distance = box(at.u, at.v, at.size * 0.95, half * 0.95, half * rng.uniform(0.3, 0.9))
    distance += bend * smooth(rng, height, width, at.size * 0.4)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    body = cover(distance, 2)
    crust, inside = (
        vary(rng, pick(rng, CRUSTS), 0.06),
        vary(rng, pick(rng, [(0.93, 0.87, 0.72), (0.85, 0.55, 0.45), (0.6, 0.4, 0.25)]), 0.05),
    )
    canvas.paint(body, crust * np.float32(0.8))
    crumb = cover(distance + np.float32(half * rng.uniform(0.03, 0.15)), rng.uniform(2, 8))
    canvas.paint(crumb, inside)
    pores = fractal(rng, height, width, rng.uniform(2, 8), 3, 0.7)
    relief = soft_step(pores, 0.8, -0.2) * np.float32(2)
    light = random_light(rng)
    canvas.shade(1 - crumb * np.float32(rng.uniform(0.1, 0.4)) * soft_step(pores, 0.3, 1.0))
    canvas.shade(
        1 + body * (shading(relief, light, 0.4) * (1 + 0.06 * fractal(rng, height, width, 30, 3)) - 1)
    )
    return canvas.finish(("bread", "slice of bread", "toast", "cake"), "object", light, relief)


def hazelnut(rng: np.random.Generator, height: int, width: int) -> Part:
    """A nut, bean, seed or fruit: smooth domed body, streaks towards the pole, a paler cap."""
    canvas = backdrop(rng, height, width, 0.25)
    at = place(rng, height, width, (0.25, 0.45), upright=0)
    distance = blob(rng, at.u, at.v, at.size * 0.93, rng.uniform(0.01, 0.06), 3)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size * 0.6)
    relief = dome(distance, at.size * 0.9) * np.float32(rng.uniform(0.4, 0.8))
    pole = np.float32(at.size * rng.uniform(-0.5, 0.5))
    du, dv = at.u - pole, at.v
    turn = np.arctan2(dv, du) * np.float32(0.5 / math.pi)
    away = np.sqrt(du * du + dv * dv) / np.float32(at.size)
    table = wave(rng, 512, rng.uniform(3, 14))
    streak = along(table, turn) * soft_step(away, 0.05, 0.4)
    base = vary(
        rng,
        pick(
            rng, [(0.6, 0.38, 0.2), (0.7, 0.52, 0.3), (0.75, 0.2, 0.12), (0.45, 0.55, 0.2), (0.85, 0.6, 0.2)]
        ),
        0.07,
    )
    body = cover(distance, 1.5)
    canvas.paint(body, base)
    canvas.shade(
        1 + body * (rng.uniform(0.03, 0.2) * streak + 0.1 * fractal(rng, height, width, at.size * 0.15, 4))
    )
    if chance(rng, 0.6):
        edge = rng.uniform(0.2, 0.5) + np.float32(0.05) * along(table, turn)
        cap = soft_step(away - edge, 0.02, -0.02) * body
        canvas.paint(cap * np.float32(0.8), vary(rng, base * np.float32(1.3), 0.06))
        canvas.note("cap", cap > 0.5)
    light = random_light(rng)
    canvas.shade(1 + body * (shading(relief, light, rng.uniform(0.4, 0.8)) - 1))
    canvas.glow(body * gloss(relief, light, 0.6, rng.uniform(20, 90)) * np.float32(rng.uniform(0, 0.35)))
    names = pick(
        rng,
        [
            ("hazelnut", "nut", "hazel"),
            ("cashew", "bean", "seed"),
            ("fruit", "peach", "apple"),
            ("olive", "berry"),
        ],
    )
    return canvas.finish(names, "object", light, relief)


def heap(rng: np.random.Generator, height: int, width: int) -> Part:
    """Several equal lumps side by side: pasta, gum, beans, candies, gravel."""
    canvas = backdrop(rng, height, width, 0.3)
    side = min(height, width)
    size = side * rng.uniform(0.07, 0.2)
    base, light = any_colour(rng, 0.7), random_light(rng)
    stretch, lump = rng.uniform(1, 2.2), rng.uniform(0, 0.12)
    pitch = size * stretch * rng.uniform(2.1, 3.0)
    word = pick(
        rng,
        [
            ("candies", "chewing gum", "sweets"),
            ("macaroni", "pasta"),
            ("beans", "seeds"),
            ("pellets", "granulate"),
        ],
    )
    for row in range(int(height / pitch) + 2):
        for column in range(int(width / pitch) + 2):
            if chance(rng, 0.1):
                continue
            cy, cx = (
                (row + rng.uniform(-0.1, 0.1)) * pitch,
                (column + 0.5 * (row % 2) + rng.uniform(-0.1, 0.1)) * pitch,
            )
            where = canvas.window(cy, cx, size * stretch * 1.3 + 2)
            if where is None:
                continue
            turn = rng.uniform(0, math.pi)
            y = np.arange(where[0].start, where[0].stop, dtype=np.float32)[:, None] - np.float32(cy)
            x = np.arange(where[1].start, where[1].stop, dtype=np.float32)[None, :] - np.float32(cx)
            c, s = np.float32(math.cos(turn)), np.float32(math.sin(turn))
            u: Field = x * c + y * s
            v: Field = y * c - x * s
            distance = blob(rng, u / np.float32(stretch), v, size, lump)
            canvas.shade(1 - np.float32(0.3) * np.exp(np.maximum(distance, 0) * np.float32(-8 / size)), where)
            relief = dome(distance, size * 0.9) * np.float32(0.6)
            tone = shading(relief, light, 0.8) + np.float32(0.2) * gloss(relief, light, 0.8, 40)
            own = vary(rng, base, 0.04)
            canvas.piece(word[-1], cover(distance), own[:, None, None] * tone, where)
            canvas.solid[where] |= distance < 0
    canvas.shade(1 + 0.04 * streaks(rng, height, width, rng.uniform(0, 3), 2, 10))
    return canvas.finish(word, "object", light)
