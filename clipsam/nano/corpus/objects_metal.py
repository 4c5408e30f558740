"""Metal products: ball screws and threads close up, screws, springs, shafts, pipes, magnetic tiles,
plates, brackets.

Input: a generator and a size. Output: a `Part` of kind "object", mostly with a background.
It does not know of defects or the camera.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, Place, any_colour, gloss, place, random_light, shading, vary
from clipsam.nano.corpus.noise import (
    Field,
    along,
    axes,
    chance,
    fractal,
    pick,
    rotated,
    smooth,
    soft_step,
    streaks,
    wave,
    white,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import arcs, backdrop, cylinder, metal, shadow, surroundings
from clipsam.nano.corpus.shapes import box, cover, dome, ellipse, legend, polygon


def helix(rng: np.random.Generator, height: int, width: int) -> Part:
    """A ball screw, thread, worm or coil filling the photo: slanted bands, each mirroring the same lamps."""
    angle = rng.normal(0, 0.08) if chance(rng, 0.6) else rng.uniform(0, math.pi)
    u, v = rotated(height, width, angle)
    side = min(height, width)
    half = side * rng.uniform(0.42, 1.4)
    middle = side * rng.uniform(-0.2, 0.2)
    across = (v - np.float32(middle)) / np.float32(half)
    lead = rng.uniform(0.1, 0.55) * side
    lean = rng.uniform(0.2, 2.2) * pick(rng, [-1, 1])
    bend = (
        np.arcsin(np.clip(across, -1, 1))
        if chance(rng, 0.5)
        else across + across * across * np.float32(rng.uniform(-1, 1))
    )
    if chance(rng, 0.4):  # seen along the bands, like a screw filling a wide photo
        phase = v / np.float32(lead) + np.float32(rng.normal(0, 0.5)) * np.square(u / np.float32(width))
        phase += u * np.float32(rng.normal(0, 0.15) / lead)
    else:
        phase = u / np.float32(lead) + np.float32(lean * half / lead * 0.4) * bend
    phase += np.float32(rng.uniform(0, 0.02)) * smooth(rng, height, width, side * 0.2)
    turn = phase - np.floor(phase)
    table = surroundings(rng, 4)
    sharp = np.interp(np.linspace(0, 1, 512), [0, rng.uniform(0.2, 0.5), 1], [0, rng.uniform(0.3, 0.7), 1])
    tone = along(table[(sharp * 511).astype(np.int32)], turn)
    tone = tone * (
        np.float32(0.55)
        + np.float32(0.45) * along(table, across * np.float32(0.4) + np.float32(rng.random()))
    )
    cylinder_tone = cylinder(rng, across)
    tone *= np.float32(0.6) + np.float32(rng.uniform(0.1, 0.4)) * cylinder_tone
    tone *= 1 + np.float32(rng.uniform(0.02, 0.12)) * streaks(
        rng, height, width, angle + rng.normal(0, 0.1), 1.2, 60
    )
    canvas = backdrop(rng, height, width)
    inside = np.abs(across) < 1
    canvas.solid = inside
    base = metal(rng)
    warm = vary(rng, base * np.float32(0.5), 0.05)
    level = np.clip(tone, 0, 1.6)
    body = cover((np.abs(across) - 1) * np.float32(half))
    canvas.paint(body, (warm[:, None, None] + level * (base * np.float32(1.25) - warm)[:, None, None]))
    relief = np.float32(lead * 0.1) * np.sin(turn * np.float32(2 * math.pi))
    names = pick(
        rng,
        [
            ("ball screw", "lead screw", "screw"),
            ("thread", "threaded rod"),
            ("worm", "spindle"),
            ("coil", "spring"),
        ],
    )
    return canvas.finish(names, "object", random_light(rng), relief)


def bolt(rng: np.random.Generator, height: int, width: int) -> Part:
    """A whole screw or bolt lying on the ground: head, shank, thread, tip."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.36, 0.48), aspect=rng.uniform(2.6, 4.5), upright=0.3)
    head = at.size * rng.uniform(0.12, 0.22)
    wide = head * rng.uniform(0.8, 1.4)
    shank = wide * rng.uniform(0.4, 0.7)
    start = -at.size + 2 * head
    along_shank = (at.u - np.float32(start)) / np.float32(at.size - start)
    taper = np.float32(shank) * soft_step(along_shank, 1.0, rng.uniform(0.75, 0.98))
    pitch = shank * rng.uniform(0.3, 0.7)
    phase = at.u / np.float32(pitch) + at.v * np.float32(0.25 / pitch)
    ridge = np.cos(phase * np.float32(2 * math.pi))
    begins = rng.uniform(0.0, 0.5)
    threaded = soft_step(along_shank, begins, begins + 0.03)
    outline = np.abs(at.v) - taper * (1 + np.float32(0.12) * ridge * threaded)
    rod = np.maximum(outline, np.float32(start - head) - at.u)
    top = box(at.u - np.float32(start - head), at.v, head, wide, head * rng.uniform(0.1, 0.9))
    distance = np.minimum(rod, top)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, wide)
    base = metal(rng)
    across = np.clip(at.v / np.maximum(taper, 1), -1, 1)
    tone = cylinder(rng, across) * (1 + threaded * np.float32(rng.uniform(0.3, 0.6)) * ridge)
    canvas.paint(cover(rod), base[:, None, None] * tone)
    canvas.paint(cover(top), base[:, None, None] * cylinder(rng, at.v / np.float32(wide)))
    canvas.note("head", top < -0.5)
    canvas.note("thread", (rod < 0) & (threaded > 0.5) & (top > 0))
    canvas.shade(1 + 0.04 * fractal(rng, height, width, 3, 2))
    return canvas.finish(("screw", "bolt", "metal screw"), "object", random_light(rng), dome(distance, shank))


def spring(rng: np.random.Generator, height: int, width: int) -> Part:
    """A coil spring: wire bows in front, darker bows behind, ground between."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.36, 0.48), aspect=rng.uniform(1.6, 3.2))
    half = at.size * rng.uniform(0.25, 0.4)
    pitch = half * rng.uniform(0.35, 0.8)
    wire = pitch * rng.uniform(0.22, 0.42)
    base = metal(rng)
    bow = np.arcsin(np.clip(at.v / np.float32(half), -1, 1)) * np.float32(pitch * 0.5 / math.pi)
    ends = cover(np.maximum(np.abs(at.v) - np.float32(half), np.abs(at.u) - np.float32(at.size)), 2)
    solid = np.zeros((height, width), dtype=bool)
    shadow(rng, canvas, box(at.u, at.v, at.size, half), wire)
    for side, dim in ((-1, rng.uniform(0.3, 0.7)), (1, 1.0)):
        place_in = (at.u - side * bow) / np.float32(pitch)
        offset = (place_in - np.round(place_in)) * np.float32(pitch)
        distance = np.abs(offset) - np.float32(wire)
        alpha = cover(distance) * ends
        tone = cylinder(rng, offset / np.float32(wire)) * np.float32(dim)
        canvas.paint(alpha, base[:, None, None] * tone)
        solid |= alpha > 0.5
    canvas.solid = solid
    return canvas.finish(("spring", "coil spring", "metal spring"), "object", random_light(rng))


def shaft(rng: np.random.Generator, height: int, width: int) -> Part:
    """A turned shaft, piston or pipe seen from the side: steps, grooves, chamfers, long reflections."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.38, 0.49), aspect=rng.uniform(1.8, 4), cut=0.3)
    steps = int(rng.integers(1, 7))
    edges = np.sort(rng.uniform(-1, 1, steps - 1))
    radii = rng.uniform(0.12, 0.4, steps)
    place_on = at.u / np.float32(at.size)
    step = np.searchsorted(edges, place_on).astype(np.int32)
    half = radii.astype(np.float32)[step] * np.float32(at.size)
    across = at.v / half
    distance = np.maximum(np.abs(at.v) - half, np.abs(at.u) - np.float32(at.size))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size * 0.3)
    base = metal(rng) if chance(rng, 0.75) else any_colour(rng, 0.7)
    tone = cylinder(rng, across)
    tone *= 1 + np.float32(rng.uniform(0.01, 0.1)) * along(wave(rng, 2048, 2), place_on * np.float32(0.4))
    tone *= 0.85 + 0.3 * rng.random(steps).astype(np.float32)[step]
    for edge in edges:
        tone *= 1 - np.float32(rng.uniform(0.3, 0.8)) * np.exp(
            -np.square((at.u - np.float32(edge * at.size)) / 1.5)
        )
    canvas.paint(cover(distance), base[:, None, None] * tone)
    if chance(rng, 0.3):
        ink = legend(rng, at.u, at.v, at.size * 0.4, at.size * 0.08)
        canvas.piece("print", ink * cover(distance) * np.float32(0.8), any_colour(rng, 0.5))
    names = pick(
        rng, [("shaft", "turned part", "axle"), ("pipe", "tube", "cylinder"), ("piston", "pin", "rod")]
    )
    return canvas.finish(names, "object", random_light(rng), dome(distance, at.size * 0.1))


def magnetic_tile(rng: np.random.Generator, height: int, width: int) -> Part:
    """A dark ground block that nearly fills the photo: lengthwise grinding streaks, darker borders, uneven
    light."""
    canvas = Canvas(height, width, np.full(3, rng.uniform(0.0, 0.12), np.float32))
    y, x = axes(height, width)
    cx, cy = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6)
    half_x, half_y = width * rng.uniform(0.33, 0.62), height * rng.uniform(0.38, 0.7)
    slant = np.float32(rng.normal(0, 0.01))
    u, v = x - np.float32(cx) + slant * y, y - np.float32(cy) - slant * x
    bow = np.float32(rng.normal(0, 0.02) * height) * np.square(u / np.float32(half_x))
    distance = np.maximum(np.abs(u) - np.float32(half_x), np.abs(v - bow) - np.float32(half_y))
    distance += np.float32(0.8) * smooth(rng, height, width, (20, 20))
    upright = math.pi / 2 if chance(rng, 0.85) else 0.0
    tone = rng.uniform(0.05, 0.2) * streaks(
        rng, height, width, upright, rng.uniform(0.8, 2), rng.uniform(60, 600)
    )
    tone += rng.uniform(0.05, 0.2) * streaks(rng, height, width, upright, rng.uniform(4, 20), 1000)
    tone += rng.uniform(0.02, 0.12) * fractal(rng, height, width, 30, 4, 0.6)
    tone += rng.uniform(0.03, 0.15) * white(rng, height, width)
    if chance(rng, 0.5):
        lines = soft_step(streaks(rng, height, width, upright, 1, 2000), 0.9, 1.3)
        tone += np.float32(rng.uniform(0.1, 0.4)) * lines
    grid = rng.uniform(0, 0.04) * np.cos(x * np.float32(2 * math.pi / rng.uniform(3, 8)))
    bulge = 1 - np.float32(rng.uniform(0, 0.5)) * np.square(u / np.float32(half_x))
    rim = soft_step(-distance, 0, rng.uniform(0.01, 0.12) * width)
    grey = rng.uniform(0.22, 0.6)
    level = (1 + tone + grid) * bulge * (np.float32(rng.uniform(0.4, 0.9)) * (1 - rim) + rim)
    canvas.solid = distance < 0
    canvas.paint(cover(distance, rng.uniform(1, 3)), np.float32(grey) * level)
    names = ("magnetic tile", "magnet", "ferrite block", "ground block")
    return canvas.finish(names, "object", random_light(rng), tone * 2)


def metal_plate(rng: np.random.Generator, height: int, width: int) -> Part:
    """A plate, bracket or strip with mounting holes, slots, bends and stamped marks: the holes belong
    there."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(1.0, 3.0)
    at = place(rng, height, width, (0.3, 0.49), aspect=aspect)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * pick(rng, [0.03, 0.15, 0.5, 1.0]))
    if chance(rng, 0.3):
        cut_u, cut_v = at.size * rng.uniform(0.2, 0.9), half * rng.uniform(0.1, 0.9)
        distance = np.maximum(
            distance, -box(at.u - np.float32(cut_u), at.v - np.float32(cut_v), at.size * 0.4, half * 0.5)
        )
    behind = canvas.pixels.copy()
    shadow(rng, canvas, distance, half)
    base = metal(rng) if chance(rng, 0.75) else any_colour(rng, 0.6)
    light = random_light(rng)
    relief = dome(distance, max(1.5, half * 0.06))
    tone = rng.uniform(0.02, 0.14) * streaks(rng, height, width, at.angle, 1, rng.uniform(10, 120))
    tone += rng.uniform(0.0, 0.12) * fractal(rng, height, width, 20, 4, 0.7)
    tone += rng.uniform(0, 0.3) * (at.u * np.float32(math.cos(at.angle) / at.size))
    if chance(rng, 0.3):
        fold = at.size * rng.uniform(-0.6, 0.6)
        tone += np.float32(rng.uniform(-0.35, 0.35)) * soft_step(at.u - np.float32(fold), -2, 2)
    body = cover(distance)
    canvas.paint(body, base)
    canvas.shade(1 + body * (shading(relief, light, 0.7) * (1 + tone) - 1))
    size = half * rng.uniform(0.08, 0.3)
    hole_cut = np.full((height, width), np.float32(1e3))
    corners = [(-1, -1), (1, 1), (-1, 1), (1, -1)] if chance(rng, 0.6) else [(-1, 0), (1, 0), (0, 0)]
    inset_u, inset_v = at.size - size * rng.uniform(1.5, 2.5), half - size * rng.uniform(1.5, 2.5)
    through = behind if chance(rng, 0.6) else behind * np.float32(0.4)
    for su, sv in corners[: int(rng.integers(1, len(corners) + 1))]:
        du, dv = at.u - np.float32(su * inset_u), at.v - np.float32(max(inset_v, 0) * sv)
        hole = (
            ellipse(du, dv, size * rng.uniform(1, 1), size)
            if chance(rng, 0.8)
            else box(du, dv, size * 1.8, size, size)
        )
        rim = np.exp(-np.square((hole - 1) / 1.5))
        canvas.shade(1 + body * rim * np.float32(rng.uniform(-0.4, 0.4)))
        canvas.piece("mounting hole", cover(hole) * body, through)
        hole_cut = np.minimum(hole_cut, hole)
    if chance(rng, 0.3):
        ink = legend(rng, at.u, at.v, at.size * 0.4, half * 0.25) * body
        canvas.piece("stamp", ink * np.float32(0.6), base * np.float32(0.4))
    canvas.solid = (distance < 0) & (hole_cut > 0)
    names = pick(
        rng,
        [
            ("metal plate", "plate", "sheet metal part"),
            ("bracket", "mounting plate"),
            ("metal strip", "blade"),
        ],
    )
    return canvas.finish(names, "object", light, relief)


def rotor(rng: np.random.Generator, height: int, width: int) -> Part:
    """A commutator, coil core or toothed ring: many equal segments around an axis or side by side."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.33, 0.49))
    radius, turn = at.radius, at.turn
    number = int(rng.integers(6, 40))
    inner = at.size * rng.uniform(0.3, 0.6)
    phase = turn * number
    gap = (
        (np.abs(phase - np.round(phase)) - np.float32(rng.uniform(0.3, 0.45)))
        * radius
        * np.float32(2 * math.pi / number)
    )
    ring = np.maximum(radius - np.float32(at.size), np.float32(inner) - radius)
    canvas.solid = radius < at.size
    shadow(rng, canvas, radius - np.float32(at.size), at.size)
    core = vary(rng, pick(rng, [(0.2, 0.2, 0.2), (0.5, 0.35, 0.2), (0.4, 0.4, 0.42)]), 0.06)
    canvas.paint(cover(radius - np.float32(at.size)), core)
    tone = 1 + np.float32(0.35) * (along(surroundings(rng), turn * 2) - 1) + 0.06 * white(rng, height, width)
    canvas.paint(cover(np.maximum(ring, gap)), metal(rng)[:, None, None] * tone)
    bore = cover(radius - np.float32(inner * rng.uniform(0.3, 0.8)))
    canvas.piece("bore", bore, core * np.float32(0.3))
    line = np.exp(-np.square((radius - np.float32(at.size * 0.96)) / 1.5))
    canvas.glow(line * arcs(rng, turn, 5) * np.float32(0.4))
    return canvas.finish(("commutator", "rotor", "stator", "toothed ring"), "object", random_light(rng))


def casting(rng: np.random.Generator, height: int, width: int) -> Part:
    """A die-cast or forged odd shape: a union of bosses and bars with bores."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.32, 0.46), upright=0.2)
    number = int(rng.integers(2, 5))
    begin = rng.uniform(0, 2 * math.pi)
    turns = [begin + 2 * math.pi * (k + rng.uniform(-0.2, 0.2)) / number for k in range(number)]
    spots = [(0.7 * at.size * math.cos(t), 0.7 * at.size * math.sin(t)) for t in turns]
    sizes = [at.size * rng.uniform(0.16, 0.34) for _ in spots]
    distance = np.full((height, width), np.float32(1e3))
    for (pu, pv), size in zip(spots, sizes, strict=True):
        distance = np.minimum(
            distance, np.sqrt(np.square(at.u - pu) + np.square(at.v - pv)) - np.float32(size)
        )
    for (pu, pv), (qu, qv) in itertools.pairwise(spots):
        distance = np.minimum(
            distance, _bar(at, pu, pv, qu, qv) - np.float32(at.size * rng.uniform(0.08, 0.16))
        )
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size * 0.4)
    light = random_light(rng)
    relief = dome(distance, at.size * rng.uniform(0.04, 0.15))
    grain = fractal(rng, height, width, rng.uniform(1.5, 5), 3, 0.7)
    body = cover(distance)
    base = metal(rng) if chance(rng, 0.6) else any_colour(rng, 0.7)
    canvas.paint(body, base)
    canvas.shade(1 + body * (shading(relief + np.float32(rng.uniform(0, 0.7)) * grain, light, 0.8) - 1))
    canvas.glow(body * gloss(relief, light, 0.8, 30) * np.float32(rng.uniform(0, 0.3)))
    for (pu, pv), size in zip(spots, sizes, strict=True):
        sides = pick(rng, [0, 0, 6])
        du, dv, inner = at.u - np.float32(pu), at.v - np.float32(pv), size * rng.uniform(0.35, 0.7)
        hole = polygon(du, dv, sides, inner) if sides else np.sqrt(du * du + dv * dv) - np.float32(inner)
        canvas.shade(1 + body * np.exp(-np.square((hole - 1) / 1.5)) * np.float32(rng.uniform(0, 0.4)))
        canvas.piece("bore", cover(hole), base * np.float32(rng.uniform(0.1, 0.3)))
    return canvas.finish(("casting", "lever", "forged part", "metal part"), "object", light, relief)


def _bar(at: Place, pu: float, pv: float, qu: float, qv: float) -> Field:
    """Distance to the segment from (pu, pv) to (qu, qv) in the coordinates of `at`."""
    eu, ev = qu - pu, qv - pv
    du, dv = at.u - np.float32(pu), at.v - np.float32(pv)
    t = np.clip(
        (du * np.float32(eu) + dv * np.float32(ev)) * np.float32(1 / (eu * eu + ev * ev + 1e-6)), 0, 1
    )
    return np.sqrt(np.square(du - t * np.float32(eu)) + np.square(dv - t * np.float32(ev)))
