"""Close-up surfaces of stone, glass, plastic, paint and print: tiles, brick, road, foam, rubber, optics
and more.

Input: a generator and a size. Output: a `Part` of kind "surface" that fills the photo.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, any_colour, gloss, random_light, shading, vary
from clipsam.nano.corpus.noise import (
    Field,
    axes,
    cells,
    chance,
    fractal,
    log_uniform,
    pick,
    rotated,
    scatter,
    smooth,
    soft_step,
    white,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.shapes import box, cover, dome, legend, polygon


def nearly_upright(rng: np.random.Generator, height: int, width: int) -> tuple[Field, Field]:
    """Coordinates that are mostly level, sometimes turned freely."""
    angle = rng.normal(0, 0.03) if chance(rng, 0.7) else rng.uniform(0, math.pi)
    return rotated(height, width, angle)


def tiles(rng: np.random.Generator, height: int, width: int) -> Part:
    """Glazed tiles with grout between them."""
    pitch = min(height, width) * rng.uniform(0.12, 0.9)
    u, v = nearly_upright(rng, height, width)
    a, b = u / np.float32(pitch) + np.float32(rng.random()), v / np.float32(pitch * rng.uniform(0.5, 1))
    i, j = np.floor(a), np.floor(b)
    du, dv = np.abs(a - i - 0.5) * np.float32(pitch), np.abs(b - j - 0.5) * np.float32(pitch)
    joint = max(1.5, pitch * rng.uniform(0.01, 0.05))
    aspect = float(np.max(dv)) if dv.size else pitch / 2
    distance = np.maximum(du - (pitch / 2 - joint), dv - (aspect - joint))
    light = random_light(rng)
    base = any_colour(rng, 0.4)
    canvas = Canvas(height, width, base)
    tone = scatter(rng, i.astype(np.int32), j.astype(np.int32)) - 0.5
    canvas.shade(1 + rng.uniform(0.02, 0.25) * tone + 0.05 * fractal(rng, height, width, 30, 3))
    relief = dome(distance, max(1.5, joint))
    canvas.shade(shading(relief, light, rng.uniform(0.1, 0.4)))
    canvas.paint(cover(distance * -1), any_colour(rng, 0.1))
    canvas.shade(1 + rng.uniform(0.01, 0.05) * white(rng, height, width))
    return canvas.finish(("tiles", "ceramic tiles", "tiled wall", "floor tiles"), "surface", light, relief)


def terrazzo(rng: np.random.Generator, height: int, width: int) -> Part:
    """Chips and specks of several colours pressed in one ground: speckled tile, granite."""
    base = any_colour(rng, 0.25)
    canvas = Canvas(height, width, base)
    size = log_uniform(rng, 3, 22)
    for k in range(int(rng.integers(1, 4))):
        scale = size / (1 + k)
        spots = fractal(rng, height, width, max(scale, 1.2), 2, 0.4)
        level = rng.uniform(0.2, 1.0)
        canvas.paint(soft_step(spots, level, level + rng.uniform(0.05, 0.3)), vary(rng, base, 0.22))
    if chance(rng, 0.4):
        u, v = rotated(height, width, rng.uniform(0, 3))
        first, second, value = cells(rng, v / np.float32(size * 2), u / np.float32(size * 2))
        chip = soft_step(second - first, 0.1, 0.2) * soft_step(value, 0.6, 0.62)
        canvas.paint(chip, vary(rng, base, 0.25))
    canvas.shade(1 + rng.uniform(0.02, 0.1) * white(rng, height, width))
    return canvas.finish(("tile", "terrazzo", "granite", "speckled tile"), "surface", random_light(rng))


def marble(rng: np.random.Generator, height: int, width: int) -> Part:
    """Clouded stone with veins that belong to it."""
    scale = min(height, width) * rng.uniform(0.15, 0.5)
    cloud = fractal(rng, height, width, scale, 5, 0.55)
    base = vary(
        rng, pick(rng, [(0.85, 0.84, 0.82), (0.3, 0.33, 0.32), (0.7, 0.6, 0.5), (0.15, 0.15, 0.17)]), 0.08
    )
    canvas = Canvas(height, width)
    canvas.ramp(np.clip(0.5 + 0.4 * cloud, 0, 1), vary(rng, base, 0.08), base)
    for _ in range(int(rng.integers(1, 4))):
        vein = np.abs(fractal(rng, height, width, scale * rng.uniform(0.6, 1.5), 4, 0.5))
        canvas.paint(
            np.exp(vein * np.float32(-rng.uniform(12, 40))) * np.float32(rng.uniform(0.2, 0.6)),
            any_colour(rng, 0.1),
        )
    return canvas.finish(("marble", "stone slab", "natural stone"), "surface", random_light(rng))


def concrete(rng: np.random.Generator, height: int, width: int) -> Part:
    """Cement skin: clouds, fine grain, small pores, sometimes the seam of a form board."""
    grey = rng.uniform(0.4, 0.75)
    canvas = Canvas(height, width, vary(rng, (grey, grey * 0.98, grey * 0.94), 0.04))
    tone = rng.uniform(0.04, 0.14) * fractal(rng, height, width, rng.uniform(20, 80), 5, 0.6)
    tone += rng.uniform(0.02, 0.1) * white(rng, height, width)
    pores = smooth(rng, height, width, rng.uniform(1.2, 4))
    tone -= rng.uniform(0.1, 0.5) * soft_step(pores, rng.uniform(1.0, 1.25), 1.5)
    if chance(rng, 0.25):
        _, v = nearly_upright(rng, height, width)
        tone -= 0.3 * np.exp(-np.square(v - np.float32(rng.uniform(-0.4, 0.4) * height)) * np.float32(0.3))
    canvas.shade(1 + tone)
    return canvas.finish(
        ("concrete", "cement", "concrete wall", "plaster"), "surface", random_light(rng), tone * 6
    )


def brick(rng: np.random.Generator, height: int, width: int) -> Part:
    """Bricks in bond, rough and each of its own tone, with mortar."""
    tall = min(height, width) * rng.uniform(0.1, 0.6)
    long = tall * rng.uniform(1.8, 3.2)
    u, v = nearly_upright(rng, height, width)
    rough = np.float32(tall * 0.03)
    u, v = (
        u + rough * fractal(rng, height, width, tall / 4, 3),
        v + rough * fractal(rng, height, width, tall / 4, 3),
    )
    b = v / np.float32(tall) + np.float32(rng.random())
    row = np.floor(b)
    a = u / np.float32(long) + row * np.float32(pick(rng, [0.5, 0.5, 0.33])) + np.float32(rng.random())
    column = np.floor(a)
    du, dv = np.abs(a - column - 0.5) * np.float32(long), np.abs(b - row - 0.5) * np.float32(tall)
    joint = tall * rng.uniform(0.04, 0.12)
    distance = np.maximum(du - (long - joint) / 2, dv - (tall - joint) / 2)
    base = vary(
        rng, pick(rng, [(0.6, 0.3, 0.2), (0.65, 0.45, 0.3), (0.5, 0.48, 0.45), (0.8, 0.75, 0.68)]), 0.07
    )
    canvas = Canvas(height, width, base)
    tone = scatter(rng, row.astype(np.int32), column.astype(np.int32)) - 0.5
    grain = fractal(rng, height, width, rng.uniform(3, 12), 4, 0.7)
    canvas.shade(1 + rng.uniform(0.1, 0.4) * tone + rng.uniform(0.05, 0.2) * grain)
    light = random_light(rng)
    relief = dome(distance, max(joint * 0.7, 1)) + 0.5 * grain
    canvas.shade(shading(relief, light, 0.35))
    mortar = vary(rng, (0.68, 0.66, 0.62), 0.08)
    canvas.paint(cover(-distance, 2), mortar)
    canvas.shade(1 + rng.uniform(0.03, 0.1) * white(rng, height, width))
    return canvas.finish(("brick", "brick wall", "masonry", "bricks"), "surface", light, relief)


def road(rng: np.random.Generator, height: int, width: int) -> Part:
    """Asphalt: dark ground full of stones, wheel tracks, sometimes a painted line."""
    size = log_uniform(rng, 1.2, 5)
    grey = rng.uniform(0.2, 0.55)
    canvas = Canvas(height, width, vary(rng, (grey, grey, grey * 1.02), 0.02))
    tone = rng.uniform(0.15, 0.45) * smooth(rng, height, width, size) + 0.12 * white(rng, height, width)
    tone += rng.uniform(0.03, 0.12) * fractal(rng, height, width, 60, 3)
    canvas.shade(np.maximum(1 + tone, 0.15))
    if chance(rng, 0.35):
        u, _ = nearly_upright(rng, height, width)
        half = rng.uniform(0.02, 0.09) * width
        line = cover(np.abs(u - np.float32(rng.uniform(-0.4, 0.4) * width)) - np.float32(half), 2)
        line *= soft_step(smooth(rng, height, width, 2) + tone, -1.6, -0.6)
        paint = pick(rng, [(0.9, 0.9, 0.88), (0.85, 0.7, 0.25)])
        canvas.piece("line", line, vary(rng, paint, 0.03))
    return canvas.finish(
        ("road", "asphalt", "pavement", "road surface"), "surface", random_light(rng), tone * 3
    )


def cobbles(rng: np.random.Generator, height: int, width: int) -> Part:
    """Rounded stones or pebbles side by side; also crackle glaze and scales."""
    size = log_uniform(rng, 10, 60)
    u, v = rotated(height, width, rng.uniform(0, 3))
    first, second, value = cells(rng, v / np.float32(size), u / np.float32(size), pick(rng, [0.5, 0.7, 0.9]))
    relief = np.minimum((second - first) * np.float32(rng.uniform(1.2, 4)), 1)
    relief = relief * (2 - relief) * np.float32(size * 0.2)
    light = random_light(rng)
    canvas = Canvas(height, width, any_colour(rng, 0.25))
    canvas.shade(
        1 + rng.uniform(0.1, 0.6) * (value - 0.5) + 0.1 * fractal(rng, height, width, size / 2, 4, 0.7)
    )
    canvas.shade(shading(relief, light, rng.uniform(0.3, 0.9)))
    canvas.shade(0.35 + 0.65 * soft_step(second - first, 0, 0.12))
    return canvas.finish(("cobblestone", "pebbles", "stones", "paving"), "surface", light, relief)


def printed(rng: np.random.Generator, height: int, width: int) -> Part:
    """A repeating printed motif: dots, polygons, rings, letters."""
    pitch = log_uniform(rng, 16, 90)
    u, v = rotated(height, width, rng.uniform(0, 3))
    a, b = u / np.float32(pitch), v / np.float32(pitch)
    row = np.floor(b)
    a = a + np.mod(row, 2) * np.float32(pick(rng, [0.0, 0.5]))
    column = np.floor(a)
    p, q = (a - column - 0.5) * np.float32(pitch), (b - row - 0.5) * np.float32(pitch)
    base = any_colour(rng, 0.5)
    canvas = Canvas(height, width, base)
    for _ in range(int(rng.integers(1, 4))):
        style, half = pick(rng, ["dot", "ring", "polygon", "text", "cross"]), pitch * rng.uniform(0.1, 0.38)
        if style == "text":
            alpha = legend(rng, p, q, half, half * 0.7)
        elif style == "polygon":
            alpha = cover(polygon(p, q, int(rng.integers(3, 8)), half))
        elif style == "cross":
            alpha = cover(np.minimum(box(p, q, half, half * 0.25), box(p, q, half * 0.25, half)))
        else:
            distance = np.sqrt(p * p + q * q) - np.float32(half)
            alpha = cover(
                distance if style == "dot" else np.abs(distance) - np.float32(max(1.0, 0.12 * half))
            )
        if chance(rng, 0.3):
            alpha = alpha * np.mod(row + column, 2)
        canvas.paint(alpha, any_colour(rng, 0.8))
    canvas.shade(1 + rng.uniform(0.01, 0.08) * white(rng, height, width))
    return canvas.finish(
        ("printed pattern", "wallpaper", "printed sheet", "patterned foil"), "surface", random_light(rng)
    )


def foam(rng: np.random.Generator, height: int, width: int) -> Part:
    """Open pores of many sizes: sponge, foam, pumice."""
    size = log_uniform(rng, 2.5, 14)
    pores = fractal(rng, height, width, size, 3, 0.6)
    relief = soft_step(pores, 0.7, -0.5)
    canvas = Canvas(height, width, any_colour(rng, 0.6))
    canvas.shade(np.float32(rng.uniform(0.25, 0.7)) + np.float32(0.5) * relief)
    canvas.shade(shading(relief * np.float32(size * 0.4), light := random_light(rng), 0.8))
    canvas.shade(1 + 0.06 * white(rng, height, width))
    return canvas.finish(
        ("foam", "sponge", "foam rubber", "insulation"), "surface", light, relief * np.float32(size * 0.4)
    )


def glazed(rng: np.random.Generator, height: int, width: int) -> Part:
    """Almost uniform: glazed ceramic, enamel, matte plastic, optics; faint clouds and broad reflections."""
    canvas = Canvas(height, width, any_colour(rng, pick(rng, [0.0, 0.2, 0.7])))
    tone = rng.uniform(0.0, 0.05) * fractal(rng, height, width, rng.uniform(20, 90), 4)
    tone += rng.uniform(0.0, 0.04) * white(rng, height, width)
    y, x = axes(height, width)
    for _ in range(int(rng.integers(0, 3))):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.1, 0.7) * max(height, width)
        tone = tone + rng.uniform(0.05, 0.4) * np.exp(
            (np.square(y - cy) + np.square(x - cx)) * np.float32(-1 / (r * r))
        )
    canvas.shade(1 + tone)
    names = pick(
        rng,
        [
            ("ceramic", "porcelain", "enamel"),
            ("optics", "lens surface"),
            ("plastic", "plastic surface", "housing"),
        ],
    )
    return canvas.finish(names, "surface", random_light(rng))


def glass(rng: np.random.Generator, height: int, width: int) -> Part:
    """A clear pane: what lies behind it, a tint, and straight reflections across."""
    behind = any_colour(rng, 0.15)
    canvas = Canvas(height, width, behind)
    u, v = rotated(height, width, rng.uniform(0, math.pi))
    canvas.shade(1 + rng.uniform(0.0, 0.3) * smooth(rng, height, width, min(height, width) * 0.5))
    if chance(rng, 0.3):
        pitch = log_uniform(rng, 20, 80)
        lines = np.minimum(np.abs(np.mod(u, pitch) - pitch / 2), np.abs(np.mod(v, pitch) - pitch / 2))
        canvas.shade(1 - rng.uniform(0.1, 0.4) * cover(lines - np.float32(1), 3))
    for _ in range(int(rng.integers(0, 4))):
        middle, half = rng.uniform(-0.6, 0.6) * width, rng.uniform(0.02, 0.2) * width
        band = soft_step(np.abs(u - np.float32(middle)), half, half * rng.uniform(0.3, 0.95))
        canvas.glow(band * np.float32(rng.uniform(0.02, 0.25)))
    canvas.shade(1 + rng.uniform(0, 0.02) * white(rng, height, width))
    return canvas.finish(("glass", "glass pane", "window", "transparent sheet"), "surface", random_light(rng))


def orange_peel(rng: np.random.Generator, height: int, width: int) -> Part:
    """Painted or moulded skin: fine even relief with a soft gloss."""
    relief = fractal(rng, height, width, log_uniform(rng, 2.5, 9), 2, 0.5)
    light = random_light(rng)
    canvas = Canvas(height, width, any_colour(rng, 0.8))
    depth = rng.uniform(0.05, 0.3)
    canvas.shade(shading(relief, light, depth) * (1 + 0.05 * smooth(rng, height, width, 80)))
    canvas.glow(rng.uniform(0, 0.4) * gloss(relief, light, depth, rng.uniform(10, 80)))
    if chance(rng, 0.3):
        flakes = soft_step(white(rng, height, width), 0.8, 1)
        canvas.glow(flakes * np.float32(rng.uniform(0.05, 0.3)))
    names = ("painted surface", "paint", "lacquer", "coated panel")
    return canvas.finish(names, "surface", light, relief * np.float32(depth))


def rubber(rng: np.random.Generator, height: int, width: int) -> Part:
    """Dark rubber with tread blocks, ribs or studs."""
    pitch = log_uniform(rng, 14, 70)
    u, v = nearly_upright(rng, height, width)
    zigzag = np.abs(np.mod(v / np.float32(pitch), 2) - 1) * np.float32(pitch * rng.uniform(0, 0.8))
    a, b = (u + zigzag) / np.float32(pitch), v / np.float32(pitch * rng.uniform(0.5, 1.5))
    gap = np.maximum(
        np.abs(a - np.floor(a) - 0.5), np.abs(b - np.floor(b) - 0.5) if chance(rng, 0.5) else np.float32(0)
    )
    distance = (gap - np.float32(rng.uniform(0.36, 0.46))) * np.float32(pitch)
    relief = dome(distance, pitch * 0.08)
    light = random_light(rng)
    canvas = Canvas(
        height, width, vary(rng, pick(rng, [(0.16, 0.16, 0.17), (0.25, 0.24, 0.23), (0.5, 0.25, 0.2)]), 0.05)
    )
    canvas.shade(0.45 + 0.55 * cover(distance, 3))
    canvas.shade(shading(relief, light, 0.8) * (1 + 0.1 * fractal(rng, height, width, 4, 3, 0.8)))
    return canvas.finish(("rubber", "tread", "rubber mat", "tyre"), "surface", light, relief)


def honeycomb(rng: np.random.Generator, height: int, width: int) -> Part:
    """Hexagonal cells with thin walls: honeycomb core, catalyst, filter."""
    pitch = log_uniform(rng, 10, 60)
    u, v = rotated(height, width, rng.uniform(0, 3))
    sx, sy = pitch, pitch * math.sqrt(3)
    pu, pv = np.mod(u, sx) - sx / 2, np.mod(v, sy) - sy / 2
    qu, qv = np.mod(u + sx / 2, sx) - sx / 2, np.mod(v + sy / 2, sy) - sy / 2
    near = pu * pu + pv * pv < qu * qu + qv * qv
    hu, hv = np.where(near, pu, qu), np.where(near, pv, qv)
    s = np.float32(math.sqrt(3) / 2)
    edge = np.maximum(np.abs(hu), np.abs(hu * np.float32(0.5)) + np.abs(hv) * s) - np.float32(
        pitch * rng.uniform(0.38, 0.47)
    )
    inside = cover(edge, 1.5)
    canvas = Canvas(height, width, any_colour(rng, 0.4))
    light = random_light(rng)
    canvas.shade(1 + 0.08 * white(rng, height, width))
    towards = hu * np.float32(light[0]) + hv * np.float32(light[1])
    lean = np.float32(1) + towards * np.float32(rng.uniform(0.3, 1.0) / pitch)
    canvas.paint(inside, any_colour(rng, 0.3) * np.float32(rng.uniform(0.1, 0.7)))
    canvas.shade(np.asarray(1 + inside * (lean - 1), dtype=np.float32))
    return canvas.finish(("honeycomb", "filter", "honeycomb core"), "surface", light, 1 - inside)


def solar_cell(rng: np.random.Generator, height: int, width: int) -> Part:
    """Dark wafer with fine parallel fingers and wide bus bars."""
    u, v = nearly_upright(rng, height, width)
    fine, wide = log_uniform(rng, 4, 14), min(height, width) * rng.uniform(0.2, 0.6)
    _, _, value = cells(rng, v / np.float32(30), u / np.float32(30))
    canvas = Canvas(
        height, width, vary(rng, pick(rng, [(0.1, 0.14, 0.32), (0.12, 0.12, 0.14), (0.35, 0.35, 0.36)]), 0.04)
    )
    canvas.shade(1 + rng.uniform(0, 0.5) * (value - 0.5) + 0.1 * fractal(rng, height, width, 50, 3))
    silver = vary(rng, (0.6, 0.6, 0.62), 0.08)
    canvas.paint(cover(np.abs(np.mod(v, fine) - fine / 2) - np.float32(0.3)) * np.float32(0.7), silver)
    bars = cover(np.abs(np.mod(u, wide) - wide / 2) - np.float32(rng.uniform(1.5, 6)))
    canvas.piece("bus bar", bars, silver)
    return canvas.finish(("solar cell", "wafer", "photovoltaic cell"), "surface", random_light(rng))
