"""Close-up surfaces made of fibres: woven, knitted, carpet, leather, wood, boards, paper, felt.

Input: a generator and a size. Output: a `Part` of kind "surface" that fills the photo.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, any_colour, random_light, shading, vary
from clipsam.nano.corpus.noise import (
    Field,
    cells,
    chance,
    fractal,
    log_uniform,
    lookup,
    pick,
    rotated,
    scatter,
    smooth,
    soft_step,
    spectral,
    streaks,
    wave,
    white,
)
from clipsam.nano.corpus.part import Part


def wavy(rng: np.random.Generator, height: int, width: int, amount: float) -> tuple[Field, Field]:
    """Coordinates turned at random (often nearly upright) and gently bent by `amount` pixels."""
    upright = int(rng.integers(2)) * math.pi / 2 + rng.normal(0, 0.04)
    angle = upright if chance(rng, 0.6) else rng.uniform(0, math.pi)
    u, v = rotated(height, width, angle)
    reach = min(height, width) * rng.uniform(0.3, 0.8)
    u += np.float32(amount) * smooth(rng, height, width, reach)
    v += np.float32(amount) * smooth(rng, height, width, reach)
    return u, v


def woven(rng: np.random.Generator, height: int, width: int) -> Part:
    """Two crossing yarns, over and under: plain weave, twill or satin."""
    period = log_uniform(rng, 3.5, 26)
    u, v = wavy(rng, height, width, rng.uniform(0, 0.6) * period)
    a, b = u / np.float32(period), v / np.float32(period * rng.uniform(0.8, 1.25))
    i, j = np.floor(a).astype(np.int32), np.floor(b).astype(np.int32)
    fa, fb = a - i - 0.5, b - j - 0.5
    run, move = pick(rng, [(2, 1), (2, 1), (3, 1), (4, 1), (5, 2)])
    over = (i + move * j) % run < max(1, run // 2)
    width_of_yarn = rng.uniform(0.42, 0.52)
    round_u = np.sqrt(np.maximum(1 - np.square(fa / width_of_yarn), 0))
    round_v = np.sqrt(np.maximum(1 - np.square(fb / width_of_yarn), 0))
    bow = np.float32(rng.uniform(0.5, 0.9))
    relief = np.where(over, round_u * (1 - bow * fb * fb * 2), round_v * (1 - bow * fa * fa * 2))
    tone = np.where(over, scatter(rng, i, np.zeros_like(i)), scatter(rng, np.zeros_like(j), j))
    warp_colour, weft_colour = any_colour(rng, 0.5), any_colour(rng, 0.5)
    if chance(rng, 0.6):
        weft_colour = vary(rng, warp_colour, 0.06)
    canvas = Canvas(height, width, warp_colour)
    canvas.paint(np.where(over, np.float32(0), np.float32(1)), weft_colour)
    light = random_light(rng)
    depth = rng.uniform(0.25, 0.75)
    canvas.shade((1 - depth) + np.float32(depth) * relief)
    canvas.shade(
        1 + rng.uniform(0.02, 0.15) * (tone - 0.5) + rng.uniform(0.01, 0.08) * white(rng, height, width)
    )
    return canvas.finish(
        ("fabric", "woven fabric", "cloth", "textile"), "surface", light, relief * period * 0.3
    )


def knitted(rng: np.random.Generator, height: int, width: int) -> Part:
    """Columns of V-shaped loops."""
    period = log_uniform(rng, 7, 34)
    u, v = wavy(rng, height, width, 0.5 * period)
    a = u / np.float32(period)
    column = np.floor(a)
    fa = np.abs(a - column - 0.5) * 2
    phase = v / np.float32(period * rng.uniform(0.6, 0.95)) + np.float32(rng.uniform(0.5, 0.9)) * fa
    row = np.floor(phase)
    fb = phase - row - 0.5
    relief = np.sqrt(np.maximum(1 - np.square(fb * 2.05), 0)) * np.sqrt(
        np.maximum(1 - np.square(fa * 1.9 - 1), 0.02)
    )
    twist = np.sin((fb * 3 + a * 2) * np.float32(rng.uniform(6, 14)))
    base = any_colour(rng, 0.6)
    canvas = Canvas(height, width, base)
    if chance(rng, 0.35):
        stripe = (row.astype(np.int32) // int(rng.integers(3, 9))) % 2
        canvas.paint(stripe.astype(np.float32), any_colour(rng, 0.6))
    depth = rng.uniform(0.4, 0.8)
    canvas.shade((1 - depth) + np.float32(depth) * relief)
    canvas.shade(
        1 + rng.uniform(0.02, 0.1) * twist + rng.uniform(0.02, 0.12) * fractal(rng, height, width, 3, 2)
    )
    return canvas.finish(
        ("knit", "knitted fabric", "textile", "wool"), "surface", random_light(rng), relief * period * 0.3
    )


def carpet(rng: np.random.Generator, height: int, width: int) -> Part:
    """Loops or tufts in rows with strong speckle."""
    period = log_uniform(rng, 3, 12)
    u, v = wavy(rng, height, width, 0.8 * period)
    first, _, value = cells(rng, v / np.float32(period), u / np.float32(period * rng.uniform(0.7, 1.6)), 0.6)
    relief = np.maximum(1 - first * np.float32(1.2), 0)
    base = any_colour(rng, 0.35)
    canvas = Canvas(height, width, base)
    canvas.paint(soft_step(value, 0.5, 0.6), vary(rng, base, 0.12))
    canvas.shade(np.float32(0.45) + np.float32(rng.uniform(0.4, 0.75)) * relief)
    canvas.shade(
        1 + rng.uniform(0.08, 0.3) * white(rng, height, width) + 0.1 * fractal(rng, height, width, 30, 3)
    )
    return canvas.finish(
        ("carpet", "rug", "floor covering"), "surface", random_light(rng), relief * period * 0.4
    )


def leather(rng: np.random.Generator, height: int, width: int) -> Part:
    """Pebbled cells with creases between them."""
    period = log_uniform(rng, 4, 20)
    stretch = rng.uniform(0.75, 1.35)
    u, v = rotated(height, width, rng.uniform(0, math.pi))
    bend = np.float32(period * rng.uniform(0.2, 0.6))
    u += bend * smooth(rng, height, width, period * 1.5)
    v += bend * smooth(rng, height, width, period * 1.5)
    first, second, value = cells(rng, v / np.float32(period), u / np.float32(period * stretch), 0.95)
    relief = np.minimum((second - first) * np.float32(rng.uniform(1.5, 3.5)), 1) + 0.25 * value
    relief += rng.uniform(0.05, 0.25) * fractal(rng, height, width, max(period / 3, 1.5), 2)
    light = random_light(rng)
    base = vary(
        rng,
        pick(
            rng, [(0.35, 0.2, 0.12), (0.12, 0.1, 0.1), (0.6, 0.45, 0.3), (0.4, 0.1, 0.1), (0.7, 0.68, 0.62)]
        ),
        0.1,
    )
    canvas = Canvas(height, width, base)
    height_px = np.float32(period * rng.uniform(0.05, 0.16))
    lit = shading(relief, light, float(height_px))
    canvas.shade(lit * (1 + rng.uniform(0.02, 0.12) * fractal(rng, height, width, 40, 3)))
    canvas.shade(np.float32(rng.uniform(0.6, 0.9)) + np.float32(0.3) * np.minimum(relief, 1))
    return canvas.finish(
        ("leather", "leatherette", "hide", "faux leather"), "surface", light, relief * height_px
    )


def wood(rng: np.random.Generator, height: int, width: int) -> Part:
    """Sawn wood: rings cut lengthwise, pores, now and then knots or the joints of planks."""
    u, v = wavy(rng, height, width, 3)
    side = min(height, width)
    rings = v * np.float32(log_uniform(rng, 6, 40) / side)
    rings += np.float32(rng.uniform(0.3, 2.0)) * smooth(rng, height, width, (side * 0.4, side * 0.9))
    knots = np.zeros((height, width), dtype=np.float32)
    for _ in range(int(pick(rng, [0, 0, 0, 1, 1, 2]))):
        ku, kv, size = (
            rng.uniform(-0.5, 0.5) * width,
            rng.uniform(-0.5, 0.5) * height,
            side * rng.uniform(0.02, 0.07),
        )
        d2 = np.square((u - ku) / np.float32(size * rng.uniform(1.2, 2.4))) + np.square(
            (v - kv) / np.float32(size)
        )
        rings += np.float32(rng.uniform(2, 6)) * np.exp(-d2 * np.float32(0.15))
        knots = np.maximum(knots, np.exp(-np.square(d2)))
    phase = rings - np.floor(rings)
    band = soft_step(phase, 0, rng.uniform(0.5, 0.9)) * soft_step(phase, 1, rng.uniform(0.85, 0.97))
    pores = streaks(rng, height, width, 0.0, rng.uniform(0.8, 2), rng.uniform(15, 60))
    if chance(rng, 0.5) or height != width:
        side_of = int(math.hypot(height, width)) + 2
        table = smooth(rng, side_of, side_of, (rng.uniform(0.8, 1.6), rng.uniform(12, 60)))
        pores = lookup(table, v + side_of / 2, u + side_of / 2)
    pale = vary(
        rng,
        pick(
            rng,
            [
                (0.75, 0.58, 0.38),
                (0.85, 0.73, 0.55),
                (0.5, 0.32, 0.2),
                (0.62, 0.45, 0.33),
                (0.35, 0.24, 0.18),
            ],
        ),
    )
    dark = pale * np.float32(rng.uniform(0.6, 0.88))
    canvas = Canvas(height, width)
    canvas.ramp(1 - band * np.float32(rng.uniform(0.4, 1)), dark, pale)
    canvas.shade(
        1 - rng.uniform(0.03, 0.2) * soft_step(pores, 0.2, 1.0) + 0.06 * fractal(rng, height, width, 50, 3)
    )
    canvas.paint(knots * np.float32(0.8), dark * np.float32(0.6))
    if chance(rng, 0.3):
        planks = v / np.float32(side * rng.uniform(0.2, 0.5))
        row = np.floor(planks)
        canvas.shade(1 + 0.25 * (scatter(rng, row.astype(np.int32), np.zeros(row.shape, np.int32)) - 0.5))
        canvas.shade(1 - 0.7 * soft_step(np.abs(planks - row - 0.5), 0.48, 0.5))
    return canvas.finish(("wood", "wooden board", "timber", "plank"), "surface", random_light(rng), band)


def fibre_board(rng: np.random.Generator, height: int, width: int) -> Part:
    """Pressed flakes or chips lying in all directions."""
    size = log_uniform(rng, 6, 40)
    base = vary(rng, pick(rng, [(0.7, 0.55, 0.38), (0.45, 0.33, 0.24), (0.8, 0.7, 0.55)]))
    canvas = Canvas(height, width, base)
    relief = np.zeros((height, width), dtype=np.float32)
    for _ in range(3):
        u, v = rotated(height, width, rng.uniform(0, math.pi))
        first, second, value = cells(
            rng, v / np.float32(size * 0.35), u / np.float32(size * rng.uniform(0.8, 2))
        )
        lies = soft_step(value, 0.35, 0.4) * soft_step(second - first, 0.02, 0.12)
        canvas.paint(lies * np.float32(0.75), vary(rng, base, 0.1))
        canvas.shade(1 - lies * (0.35 * (value - 0.7)))
        relief += lies * value
    canvas.shade(
        1 + 0.1 * streaks(rng, height, width, rng.uniform(0, 3), 1.2, 12) + 0.05 * white(rng, height, width)
    )
    names = ("fibre board", "chipboard", "particle board", "OSB panel")
    return canvas.finish(names, "surface", random_light(rng), relief)


def paper(rng: np.random.Generator, height: int, width: int) -> Part:
    """Paper or cardboard: fibres, flecks, sometimes the flutes of corrugated board."""
    base = vary(
        rng, pick(rng, [(0.9, 0.89, 0.86), (0.7, 0.56, 0.4), (0.78, 0.67, 0.52), (0.6, 0.6, 0.58)]), 0.06
    )
    canvas = Canvas(height, width, base)
    tone = rng.uniform(0.01, 0.05) * fractal(rng, height, width, 24, 4, 0.7)
    for _ in range(2):
        fibre = streaks(rng, height, width, rng.uniform(0, math.pi), 1.0, rng.uniform(6, 20))
        tone += rng.uniform(0.01, 0.07) * soft_step(fibre, 0.4, 1.2)
    if chance(rng, 0.45):
        u, _ = wavy(rng, height, width, 1.5)
        tone += rng.uniform(0.02, 0.12) * np.sin(u * np.float32(2 * math.pi / log_uniform(rng, 6, 30)))
    canvas.shade(1 + tone)
    if chance(rng, 0.4):
        canvas.paint(
            soft_step(smooth(rng, height, width, 1.5), 1.0, 1.3) * np.float32(0.5), base * np.float32(0.6)
        )
    return canvas.finish(
        ("cardboard", "paper", "carton", "sheet of paper"), "surface", random_light(rng), tone * 4
    )


def felt(rng: np.random.Generator, height: int, width: int) -> Part:
    """Matted fibres: felt, fleece, insulation wool, filter mat."""
    base = any_colour(rng, 0.5)
    canvas = Canvas(height, width, base)
    tone = rng.uniform(0.05, 0.2) * fractal(rng, height, width, rng.uniform(6, 40), 4, 0.7)
    for _ in range(3):
        fibre = streaks(
            rng, height, width, rng.uniform(0, math.pi), rng.uniform(0.8, 1.6), rng.uniform(8, 40)
        )
        tone += rng.uniform(0.04, 0.16) * fibre
    canvas.shade(1 + tone)
    return canvas.finish(("felt", "fleece", "fibre mat", "nonwoven"), "surface", random_light(rng), tone * 5)


def striped_cloth(rng: np.random.Generator, height: int, width: int) -> Part:
    """Cloth with a woven or printed pattern of stripes or checks."""
    u, v = wavy(rng, height, width, rng.uniform(0, 6))
    period = log_uniform(rng, 12, 80)
    table = wave(rng, 64, 64 / rng.uniform(3, 10))
    step = (table > 0).astype(np.float32) if chance(rng, 0.6) else np.clip(table * 0.5 + 0.5, 0, 1)
    at = (u * np.float32(64 / period)).astype(np.int32) % 64
    stripe = step[at]
    if chance(rng, 0.5):
        stripe = 0.5 * (stripe + step[(v * np.float32(64 / period)).astype(np.int32) % 64])
    canvas = Canvas(height, width, any_colour(rng, 0.6))
    canvas.paint(stripe, any_colour(rng, 0.7))
    thread = log_uniform(rng, 2, 6)
    weave = np.sin(u * np.float32(2 * math.pi / thread)) * np.sin(v * np.float32(2 * math.pi / thread))
    canvas.shade(1 + rng.uniform(0.03, 0.15) * weave + rng.uniform(0.02, 0.08) * white(rng, height, width))
    canvas.shade(1 + rng.uniform(0, 0.15) * smooth(rng, height, width, min(height, width) * 0.3))
    return canvas.finish(
        ("striped cloth", "patterned fabric", "textile"), "surface", random_light(rng), weave
    )


def random_texture(rng: np.random.Generator, height: int, width: int) -> Part:
    """A random stationary texture from one to three spectral bands: what no other family thought of."""
    tone = np.zeros((height, width), dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        focus = pick(rng, [0.0, 0.0, 2.0, 20.0, 120.0])
        tone += rng.uniform(0.3, 1) * spectral(
            rng,
            height,
            width,
            centre=log_uniform(rng, 0.01, 0.3),
            spread=rng.uniform(0.15, 1.5),
            angle=rng.uniform(0, math.pi),
            focus=focus,
        )
    if chance(rng, 0.4):
        tone = np.tanh(tone * np.float32(rng.uniform(1, 4)))
    contrast = log_uniform(rng, 0.04, 0.28)
    one, other = any_colour(rng, 0.4), any_colour(rng, 0.4)
    if chance(rng, 0.6):
        other = vary(rng, one, 0.15)
    canvas = Canvas(height, width)
    canvas.ramp(np.clip(0.5 + contrast * tone, 0, 1), one, other)
    canvas.shade(1 + np.float32(contrast * 0.5) * tone)
    return canvas.finish(("surface", "texture", "sheet", "material"), "surface", random_light(rng), tone)
