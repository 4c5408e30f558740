"""Flat and built products: circuit boards, connectors, chips, labels, zippers, trays, blisters, moulded
plastic.

Input: a generator and a size. Output: a `Part` of kind "object", mostly with a background.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import (
    Canvas,
    any_colour,
    gloss,
    place,
    random_light,
    shading,
    vary,
)
from clipsam.nano.corpus.noise import (
    Field,
    chance,
    fractal,
    pick,
    scatter,
    smooth,
    soft_step,
    streaks,
    white,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import backdrop, metal, shadow
from clipsam.nano.corpus.shapes import box, cover, dome, legend, polygon


def label(rng: np.random.Generator, height: int, width: int) -> Part:
    """A box, card or label with printed lines, symbols and bars."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(1.0, 2.4)
    at = place(rng, height, width, (0.34, 0.5), aspect=aspect, upright=0.7)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * pick(rng, [0.02, 0.1, 0.3]))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half * 0.4)
    body = cover(distance)
    base = any_colour(rng, 0.5) if chance(rng, 0.5) else vary(rng, (0.9, 0.9, 0.88), 0.05)
    canvas.paint(body, base)
    if chance(rng, 0.5):
        band = cover(
            np.abs(at.v - np.float32(half * rng.uniform(-0.7, 0.7)))
            - np.float32(half * rng.uniform(0.08, 0.3))
        )
        canvas.piece("stripe", band * body, any_colour(rng, 0.8))
    ink = base * np.float32(0.15) if float(base.mean()) > 0.4 else vary(rng, (0.9, 0.9, 0.9), 0.05)
    for _ in range(int(rng.integers(1, 5))):
        cu, cv = at.size * rng.uniform(-0.5, 0.5), half * rng.uniform(-0.6, 0.6)
        wide, tall = at.size * rng.uniform(0.15, 0.45), half * rng.uniform(0.1, 0.3)
        u, v = at.u - np.float32(cu), at.v - np.float32(cv)
        style = pick(rng, ["text", "text", "bars", "sign"])
        if style == "text":
            alpha = legend(rng, u, v, wide, tall)
        elif style == "bars":
            bar = np.floor((u + np.float32(wide)) / np.float32(max(1.5, wide / 25))).astype(np.int32)
            alpha = (scatter(rng, bar, np.zeros_like(bar)) > 0.5) * cover(box(u, v, wide, tall))
        else:
            alpha = cover(np.abs(polygon(u, v, int(rng.integers(3, 9)), tall)) - np.float32(tall * 0.12))
        canvas.piece(
            "print",
            (alpha * body * np.float32(0.95)).astype(np.float32),
            any_colour(rng, 0.9) if chance(rng, 0.3) else ink,
        )
    canvas.shade(1 + 0.03 * fractal(rng, height, width, 4, 3, 0.7))
    return canvas.finish(("label", "box", "package", "printed card"), "object", random_light(rng), body)


def zipper(rng: np.random.Generator, height: int, width: int) -> Part:
    """A zipper: a row of interlocking teeth between two bands of woven tape."""
    upright = height >= width if chance(rng, 0.8) else height < width
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    along_it, across = (y, x - np.float32(width / 2)) if upright else (x, y - np.float32(height / 2))
    span = width if upright else height
    across = (
        across
        + np.float32(span * rng.uniform(-0.1, 0.1))
        + np.float32(span * 0.01) * smooth(rng, height, width, 80)
    )
    tape = any_colour(rng, 0.6)
    canvas = Canvas(height, width, tape) if chance(rng, 0.5) else backdrop(rng, height, width)
    half = span * rng.uniform(0.3, 0.6)
    body = cover(np.abs(across) - np.float32(half))
    thread = rng.uniform(2.5, 7)
    weave = np.sin(along_it * np.float32(2 * math.pi / thread)) * np.sin(across * np.float32(4 / thread))
    canvas.paint(
        body, tape[:, None, None] * (1 + np.float32(0.15) * weave + 0.05 * white(rng, height, width))
    )
    canvas.solid = np.abs(across) < half
    pitch, reach = span * rng.uniform(0.06, 0.14), span * rng.uniform(0.07, 0.14)
    metallic = metal(rng) if chance(rng, 0.6) else any_colour(rng, 0.7)
    relief = np.zeros((height, width), np.float32)
    for side in (-1, 1):
        phase = along_it / np.float32(pitch) + np.float32(0.25 * side)
        local = (phase - np.round(phase)) * np.float32(pitch)
        tooth = box(local, across - np.float32(side * reach * 0.4), pitch * 0.22, reach, pitch * 0.15)
        relief = np.maximum(relief, dome(tooth, pitch * 0.2))
        canvas.paint(cover(tooth), metallic)
    light = random_light(rng)
    teeth = np.minimum(relief, 1)
    canvas.shade(1 + teeth * (shading(relief, light, 0.9) - 1))
    canvas.glow(teeth * gloss(relief, light, 0.9, 30) * np.float32(rng.uniform(0, 0.4)))
    canvas.note("teeth", relief > 0.2)
    return canvas.finish(("zipper", "zip", "zip fastener"), "object", light, relief)


def tray(rng: np.random.Generator, height: int, width: int) -> Part:
    """Equal parts in rows: pills in a blister, screws in a tray, buttons, keys, dice, candles."""
    side = min(height, width)
    columns = int(rng.integers(2, 8))
    pitch = side / columns * rng.uniform(0.9, 1.1)
    canvas = backdrop(rng, height, width)
    canvas.solid[:] = False
    light = random_light(rng)
    angle = rng.normal(0, 0.05) if chance(rng, 0.7) else rng.uniform(0, 3)
    at = place(rng, height, width, (0.45, 0.49), upright=0.8)
    if chance(rng, 0.5):
        canvas.shade(1 + 0.15 * (cover(box(at.u, at.v, at.size, at.size, 8)) - 0.5))
    shape = pick(rng, ["round", "oblong", "square", "hexagon", "ring"])
    half, base = pitch * rng.uniform(0.28, 0.44), any_colour(rng, 0.7)
    ink = any_colour(rng, 0.4)
    marked = legend(rng, *_stamp(half), half * 0.6, half * 0.4) if chance(rng, 0.4) else None
    c, s = math.cos(angle), math.sin(angle)
    number = int(1.5 * max(height, width) / pitch) // 2 + 1
    name = {"round": "tablet", "oblong": "capsule", "square": "key", "hexagon": "nut", "ring": "ring"}[shape]
    for row in range(-number, number + 1):
        for column in range(-number, number + 1):
            cy, cx = height / 2 + pitch * (row * c + column * s), width / 2 + pitch * (column * c - row * s)
            where = canvas.window(cy, cx, half * 1.2 + 2)
            if where is None:
                continue
            y = np.arange(where[0].start, where[0].stop, dtype=np.float32)[:, None] - np.float32(cy)
            x = np.arange(where[1].start, where[1].stop, dtype=np.float32)[None, :] - np.float32(cx)
            u, v = x * np.float32(c) + y * np.float32(s), y * np.float32(c) - x * np.float32(s)
            distance = _equal_part(shape, u, v, half)
            canvas.shade(
                1 - np.float32(0.35) * np.exp(np.maximum(distance, 0) * np.float32(-6 / half)), where
            )
            relief = dome(distance, half * 0.5)
            tone = shading(relief, light, 0.6) + np.float32(0.25) * gloss(relief, light, 0.7, 40)
            paint = vary(rng, base, 0.01)[:, None, None] * tone
            if marked is not None:
                i = np.clip((v + half).astype(np.int32), 0, marked.shape[0] - 1)
                j = np.clip((u + half).astype(np.int32), 0, marked.shape[1] - 1)
                paint = paint + marked[i, j] * (ink[:, None, None] - paint)
            canvas.piece(name, cover(distance), paint, where)
            canvas.solid[where] |= distance < 0
    names = (f"{name}s", f"tray of {name}s", "parts", "array of parts")
    return canvas.finish(names, "object", light)


def _stamp(half: float) -> tuple[Field, Field]:
    side = np.arange(int(2 * half) + 2, dtype=np.float32) - np.float32(half)
    v, u = np.meshgrid(side, side, indexing="ij")
    return u, v


def _equal_part(shape: str, u: Field, v: Field, half: float) -> Field:
    if shape == "oblong":
        return box(u, v, half, half * 0.5, half * 0.5)
    if shape == "square":
        return box(u, v, half, half, half * 0.2)
    if shape == "hexagon":
        return np.maximum(polygon(u, v, 6, half * 0.9), np.float32(half * 0.45) - np.sqrt(u * u + v * v))
    radius = np.sqrt(u * u + v * v)
    return (
        np.maximum(radius - np.float32(half), np.float32(half * 0.55) - radius)
        if shape == "ring"
        else radius - np.float32(half)
    )


def moulded(rng: np.random.Generator, height: int, width: int) -> Part:
    """A moulded plastic part: rounded body, ribs, bosses, recesses, openings and a gate mark."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(1.0, 2.6)
    at = place(rng, height, width, (0.3, 0.48), aspect=aspect)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * rng.uniform(0.1, 1.0))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    relief = dome(distance, half * rng.uniform(0.08, 0.6))
    base = any_colour(rng, 0.9)
    for _ in range(int(rng.integers(0, 4))):
        cu, cv = at.size * rng.uniform(-0.6, 0.6), half * rng.uniform(-0.5, 0.5)
        u, v = at.u - np.float32(cu), at.v - np.float32(cv)
        inner = box(
            u,
            v,
            at.size * rng.uniform(0.05, 0.35),
            half * rng.uniform(0.05, 0.4),
            half * rng.uniform(0.02, 0.3),
        )
        relief = relief + np.float32(pick(rng, [-1, 1])) * dome(inner, max(1.5, half * 0.08))
    if chance(rng, 0.4):
        ribs = np.cos(at.u * np.float32(2 * math.pi / (at.size * rng.uniform(0.08, 0.3))))
        relief = relief + cover(np.abs(at.v) - np.float32(half * 0.7), 6) * ribs * np.float32(half * 0.04)
    light = random_light(rng)
    body = cover(distance)
    canvas.paint(body, base)
    grain = np.float32(rng.uniform(0, 0.4)) * fractal(rng, height, width, 1.8, 2)
    canvas.shade(1 + body * (shading(relief + grain, light, 0.8) - 1))
    canvas.glow(body * gloss(relief, light, 0.8, rng.uniform(8, 80)) * np.float32(rng.uniform(0.05, 0.5)))
    for _ in range(int(rng.integers(0, 4))):
        cu, cv = at.size * rng.uniform(-0.7, 0.7), half * rng.uniform(-0.5, 0.5)
        hole = box(
            at.u - np.float32(cu),
            at.v - np.float32(cv),
            half * rng.uniform(0.06, 0.2),
            half * 0.1,
            half * 0.1,
        )
        canvas.piece("opening", cover(hole), base * np.float32(rng.uniform(0.08, 0.4)))
    if chance(rng, 0.35):
        ink = legend(rng, at.u, at.v, at.size * 0.5, half * 0.25) * body
        canvas.piece("print", ink * np.float32(0.9), any_colour(rng, 0.5))
    names = pick(
        rng,
        [
            ("plastic part", "moulded part", "housing"),
            ("cover", "case", "plastic housing"),
            ("clip", "handle", "plastic part"),
        ],
    )
    return canvas.finish(names, "object", light, relief)


def pouch(rng: np.random.Generator, height: int, width: int) -> Part:
    """A tube, pouch or bag: soft body with crimped ends and soft creases that belong to it."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(1.2, 2.6)
    at = place(rng, height, width, (0.34, 0.48), aspect=aspect)
    half = at.size / aspect
    narrow = 1 - np.float32(rng.uniform(0, 0.35)) * soft_step(at.u, at.size * 0.4, at.size)
    distance = np.maximum(np.abs(at.v) - np.float32(half) * narrow, np.abs(at.u) - np.float32(at.size))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    body = cover(distance, 1.5)
    light = random_light(rng)
    round_u, round_v = np.square(at.u / np.float32(at.size)), np.square(at.v / np.float32(half))
    bulge = np.maximum(1 - round_u * round_u, 0) * np.maximum(1 - round_v, 0)
    relief = np.float32(half * rng.uniform(0.3, 0.7)) * np.sqrt(bulge)
    relief += np.float32(half * rng.uniform(0.01, 0.05)) * streaks(
        rng, height, width, at.angle, half * 0.3, half
    )
    canvas.paint(body, any_colour(rng, 0.8))
    canvas.shade(1 + body * (shading(relief, light, 0.8) - 1))
    canvas.glow(body * gloss(relief, light, 0.8, rng.uniform(8, 60)) * np.float32(rng.uniform(0, 0.5)))
    crimp = cover(np.float32(at.size * rng.uniform(0.8, 0.92)) - np.abs(at.u)) * body
    canvas.shade(1 + crimp * np.float32(0.2) * np.sin(at.u * np.float32(2 * math.pi / rng.uniform(3, 6))))
    canvas.note("seam", crimp > 0.5)
    if chance(rng, 0.7):
        ink = legend(rng, at.u, at.v, at.size * 0.55, half * 0.35)
        canvas.piece("print", ink * np.float32(0.9), any_colour(rng, 0.8))
    return canvas.finish(("tube", "pouch", "bag", "sachet"), "object", light, relief)
