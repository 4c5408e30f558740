"""Close-up surfaces of metal: brushed, ground, rolled, cast, turned, perforated, meshed, embossed, grainy.

Input: a generator and a size. Output: a `Part` of kind "surface" that fills the photo.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, any_colour, gloss, random_light, shading, vary
from clipsam.nano.corpus.noise import (
    along,
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
    streaks,
    wave,
    white,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import metal
from clipsam.nano.corpus.shapes import cover, dome


def lay(rng: np.random.Generator) -> float:
    """The direction of a machined surface: often along the photo's axes."""
    return int(rng.integers(2)) * math.pi / 2 if chance(rng, 0.7) else rng.uniform(0, math.pi)


def brushed(rng: np.random.Generator, height: int, width: int) -> Part:
    """Fine parallel scratches of one direction with broad reflections across them."""
    angle = lay(rng)
    tone = rng.uniform(0.05, 0.2) * streaks(
        rng, height, width, angle, rng.uniform(0.7, 1.5), rng.uniform(30, 200)
    )
    tone += rng.uniform(0.02, 0.15) * streaks(
        rng, height, width, angle, rng.uniform(3, 9), rng.uniform(100, 400)
    )
    u, _ = rotated(height, width, angle)
    sheen = np.cos(u * np.float32(rng.uniform(0.5, 4) / max(height, width)) + np.float32(rng.uniform(0, 6)))
    canvas = Canvas(height, width, metal(rng))
    canvas.shade(1 + tone + rng.uniform(0, 0.3) * sheen + rng.uniform(0, 0.04) * white(rng, height, width))
    return canvas.finish(
        ("brushed metal", "metal sheet", "steel", "aluminium"), "surface", random_light(rng), tone * 3
    )


def rolled(rng: np.random.Generator, height: int, width: int) -> Part:
    """Rolled strip: soft long streaks, cloudy scale, little contrast."""
    angle = lay(rng)
    tone = rng.uniform(0.03, 0.14) * streaks(
        rng, height, width, angle, rng.uniform(2, 12), rng.uniform(120, 500)
    )
    tone += rng.uniform(0.02, 0.12) * fractal(rng, height, width, rng.uniform(15, 60), 4, 0.6)
    tone += rng.uniform(0.01, 0.08) * white(rng, height, width)
    if chance(rng, 0.4):
        tone += rng.uniform(0.02, 0.12) * soft_step(streaks(rng, height, width, angle, 2, 80), 0.5, 1.1)
    grey = np.full(3, rng.uniform(0.18, 0.7), dtype=np.float32)
    canvas = Canvas(height, width, grey if chance(rng, 0.5) else metal(rng))
    canvas.shade(1 + tone)
    return canvas.finish(
        ("steel", "rolled steel", "steel strip", "metal surface"), "surface", random_light(rng), tone * 3
    )


def ground(rng: np.random.Generator, height: int, width: int) -> Part:
    """Ground face: short sharp marks in one or two directions, sometimes chatter bands across."""
    angle = lay(rng)
    tone = rng.uniform(0.06, 0.25) * streaks(rng, height, width, angle, 0.9, rng.uniform(8, 40))
    if chance(rng, 0.4):
        other = angle + rng.uniform(0.3, 1.2)
        tone += rng.uniform(0.05, 0.15) * streaks(rng, height, width, other, 0.9, rng.uniform(8, 40))
    if chance(rng, 0.4):
        u, _ = rotated(height, width, angle)
        tone += rng.uniform(0.02, 0.12) * np.sin(u * np.float32(2 * math.pi / log_uniform(rng, 6, 60)))
    if chance(rng, 0.4):
        tone += rng.uniform(0.05, 0.3) * streaks(rng, height, width, angle, rng.uniform(10, 40), 2000)
    canvas = Canvas(height, width, metal(rng))
    canvas.shade(1 + tone)
    return canvas.finish(
        ("ground steel", "machined surface", "metal"), "surface", random_light(rng), tone * 3
    )


def cast(rng: np.random.Generator, height: int, width: int) -> Part:
    """Cast or sand-blasted skin: isotropic grainy relief under a low light."""
    relief = fractal(rng, height, width, log_uniform(rng, 2, 10), 4, rng.uniform(0.5, 0.8))
    light = random_light(rng)
    depth = rng.uniform(0.1, 0.6)
    canvas = Canvas(height, width, metal(rng) * np.float32(rng.uniform(0.5, 1)))
    canvas.shade(shading(relief, light, depth) * (1 + 0.08 * fractal(rng, height, width, 50, 3)))
    if chance(rng, 0.5):
        canvas.glow(rng.uniform(0.05, 0.3) * gloss(relief, light, depth, rng.uniform(15, 60)))
    return canvas.finish(
        ("cast metal", "casting", "iron", "die-cast part"), "surface", light, relief * np.float32(depth)
    )


def turned_face(rng: np.random.Generator, height: int, width: int) -> Part:
    """Lathe or milling marks: fine arcs about a centre, with the bow-tie reflection of turned metal."""
    y, x = axes(height, width)
    far = pick(rng, [0.3, 0.8, 2.0, 4.0]) * max(height, width)
    turn = rng.uniform(0, 2 * math.pi)
    dy, dx = (
        y - height / 2 - np.float32(far * math.sin(turn)),
        x - width / 2 - np.float32(far * math.cos(turn)),
    )
    radius = np.sqrt(dx * dx + dy * dy)
    table = wave(rng, 2048, rng.uniform(1, 2.5)) + wave(rng, 2048, rng.uniform(5, 30))
    groove = along(table, radius * np.float32(1 / (2048 * rng.uniform(0.6, 2))))
    bow = np.cos(2 * np.arctan2(dy, dx) + np.float32(rng.uniform(0, 6)))
    canvas = Canvas(height, width, metal(rng))
    canvas.shade(1 + rng.uniform(0.04, 0.16) * groove + rng.uniform(0.05, 0.35) * bow * np.abs(bow))
    canvas.shade(1 + rng.uniform(0, 0.05) * white(rng, height, width))
    return canvas.finish(
        ("turned metal", "milled surface", "machined face"), "surface", random_light(rng), groove
    )


def perforated(rng: np.random.Generator, height: int, width: int) -> Part:
    """Sheet with a grid of round, square or slotted holes; the holes belong there."""
    pitch = log_uniform(rng, 10, 60)
    u, v = rotated(height, width, rng.normal(0, 0.04) if chance(rng, 0.6) else rng.uniform(0, math.pi))
    row = np.floor(v / np.float32(pitch))
    offset = np.mod(row, 2) * np.float32(0.5) if chance(rng, 0.6) else np.float32(0)
    a = u / np.float32(pitch) + offset
    a, b = (
        (a - np.floor(a) - 0.5) * np.float32(pitch),
        (v / np.float32(pitch) - row - 0.5) * np.float32(pitch),
    )
    half = pitch * rng.uniform(0.2, 0.4)
    style = pick(rng, ["round", "round", "square", "slot"])
    if style == "round":
        distance = np.sqrt(a * a + b * b) - np.float32(half)
    elif style == "square":
        distance = np.maximum(np.abs(a), np.abs(b)) - np.float32(half)
    else:
        reach = np.maximum(np.abs(a) - np.float32(pitch * 0.22), 0)
        distance = np.sqrt(reach * reach + b * b) - np.float32(half * 0.5)
    canvas = Canvas(height, width, metal(rng) if chance(rng, 0.7) else any_colour(rng, 0.6))
    canvas.shade(1 + rng.uniform(0.02, 0.12) * streaks(rng, height, width, lay(rng), 1, 60))
    light = random_light(rng)
    edge = np.clip(distance * np.float32(1 / max(1.0, 0.06 * pitch)), 0, 1)
    canvas.shade(shading(edge, light, rng.uniform(0.2, 0.7)))
    canvas.paint(
        cover(distance), any_colour(rng, 0.3) * np.float32(0.4) if chance(rng, 0.7) else any_colour(rng, 0.3)
    )
    part = canvas.finish(("perforated sheet", "perforated metal", "punched plate"), "surface", light, edge)
    return part


def mesh(rng: np.random.Generator, height: int, width: int) -> Part:
    """Crossing round wires over a ground: grid, grille, sieve, net."""
    pitch = log_uniform(rng, 8, 48)
    angle = rng.normal(0, 0.05) if chance(rng, 0.5) else math.pi / 4
    u, v = rotated(height, width, angle)
    bend = np.float32(pitch * rng.uniform(0, 0.12))
    u, v = u + bend * smooth(rng, height, width, pitch * 3), v + bend * smooth(rng, height, width, pitch * 3)
    thick = pitch * rng.uniform(0.12, 0.3)
    a, b = u / np.float32(pitch), v / np.float32(pitch * rng.uniform(0.8, 1.2))
    i, j = np.floor(a), np.floor(b)
    du, dv = (a - i - 0.5) * np.float32(pitch), (b - j - 0.5) * np.float32(pitch)
    wave_u = np.float32(0.35 * thick) * np.cos((b + i) * np.float32(math.pi))
    height_u = dome(np.abs(du) - np.float32(thick), thick) + wave_u
    height_v = dome(np.abs(dv) - np.float32(thick), thick) - np.float32(0.35 * thick) * np.cos(
        (a + j) * np.float32(math.pi)
    )
    on_u, on_v = cover(np.abs(du) - np.float32(thick)), cover(np.abs(dv) - np.float32(thick))
    relief = np.maximum(np.where(on_u > 0, height_u, -1), np.where(on_v > 0, height_v, -1))
    light = random_light(rng)
    canvas = Canvas(height, width, metal(rng) if chance(rng, 0.6) else any_colour(rng, 0.6))
    upper = np.maximum(relief, 0) * np.float32(1 / thick)
    canvas.shade((0.35 + 0.65 * upper) * shading(np.maximum(relief, 0), light, rng.uniform(0.3, 0.8)))
    canvas.glow(rng.uniform(0, 0.4) * gloss(relief, light, 0.6, 30) * np.maximum(on_u, on_v))
    ground_colour = any_colour(rng, 0.2) * np.float32(rng.uniform(0.1, 1))
    canvas.paint(1 - np.maximum(on_u, on_v), ground_colour)
    return canvas.finish(
        ("wire mesh", "grid", "grille", "metal grid"), "surface", light, np.maximum(relief, 0)
    )


def embossed(rng: np.random.Generator, height: int, width: int) -> Part:
    """Raised pattern: tread plate, dimples, ribs or corrugation."""
    pitch = log_uniform(rng, 10, 60)
    u, v = rotated(height, width, lay(rng))
    a, b = u / np.float32(pitch), v / np.float32(pitch)
    style = pick(rng, ["tread", "dimple", "rib"])
    if style == "rib":
        wave_form = np.cos(a * np.float32(2 * math.pi))
        relief = (
            np.sign(wave_form)
            * np.abs(wave_form) ** np.float32(rng.uniform(0.3, 1.5))
            * np.float32(pitch * 0.2)
        )
    else:
        i, j = np.floor(a), np.floor(b)
        fa, fb = (a - i - 0.5) * np.float32(pitch), (b - j - 0.5) * np.float32(pitch)
        flip = (
            np.where(np.mod(i + j, 2) > 0.5, np.float32(1), np.float32(-1))
            if style == "tread"
            else np.float32(0)
        )
        s = np.float32(math.sqrt(0.5))
        p, q = (fa + flip * fb) * s, (fb - flip * fa) * s
        long = 0.42 if style == "tread" else 0.3
        d = (
            np.sqrt(
                np.square(p / np.float32(long)) + np.square(q / np.float32(0.14 if style == "tread" else 0.3))
            )
            - pitch
        )
        relief = dome(d * np.float32(0.2), pitch * 0.08)
    light = random_light(rng)
    depth = rng.uniform(0.3, 0.9)
    canvas = Canvas(height, width, metal(rng) if chance(rng, 0.7) else any_colour(rng, 0.5))
    grain = streaks(rng, height, width, lay(rng), 1.2, 20)
    canvas.shade(shading(relief, light, depth) * (1 + rng.uniform(0.02, 0.12) * grain))
    canvas.glow(rng.uniform(0, 0.35) * gloss(relief, light, depth, rng.uniform(15, 80)))
    return canvas.finish(
        ("embossed plate", "tread plate", "ribbed sheet", "corrugated sheet"), "surface", light, relief
    )


def grainy_strip(rng: np.random.Generator, height: int, width: int) -> Part:
    """High-contrast grey speckle with pits and soft bands: sintered or copper commutator strips."""
    tone = rng.uniform(0.08, 0.25) * fractal(rng, height, width, rng.uniform(1.5, 4), 2, 0.8)
    tone += rng.uniform(0.05, 0.2) * white(rng, height, width)
    tone += rng.uniform(0.03, 0.15) * smooth(rng, height, width, (rng.uniform(20, 90), rng.uniform(20, 90)))
    pits = smooth(rng, height, width, (rng.uniform(1, 2.5), rng.uniform(1, 5)))
    tone -= rng.uniform(0.1, 0.6) * soft_step(pits, rng.uniform(0.6, 1.0), 1.5)
    if chance(rng, 0.6):
        tone += rng.uniform(0.03, 0.12) * streaks(
            rng, height, width, lay(rng), rng.uniform(1, 6), rng.uniform(20, 200)
        )
    grey = rng.uniform(0.3, 0.75)
    canvas = Canvas(height, width, vary(rng, (grey, grey, grey), 0.01))
    canvas.shade(1 + tone)
    if chance(rng, 0.45):
        y, x = axes(height, width)
        side = pick(rng, [x, width - x, y, height - y])
        line = rng.uniform(0.0, 0.1) * min(height, width)
        wander = np.float32(rng.uniform(0, 3)) * smooth(rng, height, width, 10)
        outer = soft_step(side + wander, line + 1.5, line - 1.5)
        canvas.paint(outer, np.full(3, pick(rng, [0.03, 0.2, 0.85]), np.float32))
        fall = np.exp((side - np.float32(line)) * np.float32(-1 / rng.uniform(3, 20)))
        canvas.shade(1 - np.float32(rng.uniform(0, 0.4)) * np.minimum(fall, 1) * (1 - outer))
    names = ("commutator", "commutator surface", "sintered strip", "metal strip")
    return canvas.finish(names, "surface", random_light(rng), tone * 3)


def foil(rng: np.random.Generator, height: int, width: int) -> Part:
    """Bright foil or galvanised sheet: flat facets (spangle) or soft creases that belong to it."""
    size = log_uniform(rng, 8, 40)
    u, v = rotated(height, width, rng.uniform(0, math.pi))
    u = u + np.float32(size * 0.3) * smooth(rng, height, width, size * 0.7)
    _, _, value = cells(rng, v / np.float32(size), u / np.float32(size))
    canvas = Canvas(height, width, metal(rng))
    canvas.shade(
        1 + rng.uniform(0.1, 0.5) * (value - 0.5) + 0.06 * streaks(rng, height, width, lay(rng), 1, 60)
    )
    canvas.shade(1 + 0.1 * fractal(rng, height, width, size * 2, 3))
    return canvas.finish(("galvanised sheet", "zinc sheet", "foil"), "surface", random_light(rng), value)


def rail(rng: np.random.Generator, height: int, width: int) -> Part:
    """A worn running band, bright and streaked, between darker flanks."""
    y, x = axes(height, width)
    across, n = (x, width) if chance(rng, 0.5) else (y, height)
    angle = math.pi / 2 if n == width else 0.0
    middle, half = n * rng.uniform(0.35, 0.65), n * rng.uniform(0.12, 0.4)
    wander = np.float32(n * 0.02) * smooth(rng, height, width, (60, 60))
    band = soft_step(np.abs(across - middle + wander), half * 1.15, half * 0.85)
    canvas = Canvas(height, width, vary(rng, (0.33, 0.29, 0.27), 0.06))
    canvas.shade(1 + 0.15 * fractal(rng, height, width, 12, 4, 0.7))
    canvas.paint(band, metal(rng))
    canvas.shade(
        1
        + rng.uniform(0.05, 0.2) * streaks(rng, height, width, angle, rng.uniform(1, 4), rng.uniform(60, 300))
    )
    i = np.zeros((height, width), dtype=np.int32)
    sleeper = np.floor(across / np.float32(max(n * 0.25, 4))).astype(np.int32) + i
    canvas.shade(1 + 0.05 * (scatter(rng, sleeper, i) - 0.5))
    return canvas.finish(
        ("rail", "track", "running surface", "steel rail"), "surface", random_light(rng), band * 2
    )
