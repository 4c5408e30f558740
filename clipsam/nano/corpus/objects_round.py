"""Round products seen along their axis: bottles, caps, washers, gears, bearings, cables, lenses; brushes.

Input: a generator and a size. Output: a `Part` of kind "object" with a background.
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import Canvas, Place, any_colour, gloss, place, random_light, shading, vary
from clipsam.nano.corpus.noise import (
    Field,
    along,
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
from clipsam.nano.corpus.scene import arcs, backdrop, metal, shadow, surroundings
from clipsam.nano.corpus.shapes import box, cover, dome, legend, polygon


def rings(rng: np.random.Generator, canvas: Canvas, at: Place, inner: float, base: Field, count: int) -> None:
    """Concentric lips between `inner` and 1 (of the radius): each with its own tone and specular arcs."""
    radius, turn = at.radius / np.float32(at.size), at.turn
    body = cover((radius - 1) * np.float32(at.size))
    edges = np.sort(rng.uniform(inner, 1.0, count))
    profile = np.interp(np.arange(1024) / 800, np.r_[inner, edges, 1.3], rng.uniform(0.45, 1.25, count + 2))
    tones: Field = profile.astype(np.float32) + np.float32(0.15) * wave(rng, 1024, 18)
    canvas.paint(body, base)
    canvas.shade(1 + body * (tones[np.minimum((radius * 800).astype(np.int32), 1023)] - 1))
    tint = vary(rng, pick(rng, [(1, 1, 1), (1, 0.8, 0.6), (0.8, 0.9, 1)]), 0.05)
    lean_u, lean_v = rng.normal(0, 0.012, 2).astype(np.float32) / np.float32(at.size)
    for edge in edges:
        width = np.float32(rng.uniform(0.004, 0.025))
        shifted = radius + (at.u * lean_u + at.v * lean_v) * np.float32(rng.uniform(0, 1))
        line = np.exp(-np.square((shifted - np.float32(edge)) / width)) * body
        light = arcs(rng, turn, int(rng.integers(1, 6))) * (1 if chance(rng, 0.7) else rng.uniform(0.2, 0.8))
        canvas.glow(line * light * np.float32(rng.uniform(0.15, 0.8)), tint if chance(rng, 0.5) else None)
        if chance(rng, 0.5):
            canvas.shade(1 - line * np.float32(rng.uniform(0.2, 0.7)))
    glints(rng, canvas, radius, turn, edges.tolist(), tint)


def glints(
    rng: np.random.Generator, canvas: Canvas, radius: Field, turn: Field, edges: list[float], tint: Field
) -> None:
    """What glass lips always show: one ragged bright arc, a few hot glints, a band of rough wall."""
    height, width = radius.shape
    edges = [min(edge, 0.9) for edge in edges]  # a ragged outline would look broken
    rough = smooth(rng, height, width, rng.uniform(1.2, 4))
    if chance(rng, 0.6):
        thick = rng.uniform(0.008, 0.03)
        place_in = np.abs(radius - np.float32(pick(rng, edges)) + np.float32(0.006) * rough)
        ragged = soft_step(place_in, thick, thick * 0.6) * soft_step(rough, -0.6, 0.4)
        warm = vary(rng, pick(rng, [(1.0, 0.5, 0.25), (0.9, 0.9, 0.9), (0.7, 0.85, 1.0)]), 0.06)
        canvas.glow(
            ragged * arcs(rng, turn, int(rng.integers(2, 7))) * np.float32(rng.uniform(0.2, 0.8)), warm
        )
    for _ in range(int(rng.integers(0, 4))):
        at_turn, at_edge = rng.uniform(-0.5, 0.5), pick(rng, edges)
        gap = turn - np.float32(at_turn)
        gap = (gap - np.round(gap)) * np.float32(6.28 * at_edge)
        spread, long = rng.uniform(0.008, 0.03), rng.uniform(0.015, 0.09)
        away = np.square((radius - np.float32(at_edge)) / np.float32(spread)) + np.square(
            gap / np.float32(long)
        )
        canvas.glow(np.exp(-away) * soft_step(rough, -0.3, 0.7) * np.float32(rng.uniform(0.3, 1.2)), tint)
    if chance(rng, 0.5):
        low = rng.uniform(edges[0] - 0.05, edges[-1] - 0.05)
        band = soft_step(radius, low, low + 0.02) * soft_step(radius, low + rng.uniform(0.1, 0.2), low + 0.08)
        canvas.shade(1 + band * np.float32(rng.uniform(0.08, 0.35)) * rough)


def bottle(rng: np.random.Generator, height: int, width: int) -> Part:
    """A bottle or jar seen into its mouth: wall, lip, ring lights, the dark or tinted inside."""
    canvas = backdrop(rng, height, width, 0.7)
    at = place(rng, height, width, (0.36, 0.49), cut=0.1)
    inner = rng.uniform(0.35, 0.68)
    radius = at.radius
    canvas.solid = radius < at.size
    base = vary(
        rng,
        pick(
            rng,
            [
                (0.2, 0.22, 0.24),
                (0.14, 0.14, 0.19),
                (0.25, 0.17, 0.1),
                (0.15, 0.3, 0.2),
                (0.5, 0.55, 0.57),
                (0.75, 0.78, 0.8),
            ],
        ),
        0.06,
    )
    if chance(rng, 0.3):
        shadow(rng, canvas, radius - np.float32(at.size), at.size)
    rings(rng, canvas, at, inner, base, int(rng.integers(3, 9)))
    mouth = cover(radius - np.float32(inner * at.size), rng.uniform(1, 4))
    inside = vary(rng, base * np.float32(rng.uniform(0.15, 0.9)), 0.03)
    canvas.paint(mouth, inside)
    floor = at.size * inner * rng.uniform(0.4, 0.85)
    off_u, off_v = rng.normal(0, 0.04, 2) * at.size
    depth = np.sqrt(np.square(at.u - np.float32(off_u)) + np.square(at.v - np.float32(off_v)))
    canvas.shade(
        1 + mouth * np.float32(rng.uniform(-0.5, 0.5)) * cover(depth - np.float32(floor), rng.uniform(2, 20))
    )
    ring = np.exp(-np.square((depth - np.float32(floor)) / np.float32(rng.uniform(1, 4))))
    canvas.glow(mouth * ring * arcs(rng, at.turn, 3) * np.float32(rng.uniform(0, 0.25)))
    canvas.shade(1 + canvas.solid * np.float32(0.06) * fractal(rng, height, width, at.size * 0.2, 3))
    canvas.note("mouth", (mouth > 0.5) & canvas.solid)
    names = pick(
        rng,
        [
            ("bottle", "glass bottle", "bottle mouth"),
            ("jar", "glass jar", "vial"),
            ("can", "tin can", "tube"),
        ],
    )
    return canvas.finish(names, "object", random_light(rng))


def cap(rng: np.random.Generator, height: int, width: int) -> Part:
    """A bottle cap, lid, button or coin: knurled rim, flat or dished top, print or holes."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.25, 0.47))
    teeth = int(rng.integers(0, 2)) * int(rng.integers(18, 70))
    radius, turn = at.radius, at.turn
    rim = np.cos(turn * np.float32(2 * math.pi * teeth)) if teeth else np.zeros_like(radius)
    distance = radius - np.float32(at.size) + rim * np.float32(at.size * 0.015)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size)
    relief = dome(distance, at.size * rng.uniform(0.05, 0.3))
    lip = at.size * rng.uniform(0.55, 0.9)
    relief += np.float32(at.size * rng.uniform(-0.08, 0.08)) * soft_step(radius, lip * 1.03, lip * 0.97)
    base = any_colour(rng, 0.8) if chance(rng, 0.65) else metal(rng)
    light = random_light(rng)
    body = cover(distance)
    canvas.paint(body, base)
    shade = shading(relief, light, 0.8) * (1 + rng.uniform(0, 0.3) * rim * soft_step(radius, lip, at.size))
    canvas.shade(1 + body * (shade - 1))
    canvas.glow(body * gloss(relief, light, 0.8, rng.uniform(10, 60)) * np.float32(rng.uniform(0, 0.35)))
    if chance(rng, 0.55):
        ink = legend(rng, at.u, at.v, lip * 0.6, lip * 0.35)
        canvas.piece("print", ink * np.float32(0.9), any_colour(rng, 0.8))
    elif chance(rng, 0.4):
        for k in range(number := int(pick(rng, [2, 4]))):
            t = 2 * math.pi * k / number
            hole = np.hypot(at.u - lip * 0.35 * math.cos(t), at.v - lip * 0.35 * math.sin(t)) - at.size * 0.1
            canvas.piece("hole", cover(hole.astype(np.float32)), base * np.float32(0.15))
    names = pick(rng, [("cap", "bottle cap", "lid"), ("button", "knob", "cap"), ("coin", "token", "disc")])
    return canvas.finish(names, "object", light, relief)


def washer(rng: np.random.Generator, height: int, width: int) -> Part:
    """Washers, O-rings, flanges and metal nuts: an outer shape, a bore, turned marks, bolt holes."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.25, 0.47))
    style = pick(rng, ["washer", "nut", "o-ring", "flange"])
    radius = at.radius
    bore = at.size * (rng.uniform(0.72, 0.88) if style == "o-ring" else rng.uniform(0.25, 0.65))
    outer = polygon(at.u, at.v, 6, at.size * 0.88) if style == "nut" else radius - np.float32(at.size)
    distance = np.maximum(outer, np.float32(bore) - radius)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size)
    body = cover(distance)
    base = (
        metal(rng)
        if style != "o-ring"
        else vary(rng, pick(rng, [(0.08, 0.08, 0.08), (0.5, 0.15, 0.1), (0.6, 0.6, 0.58)]), 0.05)
    )
    light = random_light(rng)
    wide = (at.size - bore) * (0.5 if style == "o-ring" else rng.uniform(0.05, 0.3))
    relief = dome(distance, wide)
    groove = along(wave(rng, 1024, 1.5) + wave(rng, 1024, 12), radius * np.float32(1 / 1024))
    bow = np.cos(at.turn * np.float32(4 * math.pi) + np.float32(rng.uniform(0, 6)))
    polish = 0.0 if style == "o-ring" else 1.0
    canvas.paint(body, base)
    factor = shading(relief, light, 0.7) * (
        1 + polish * (rng.uniform(0.02, 0.12) * groove + rng.uniform(0.05, 0.35) * bow)
    )
    canvas.shade(1 + body * (factor - 1))
    canvas.glow(body * gloss(relief, light, 0.8, rng.uniform(10, 80)) * np.float32(rng.uniform(0.05, 0.45)))
    if style == "flange":
        number, ring = int(rng.integers(3, 9)), (bore + at.size) / 2
        for k in range(number):
            t = 2 * math.pi * k / number
            du, dv = at.u - np.float32(ring * math.cos(t)), at.v - np.float32(ring * math.sin(t))
            hole = np.sqrt(du * du + dv * dv) - np.float32((at.size - bore) * 0.2)
            canvas.piece("bolt hole", cover(hole), base * np.float32(0.12))
    if style == "nut":
        thread = soft_step(radius, bore * 1.12, bore * 1.05) * body
        canvas.shade(1 - thread * np.float32(0.6) * (0.5 + 0.5 * np.cos(radius * np.float32(2.5))))
    names = {"washer": ("washer", "ring", "metal ring"), "nut": ("nut", "metal nut", "hex nut")}
    names |= {"o-ring": ("o-ring", "seal", "gasket"), "flange": ("flange", "disc", "hub")}
    return canvas.finish(names[style], "object", light, relief)


def gear(rng: np.random.Generator, height: int, width: int) -> Part:
    """A gear, sprocket, saw blade or impeller with bore, web holes and spokes."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.3, 0.47))
    teeth = int(rng.integers(8, 48))
    radius, turn = at.radius, at.turn
    shape = np.clip(np.cos(turn * np.float32(2 * math.pi * teeth)) * np.float32(rng.uniform(1.2, 3)), -1, 1)
    distance = radius - np.float32(at.size * 0.92) - shape * np.float32(at.size * min(0.08, 1.2 / teeth))
    bore = at.size * rng.uniform(0.1, 0.35)
    distance = np.maximum(distance, np.float32(bore) - radius)
    light = random_light(rng)
    relief = dome(distance, at.size * rng.uniform(0.02, 0.08))
    relief += np.float32(at.size * rng.uniform(-0.06, 0.06)) * soft_step(
        radius, at.size * 0.76, at.size * 0.73
    )
    holes = int(rng.integers(0, 7))
    if holes:
        t = (turn * holes - np.round(turn * holes)) * np.float32(2 * math.pi / holes)
        middle = np.float32((bore + at.size * 0.75) / 2)
        away = np.sqrt(np.square(radius * np.cos(t) - middle) + np.square(radius * np.sin(t)))
        distance = np.maximum(
            distance, np.float32(min((at.size * 0.75 - bore) * 0.35, float(middle) * 2 / holes)) - away
        )
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size)
    body = cover(distance)
    canvas.paint(body, metal(rng) if chance(rng, 0.7) else any_colour(rng, 0.6))
    grain = fractal(rng, height, width, 3, 2, 0.7)
    factor = shading(relief, light, 0.9) * (1 + rng.uniform(0.02, 0.1) * grain)
    canvas.shade(1 + body * (factor - 1))
    canvas.glow(body * gloss(relief, light, 0.9, 30) * np.float32(rng.uniform(0, 0.4)))
    return canvas.finish(("gear", "cog wheel", "sprocket", "wheel"), "object", light, relief)


def bearing(rng: np.random.Generator, height: int, width: int) -> Part:
    """A ball bearing: outer and inner race, cage, balls that mirror the lamps."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.3, 0.48))
    radius, turn = at.radius, at.turn
    inner, mid = at.size * rng.uniform(0.28, 0.45), at.size * rng.uniform(0.66, 0.74)
    canvas.solid = (radius < at.size) & (radius > inner)
    distance = np.maximum(radius - np.float32(at.size), np.float32(inner) - radius)
    shadow(rng, canvas, distance, at.size)
    base = metal(rng)
    body = cover(distance)
    canvas.paint(body, base)
    canvas.shade(1 + body * np.float32(0.4) * (along(surroundings(rng), turn * 2) - 1))
    ball = at.size * rng.uniform(0.09, 0.13)
    channel = cover(np.abs(radius - np.float32(mid)) - np.float32(ball * 1.05))
    canvas.paint(channel, base * np.float32(rng.uniform(0.1, 0.4)))
    number = int(rng.integers(6, max(7, int(2 * math.pi * mid / (ball * 2.3)))))
    light = random_light(rng)
    for k in range(number):
        t = 2 * math.pi * (k + 0.3) / number
        cu, cv = mid * math.cos(t), mid * math.sin(t)
        c, s = math.cos(at.angle), math.sin(at.angle)
        where = canvas.window(at.cy + cu * s + cv * c, at.cx + cu * c - cv * s, ball + 2)
        if where is None:
            continue
        du, dv = at.u[where] - np.float32(cu), at.v[where] - np.float32(cv)
        d = np.sqrt(du * du + dv * dv)
        tone = np.clip(1.1 - d * np.float32(0.8 / ball), 0.1, 1) + np.exp(
            -np.square(np.hypot(du + ball * 0.3, dv + ball * 0.3) / (ball * 0.25))
        )
        paint = (base[:, None, None] * tone).astype(np.float32)
        canvas.piece("ball", cover(d - np.float32(ball)), paint, where)
    for edge in (inner * 1.04, mid - ball * 1.3, mid + ball * 1.3, at.size * 0.97):
        line = np.exp(-np.square((radius - np.float32(edge)) / np.float32(max(1.0, at.size * 0.012))))
        canvas.glow(body * line * arcs(rng, turn, 4) * np.float32(rng.uniform(0.1, 0.5)))
    return canvas.finish(("bearing", "ball bearing", "roller bearing"), "object", light, body * 4)


def cable(rng: np.random.Generator, height: int, width: int) -> Part:
    """A cable cut across: sheath, insulated cores, strands of copper."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.33, 0.49), upright=0.2)
    radius = at.radius
    sheath = vary(
        rng, pick(rng, [(0.85, 0.85, 0.83), (0.12, 0.12, 0.13), (0.55, 0.55, 0.56), (0.8, 0.45, 0.1)]), 0.05
    )
    distance = radius - np.float32(at.size)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size)
    canvas.paint(cover(distance), sheath)
    filler = cover(radius - np.float32(at.size * rng.uniform(0.85, 0.95)))
    canvas.paint(filler, vary(rng, sheath * np.float32(rng.uniform(0.3, 0.95)), 0.04))
    cores = int(pick(rng, [1, 2, 3, 3, 4, 5]))
    core = at.size * {1: 0.75, 2: 0.42, 3: 0.39, 4: 0.34, 5: 0.29}[cores]
    reach = 0.0 if cores == 1 else at.size * 0.87 - core
    copper = vary(rng, (0.75, 0.5, 0.33), 0.06)
    for k in range(cores):
        t = 2 * math.pi * k / cores
        du, dv = at.u - np.float32(reach * math.cos(t)), at.v - np.float32(reach * math.sin(t))
        away = np.sqrt(du * du + dv * dv)
        canvas.piece("core", cover(away - np.float32(core)), any_colour(rng, 0.9))
        metal_radius = np.float32(core * rng.uniform(0.55, 0.72))
        pitch = np.float32(core * rng.uniform(0.14, 0.28))
        row = np.floor(dv / (pitch * np.float32(0.87)))
        a = du / pitch + np.float32(0.5) * (row % 2)
        p, q = (a - np.floor(a) - 0.5) * pitch, dv - (row + 0.5) * pitch * np.float32(0.87)
        wire = np.sqrt(p * p + q * q) / pitch
        tone = np.clip(1.25 - 1.7 * wire + 0.15 * white(rng, 1, 1), 0.15, 1.2)
        canvas.paint(cover(away - metal_radius), copper[:, None, None] * tone)
    canvas.shade(1 + 0.05 * fractal(rng, height, width, 3, 3, 0.7))
    return canvas.finish(("cable", "wire", "cable cross section", "power cord"), "object", random_light(rng))


def lens(rng: np.random.Generator, height: int, width: int) -> Part:
    """A lens, camera module, lamp or candle: rings, glass with reflections, a bright or dark middle."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.3, 0.48))
    radius = at.radius
    canvas.solid = radius < at.size
    shadow(rng, canvas, radius - np.float32(at.size), at.size)
    rings(rng, canvas, at, 0.5, any_colour(rng, 0.15), int(rng.integers(2, 6)))
    aperture = at.size * rng.uniform(0.3, 0.75)
    glass = cover(radius - np.float32(aperture))
    canvas.paint(glass, vary(rng, pick(rng, [(0.08, 0.1, 0.16), (0.6, 0.65, 0.66), (0.9, 0.88, 0.82)]), 0.05))
    for _ in range(int(rng.integers(1, 5))):
        t, away, r = rng.uniform(0, 6.28), aperture * rng.uniform(0, 0.6), aperture * rng.uniform(0.06, 0.4)
        du, dv = at.u - np.float32(away * math.cos(t)), at.v - np.float32(away * math.sin(t))
        spot = cover(np.sqrt(du * du + dv * dv) - np.float32(r), rng.uniform(1, max(r, 2)))
        canvas.glow(glass * spot * np.float32(rng.uniform(0.05, 0.5)), any_colour(rng, 0.6))
    canvas.note("glass", (glass > 0.5))
    names = pick(
        rng,
        [
            ("lens", "optical lens", "glass lens"),
            ("camera module", "lens module"),
            ("candle", "tea light", "lamp"),
        ],
    )
    return canvas.finish(names, "object", random_light(rng))


def brush(rng: np.random.Generator, height: int, width: int) -> Part:
    """A brush from its bristle side: tufts in rows, each a fan of bright hairs."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(1.0, 2.6)
    at = place(rng, height, width, (0.3, 0.48), aspect=aspect)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * rng.uniform(0.3, 1))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    body = cover(distance)
    canvas.paint(body, any_colour(rng, 0.5))
    pitch = half * rng.uniform(0.22, 0.55)
    a, b = at.u / np.float32(pitch), at.v / np.float32(pitch)
    i, j = np.floor(a), np.floor(b)
    p, q = a - i - np.float32(0.5), b - j - np.float32(0.5)
    away = np.sqrt(p * p + q * q)
    inside = cover((away - np.float32(rng.uniform(0.36, 0.5))) * np.float32(pitch)) * body
    hair = streaks(rng, height, width, at.angle + rng.uniform(0, 3), 1.0, 7) + white(rng, height, width)
    tone = 1.1 - away + np.float32(rng.uniform(0.15, 0.4)) * hair
    paint = any_colour(rng, 0.8)
    one = inside * (np.mod(i + j, 2) if chance(rng, 0.5) else np.float32(1))
    canvas.paint(inside, any_colour(rng, 0.6)[:, None, None] * tone)
    canvas.paint(one, paint[:, None, None] * tone)
    u, _ = rotated(height, width, at.angle)
    canvas.shade(1 + np.float32(0.1) * np.sin(u * np.float32(0.02)))
    return canvas.finish(("brush", "toothbrush", "bristles"), "object", random_light(rng))
