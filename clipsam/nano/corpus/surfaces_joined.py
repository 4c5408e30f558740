"""Surfaces with a joint or a layout that belongs to them: stitched seams, weld beads, layered edges,
grooved panels.

Input: a generator and a size. Output: a `Part` of kind "surface" that fills the photo.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, any_colour, gloss, random_light, shading, vary
from clipsam.nano.corpus.noise import (
    Field,
    chance,
    fractal,
    log_uniform,
    pick,
    rotated,
    smooth,
    soft_step,
    streaks,
    wave,
    white,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import metal
from clipsam.nano.corpus.shapes import box, cover, dome
from clipsam.nano.corpus.surfaces_fibre import leather, woven


def stitched(rng: np.random.Generator, height: int, width: int) -> Part:
    """Cloth or leather with one or two seams of stitches and the fold beside them."""
    ground = woven(rng, height, width) if chance(rng, 0.5) else leather(rng, height, width)
    canvas = Canvas(height, width)
    canvas.pixels[:] = ground.image.transpose(2, 0, 1)
    side = min(height, width)
    u, v = rotated(height, width, pick(rng, [0.0, math.pi / 2]) + rng.normal(0, 0.1))
    v = v + np.float32(rng.uniform(0, 0.05) * side) * smooth(rng, height, width, side * 0.6)
    middle = side * rng.uniform(-0.3, 0.3)
    pitch = side * rng.uniform(0.04, 0.12)
    if chance(rng, 0.6):
        fold = v - np.float32(middle + pitch * rng.uniform(0.6, 1.5))
        canvas.shade(
            1 - np.float32(rng.uniform(0.3, 0.7)) * np.exp(-np.square(fold / np.float32(pitch * 0.12)))
        )
        canvas.shade(1 + np.float32(rng.uniform(-0.15, 0.15)) * soft_step(fold, -2, 2))
    thread = any_colour(rng, 0.7)
    light = random_light(rng)
    for row in range(int(rng.integers(1, 3))):
        line = v - np.float32(middle - row * pitch * 0.9)
        local = (u / np.float32(pitch) - np.floor(u / np.float32(pitch)) - np.float32(0.5)) * np.float32(
            pitch
        )
        stitch = box(local, line + np.float32(0.2) * local, pitch * 0.36, pitch * 0.11, pitch * 0.11)
        relief = dome(stitch, pitch * 0.11)
        canvas.shade(1 - np.float32(0.5) * np.exp(np.maximum(stitch, 0) * np.float32(-8 / pitch)))
        canvas.piece("stitches", cover(stitch), thread[:, None, None] * shading(relief, light, 0.8))
    return canvas.finish((*ground.names[:2], "seam", "stitched seam"), "surface", light, ground.relief)


def weld(rng: np.random.Generator, height: int, width: int) -> Part:
    """A weld bead: scaly ripples across two joined sheets, with heat tint beside."""
    side = min(height, width)
    angle = pick(rng, [0.0, math.pi / 2]) + rng.normal(0, 0.1)
    u, v = rotated(height, width, angle)
    half = side * rng.uniform(0.06, 0.22)
    v = (
        v
        - np.float32(side * rng.uniform(-0.25, 0.25))
        + np.float32(half * 0.1) * smooth(rng, height, width, half)
    )
    across = v / np.float32(half)
    ripple = (u + np.float32(half * rng.uniform(0.3, 0.9)) * across * across) / np.float32(
        half * rng.uniform(0.2, 0.5)
    )
    scale = ripple - np.floor(ripple)
    bead = soft_step(np.abs(across), 1.08, 0.92)
    relief = bead * (
        np.sqrt(np.maximum(1 - across * across, 0)) * np.float32(half * 0.35)
        + scale * np.float32(half * 0.08)
    )
    light = random_light(rng)
    canvas = Canvas(height, width, metal(rng))
    canvas.shade(
        1 + rng.uniform(0.03, 0.15) * streaks(rng, height, width, angle + pick(rng, [0.0, 1.57]), 1, 60)
    )
    tint = vary(rng, pick(rng, [(0.5, 0.4, 0.3), (0.3, 0.35, 0.5), (0.25, 0.22, 0.2)]), 0.05)
    canvas.paint(
        np.exp(-np.abs(across) * np.float32(rng.uniform(0.4, 1.2))) * np.float32(rng.uniform(0, 0.6)), tint
    )
    canvas.shade(shading(relief, light, rng.uniform(0.5, 1)))
    canvas.glow(bead * gloss(relief, light, 0.8, 30) * np.float32(rng.uniform(0.1, 0.5)))
    canvas.note("bead", bead > 0.5)
    return canvas.finish(("weld", "weld seam", "weld bead", "welded joint"), "surface", light, relief)


def layered(rng: np.random.Generator, height: int, width: int) -> Part:
    """Many thin layers seen on edge: stacked paper, plywood, laminations, fins, coil windings."""
    _, v = rotated(height, width, pick(rng, [0.0, math.pi / 2]) + rng.normal(0, 0.05))
    pitch = log_uniform(rng, 3, 24)
    wander = np.float32(pitch * rng.uniform(0, 0.5)) * smooth(rng, height, width, (30, 90))
    place_in = (v + wander) / np.float32(pitch)
    layer = np.floor(place_in)
    local: Field = np.asarray(place_in - layer, dtype=np.float32)
    tones = rng.random(512).astype(np.float32)[(layer.astype(np.int32)) & 511]
    canvas = Canvas(height, width, any_colour(rng, 0.3))
    canvas.shade(1 + np.float32(rng.uniform(0.05, 0.5)) * (tones - 0.5))
    canvas.shade(1 - np.float32(rng.uniform(0.2, 0.8)) * soft_step(np.abs(local - 0.5), 0.3, 0.5))
    canvas.shade(1 + 0.06 * white(rng, height, width) + 0.06 * fractal(rng, height, width, 30, 3))
    names = pick(
        rng,
        [("laminations", "stack", "fins"), ("winding", "coil", "copper winding"), ("plywood edge", "layers")],
    )
    return canvas.finish(names, "surface", random_light(rng), local)


def panel(rng: np.random.Generator, height: int, width: int) -> Part:
    """A panel with grooves, slots, rivets and a change of finish: car body, cabinet door, machine cover."""
    side = min(height, width)
    u, v = rotated(height, width, rng.normal(0, 0.04) if chance(rng, 0.7) else rng.uniform(0, 3))
    base = any_colour(rng, 0.6) if chance(rng, 0.6) else metal(rng)
    canvas = Canvas(height, width, base)
    relief = np.zeros((height, width), dtype=np.float32)
    for _ in range(int(rng.integers(1, 4))):
        line = pick(rng, [u, v]) - np.float32(side * rng.uniform(-0.45, 0.45))
        relief -= np.float32(2.5) * np.exp(-np.square(line / np.float32(rng.uniform(1.2, 5))))
    if chance(rng, 0.4):
        part_of = soft_step(u - np.float32(side * rng.uniform(-0.3, 0.3)), -1, 1)
        canvas.paint(part_of, vary(rng, base, 0.15))
    table = wave(rng, 512, 60)
    curve = table[np.clip((v + side).astype(np.int32), 0, 511)]
    light = random_light(rng)
    canvas.shade(shading(relief, light, 0.7) * (1 + np.float32(rng.uniform(0, 0.2)) * curve))
    canvas.glow(gloss(relief, light, 0.7, 20) * np.float32(rng.uniform(0, 0.2)))
    pitch, radius = side * rng.uniform(0.15, 0.4), side * rng.uniform(0.015, 0.05)
    row = side * rng.uniform(-0.4, 0.4)
    for k in range(-3, 4) if chance(rng, 0.6) else ():
        where = canvas.window(height / 2 + row, width / 2 + k * pitch, radius * 2 + 2)
        if where is None:
            continue
        y = np.arange(where[0].start, where[0].stop, dtype=np.float32)[:, None] - np.float32(height / 2 + row)
        x = np.arange(where[1].start, where[1].stop, dtype=np.float32)[None, :] - np.float32(
            width / 2 + k * pitch
        )
        head = np.sqrt(x * x + y * y) - np.float32(radius)
        tone = shading(dome(head, radius * 0.8), light, 0.9) - np.float32(0.3) * cover(np.abs(head) - 1)
        canvas.piece("rivet", cover(head), base[:, None, None] * tone, where)
    canvas.shade(1 + rng.uniform(0.01, 0.05) * white(rng, height, width))
    return canvas.finish(("panel", "body panel", "cover sheet", "door panel"), "surface", light, relief)
