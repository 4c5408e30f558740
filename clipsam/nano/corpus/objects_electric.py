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
    Place,
    Window,
    any_colour,
    place,
    random_light,
    shading,
    vary,
)
from clipsam.nano.corpus.noise import (
    Field,
    chance,
    fractal,
    log_uniform,
    pick,
    scatter,
    smooth,
    white,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import backdrop, cylinder, metal, shadow
from clipsam.nano.corpus.shapes import box, cover, dome, legend

BOARDS = (
    (0.05, 0.3, 0.15),
    (0.08, 0.2, 0.4),
    (0.1, 0.1, 0.1),
    (0.35, 0.08, 0.1),
    (0.85, 0.85, 0.82),
    (0.6, 0.5, 0.2),
)


def spot(canvas: Canvas, at: Place, cu: float, cv: float, reach: float) -> tuple[Window, Field, Field] | None:
    """The window around (cu, cv) of the object's coordinates, and u, v about that point there."""
    c, s = math.cos(at.angle), math.sin(at.angle)
    where = canvas.window(at.cy + cu * s + cv * c, at.cx + cu * c - cv * s, reach)
    if where is None:
        return None
    return where, at.u[where] - np.float32(cu), at.v[where] - np.float32(cv)


def component(rng: np.random.Generator, canvas: Canvas, at: Place, cu: float, cv: float, size: float) -> None:
    """One electronic component at (cu, cv): chip with legs, resistor, can, pad ring or light."""
    wide, tall = size * rng.uniform(0.5, 1), size * rng.uniform(0.3, 0.9)
    found = spot(canvas, at, cu, cv, size * 1.6 + 2)
    if found is None:
        return
    where, u, v = found
    style = pick(rng, ["chip", "chip", "resistor", "can", "pad"])
    solder = vary(rng, (0.72, 0.72, 0.7), 0.08)
    if style == "chip":
        step = max(3.0, tall * rng.uniform(0.2, 0.4))
        legs = box(np.mod(u, step) - np.float32(step / 2), v, step * 0.25, tall * 1.3)
        legs = np.maximum(legs, np.abs(u) - np.float32(wide * 0.95))
        body = box(u, v, wide, tall, 1)
        dark = vary(rng, (0.12, 0.12, 0.13), 0.04)
        whole = cover(np.minimum(legs, body))
        paint = solder[:, None, None] + cover(body) * (dark - solder)[:, None, None]
        if wide > 9:
            paint = paint + legend(rng, u, v, wide * 0.7, tall * 0.5) * np.float32(rng.uniform(0.1, 0.6))
        canvas.piece("chip", whole, paint, where)
    elif style == "resistor":
        body = box(u, v, wide, tall * 0.5, 1)
        inner = cover(box(u, v, wide * 0.6, tall * 0.5))
        middle = any_colour(rng, 0.3) * np.float32(0.6)
        canvas.piece(
            "resistor", cover(body), solder[:, None, None] + inner * (middle - solder)[:, None, None], where
        )
    elif style == "can":
        radius = np.sqrt(u * u + v * v)
        ring = np.exp(-np.square(radius - np.float32(tall * 0.85)))
        tone = np.clip(1 - ring * 0.5 + (u - v) * np.float32(0.25 / size), 0, 1.4)
        canvas.piece("capacitor", cover(radius - np.float32(tall)), metal(rng)[:, None, None] * tone, where)
    else:
        radius = np.sqrt(u * u + v * v)
        pad = np.maximum(radius - np.float32(tall * 0.7), np.float32(tall * 0.3) - radius)
        canvas.piece("solder pad", cover(pad), solder, where)


def circuit_board(rng: np.random.Generator, height: int, width: int) -> Part:
    """A circuit board: tracks, pads, components in rows, legends, mounting holes; whole or close up."""
    canvas = backdrop(rng, height, width, 0.25)
    aspect = rng.uniform(1.0, 2.0)
    at = place(rng, height, width, (0.38, 0.5), aspect=aspect, cut=0.35, upright=0.8)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * 0.05)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half * 0.3)
    base = vary(rng, pick(rng, BOARDS), 0.05)
    body = cover(distance)
    canvas.paint(body, base)
    pitch = log_uniform(rng, 6, 22)
    i, j = (
        np.floor(at.u / np.float32(pitch * 6)).astype(np.int32),
        np.floor(at.v / np.float32(pitch * 5)).astype(np.int32),
    )
    across = np.where(scatter(rng, j, i) > 0.5, at.u, at.v + 0.3 * at.u)
    track = cover(
        np.abs(np.mod(across, np.float32(pitch)) - np.float32(pitch / 2))
        - np.float32(pitch * rng.uniform(0.12, 0.3))
    )
    track *= (scatter(rng, i, j) > 0.4) * body
    canvas.shade(1 + track * np.float32(rng.uniform(-0.25, 0.45)))
    columns, rows = int(rng.integers(2, 9)), int(rng.integers(2, 6))
    size = min(at.size / columns, half / rows) * 0.8
    for row in range(rows):
        for column in range(columns):
            if chance(rng, 0.25):
                continue
            cu = at.size * (2 * (column + 0.5) / columns - 1) * 0.92 + rng.normal(0, 0.05) * size
            cv = half * (2 * (row + 0.5) / rows - 1) * 0.92 + rng.normal(0, 0.05) * size
            component(rng, canvas, at, cu, cv, size * rng.uniform(0.4, 1))
    for su, sv in ((-1, -1), (1, 1), (-1, 1), (1, -1)) if chance(rng, 0.5) else ():
        radius = half * 0.09
        found = spot(canvas, at, su * (at.size - 1.8 * radius), sv * (half - 1.8 * radius), radius * 2 + 2)
        if found:
            where, u, v = found
            away = np.sqrt(u * u + v * v)
            canvas.paint(cover(away - np.float32(radius * 1.5)), vary(rng, (0.75, 0.7, 0.5), 0.05), where)
            canvas.piece("mounting hole", cover(away - np.float32(radius)), 0.08, where)
    canvas.shade(1 + 0.04 * white(rng, height, width))
    return canvas.finish(
        ("circuit board", "PCB", "printed circuit board", "board"), "object", random_light(rng), body * 2
    )


def connector(rng: np.random.Generator, height: int, width: int) -> Part:
    """A plug or socket: a plastic housing with rows of equal metal pins or openings."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(1.3, 4)
    at = place(rng, height, width, (0.34, 0.49), aspect=aspect, upright=0.7)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * rng.uniform(0.05, 0.5))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    light = random_light(rng)
    base = any_colour(rng, 0.6) if chance(rng, 0.5) else vary(rng, (0.12, 0.12, 0.13), 0.05)
    relief = dome(distance, half * 0.1)
    canvas.paint(cover(distance), base)
    canvas.shade(1 + cover(distance) * (shading(relief, light, 0.7) - 1))
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(2, 14))
    step_u, step_v = at.size * 1.8 / columns, half * 1.7 / rows
    pin_u, pin_v = step_u * rng.uniform(0.2, 0.38), step_v * rng.uniform(0.2, 0.4)
    metallic, gold = chance(rng, 0.7), metal(rng)
    for row in range(rows):
        for column in range(columns):
            found = spot(
                canvas,
                at,
                (column + 0.5) * step_u - 0.9 * at.size,
                (row + 0.5) * step_v - 0.85 * half,
                max(step_u, step_v),
            )
            if found is None:
                continue
            where, u, v = found
            canvas.paint(cover(box(u, v, pin_u * 1.25, pin_v * 1.2, 1)), base * np.float32(0.3), where)
            if metallic:
                tone = (
                    cylinder(rng, u / np.float32(pin_u))
                    if columns < 6
                    else 1.2 - np.abs(u) * np.float32(0.7 / pin_u)
                )
                canvas.piece(
                    "pin", cover(box(u, v, pin_u * 0.7, pin_v, 1)), gold[:, None, None] * tone, where
                )
    canvas.shade(1 + 0.04 * fractal(rng, height, width, 3, 3, 0.7))
    return canvas.finish(("connector", "plug", "socket", "pin header"), "object", light, relief)


def package(rng: np.random.Generator, height: int, width: int) -> Part:
    """An integrated circuit or transistor: dark body with legend and long metal legs."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.3, 0.44), upright=0.7)
    wide, tall = at.size * rng.uniform(0.4, 0.75), at.size * rng.uniform(0.35, 0.6)
    count, both = int(rng.integers(2, 9)), chance(rng, 0.5)
    step = 2 * wide / count
    low = 0.0 if both else -tall * 0.3
    leg_box = box(
        np.mod(at.u + np.float32(wide), np.float32(step)) - np.float32(step / 2),
        at.v,
        step * rng.uniform(0.12, 0.3),
        at.size,
    )
    legs = np.maximum(
        np.maximum(leg_box, np.abs(at.u) - np.float32(wide)), np.float32(low) - at.v if not both else leg_box
    )
    body = box(at.u, at.v + np.float32(0 if both else tall * 0.6), wide, tall, tall * 0.05)
    distance = np.minimum(legs, body)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, tall * 0.5)
    leg_tone = 1 + np.float32(0.2) * smooth(rng, height, width, (at.size * 0.2, at.size))
    canvas.paint(cover(legs), metal(rng)[:, None, None] * leg_tone)
    canvas.note("legs", (legs < 0) & (body > 0))
    light = random_light(rng)
    relief = dome(body, tall * 0.12)
    grain = fractal(rng, height, width, 1.5, 2)
    base = vary(rng, pick(rng, [(0.13, 0.13, 0.14), (0.3, 0.3, 0.32), (0.5, 0.2, 0.1)]), 0.05)
    tone = shading(relief, light, 0.8) * (1 + np.float32(0.1) * grain)
    canvas.paint(cover(body), base[:, None, None] * tone)
    ink = legend(rng, at.u, at.v + np.float32(0 if both else tall * 0.6), wide * 0.75, tall * 0.5)
    canvas.piece("marking", ink * np.float32(rng.uniform(0.3, 0.8)), rng.uniform(0.5, 0.95))
    return canvas.finish(
        ("transistor", "chip", "integrated circuit", "electronic component"), "object", light, relief
    )
