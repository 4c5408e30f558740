"""Screws close up and profiles turned about an axis: ball screws, ropes, cable bundles, vials, fuses,
polished forms.

Input: a generator and a size. Output: a `Part` of kind "object".
It does not know of defects or the camera.
"""

from __future__ import annotations

import math

import numpy as np

from clipsam.nano.corpus.canvas import any_colour, place, random_light, slopes, vary
from clipsam.nano.corpus.noise import (
    along,
    chance,
    fractal,
    pick,
    rotated,
    scatter,
    smooth,
    soft_step,
    streaks,
    wave,
)
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import backdrop, cylinder, metal, mirror, reflected, shadow
from clipsam.nano.corpus.shapes import box, cover, dome, legend


def ball_screw(rng: np.random.Generator, height: int, width: int) -> Part:
    """A screw with round grooves and flat lands, mirror-bright, close enough that bands cross the whole
    photo."""
    canvas = backdrop(rng, height, width)
    wide = width >= height if chance(rng, 0.8) else width < height
    angle = (0.0 if wide else math.pi / 2) + (rng.normal(0, 0.12) if chance(rng, 0.8) else rng.uniform(0, 3))
    u, v = rotated(height, width, angle)
    reach = max(height, width) if wide == (width >= height) else min(height, width)
    half = reach * rng.uniform(0.38, 0.75)
    across = (u - np.float32(reach * rng.uniform(-0.1, 0.1))) / np.float32(half)
    flat = np.clip(across, -1, 1)
    lead = min(height, width) * rng.uniform(0.18, 0.75)
    rise = np.arcsin(flat) * np.float32(rng.uniform(0.5, 3) * lead / (2 * math.pi) * pick(rng, [-1, 1]))
    tilt = np.sqrt(1 - flat * flat) * np.float32(half * rng.uniform(-0.25, 0.25))
    phase = (v + rise + tilt) / np.float32(lead)
    turn = phase - np.floor(phase)
    groove = rng.uniform(0.35, 0.75)
    inner = np.clip(turn / np.float32(groove), 0, 1) * 2 - 1
    in_groove = turn < groove
    depth = np.where(in_groove, np.sqrt(np.maximum(1 - inner * inner, 0)), np.float32(0))
    table = mirror(rng)
    lift = np.float32(rng.uniform(-0.8, 0.8))
    ny = np.where(in_groove, inner * np.float32(rng.uniform(0.6, 1.1)), lift)
    grain = along(wave(rng, 2048, 1.5) + wave(rng, 2048, 12), phase * np.float32(0.13))
    grain = grain * (np.float32(0.5) + np.float32(0.5) * smooth(rng, height, width, min(height, width) * 0.3))
    rough = np.float32(rng.uniform(0.01, 0.06)) * grain
    tone = reflected(table, flat * np.float32(rng.uniform(0.7, 1.1)) + rough, ny + rough)
    tone = tone * (1 + np.float32(rng.uniform(0.01, 0.08)) * grain) * (1 - np.float32(0.25) * depth)
    edge = np.minimum(np.abs(turn - np.float32(groove)), np.minimum(turn, 1 - turn)) * np.float32(lead)
    tone = tone * (
        1 - np.float32(rng.uniform(0.2, 0.7)) * np.exp(-edge * np.float32(1 / rng.uniform(0.8, 4)))
    )
    if chance(rng, 0.35):  # a film of grease in the grooves: belongs there
        film = soft_step(fractal(rng, height, width, min(height, width) * 0.2, 4), 0.2, 0.8)
        tone = tone * (1 - np.float32(rng.uniform(0.05, 0.25)) * film * depth)
    distance = (np.abs(across) - 1 + depth * np.float32(rng.uniform(0, 0.12))) * np.float32(half)
    canvas.solid = distance < 0
    base = metal(rng)
    warm = vary(rng, base * np.float32(0.25), 0.03)
    canvas.paint(
        cover(distance, 2), warm[:, None, None] + tone * (base * np.float32(1.2) - warm)[:, None, None]
    )
    names = pick(
        rng, [("ball screw", "lead screw", "spindle"), ("screw", "threaded shaft"), ("worm shaft", "thread")]
    )
    return canvas.finish(names, "object", random_light(rng), depth * np.float32(lead * -0.15))


def rope(rng: np.random.Generator, height: int, width: int) -> Part:
    """Rope, twisted wire, hose or a bundle of parallel cables, each strand with its own light."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.8, 1.4), cut=0, upright=0.6)
    half = min(height, width) * rng.uniform(0.12, 0.6)
    across = at.v / np.float32(half)
    twisted = chance(rng, 0.5)
    strands = int(rng.integers(3, 12))
    if twisted:
        pitch = half * rng.uniform(0.4, 1.4)
        phase = at.u / np.float32(pitch) + np.float32(rng.uniform(0.6, 2)) * across
    else:
        phase = across * np.float32(strands / 2)
    number = np.floor(phase)
    local = (phase - number) * 2 - 1
    distance = (np.abs(across) - 1) * np.float32(half)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half * 0.6)
    tone = cylinder(rng, local, 2) * np.float32(0.7) + np.float32(0.3)
    tone = tone * np.sqrt(np.maximum(1 - np.square(local) * np.float32(0.8), 0.05))
    tone = tone * (
        1 + np.float32(rng.uniform(0, 0.2)) * streaks(rng, height, width, at.angle + 0.6 * twisted, 1.2, 20)
    )
    if twisted:
        tone = tone * np.sqrt(np.maximum(1 - np.square(across) * np.float32(0.85), 0.05))
    base = metal(rng) if chance(rng, 0.4) else any_colour(rng, 0.7)
    key = number.astype(np.int32)
    tint = scatter(rng, key % strands, np.zeros_like(key))
    canvas.paint(cover(distance), (base[:, None, None] * tone).astype(np.float32))
    if chance(rng, 0.5):
        own = cover(distance) * (tint > np.float32(rng.uniform(0.5, 0.9)))
        canvas.piece("strand", own.astype(np.float32), any_colour(rng, 0.9)[:, None, None] * tone)
    names = (
        ("rope", "twisted wire", "wire rope")
        if twisted
        else ("cable bundle", "wires", "flat cable", "ribbon cable")
    )
    return canvas.finish(names, "object", random_light(rng), dome(distance, half * 0.5))


def vial(rng: np.random.Generator, height: int, width: int) -> Part:
    """A standing or lying vial, bottle, fuse, pen or lipstick from the side: body, shoulder, neck, cap,
    label, filling."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.4, 0.49), aspect=rng.uniform(1.8, 3.6), upright=0.7)
    s = at.u / np.float32(at.size)
    wide = at.size * rng.uniform(0.24, 0.45)
    shoulder, neck = rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.9)
    outline = 1 - np.float32(1 - neck) * soft_step(s, shoulder, shoulder + rng.uniform(0.05, 0.25))
    outline = outline * (1 - np.float32(0.15) * soft_step(s, -0.93, -1.0))
    half = outline * np.float32(wide)
    distance = np.maximum(np.abs(at.v) - half, np.abs(at.u) - np.float32(at.size))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, wide)
    across = at.v / half
    clear = chance(rng, 0.5)
    base = any_colour(rng, 0.7) if chance(rng, 0.7) else metal(rng)
    tone = cylinder(rng, across) * (1 + np.float32(0.03) * smooth(rng, height, width, 20))
    canvas.paint(cover(distance) * np.float32(0.55 if clear else 1), base[:, None, None] * tone)
    if clear:
        level = rng.uniform(-0.4, shoulder)
        filled = cover(np.maximum(distance + np.float32(wide * 0.08), at.u - np.float32(level * at.size)))
        canvas.piece("filling", filled * np.float32(0.8), any_colour(rng, 0.7)[:, None, None] * tone)
        wall = np.exp(-np.square((distance + np.float32(wide * 0.06)) / np.float32(max(1.0, wide * 0.04))))
        canvas.shade(1 - wall * np.float32(rng.uniform(0.2, 0.6)))
    start = rng.uniform(shoulder + 0.15, 0.9)
    lid = cover(np.maximum(distance - np.float32(wide * 0.08), np.float32(start * at.size) - at.u))
    knurl = 1 + np.float32(rng.uniform(0, 0.3)) * np.sin(at.v * np.float32(rng.uniform(0.5, 1.5)))
    canvas.piece("cap", lid, any_colour(rng, 0.8)[:, None, None] * (tone * knurl))
    if chance(rng, 0.6):
        low, high = sorted(rng.uniform(-0.9, shoulder, 2).tolist())
        middle, reach = (low + high) / 2 * at.size, (high - low) / 2 * at.size
        u = at.u - np.float32(middle)
        canvas.piece(
            "label",
            cover(np.maximum(np.abs(u) - np.float32(reach), distance)),
            np.float32(0.9) * (tone * np.float32(0.5) + np.float32(0.5)),
        )
        if reach > 6:
            canvas.piece(
                "print", legend(rng, u, at.v, reach * 0.8, wide * 0.5) * np.float32(0.9), any_colour(rng, 0.8)
            )
    stripe = np.exp(
        -np.square((across - np.float32(rng.uniform(-0.7, 0.7))) / np.float32(rng.uniform(0.03, 0.15)))
    )
    canvas.glow(cover(distance + 2) * stripe * np.float32(rng.uniform(0, 0.6)))
    names = pick(
        rng,
        [("vial", "ampoule", "bottle"), ("bottle", "flask", "plastic bottle"), ("fuse", "pen", "lipstick")],
    )
    return canvas.finish(names, "object", random_light(rng), dome(distance, wide))


def polished(rng: np.random.Generator, height: int, width: int) -> Part:
    """A freely curved, polished or chromed form that mirrors its surroundings; whole or filling the photo."""
    canvas = backdrop(rng, height, width)
    at = place(rng, height, width, (0.32, 0.49), aspect=rng.uniform(1, 2.2), cut=0.4)
    half = at.size * rng.uniform(0.5, 0.8)
    distance = box(at.u, at.v, at.size, half, half * rng.uniform(0.2, 1))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    relief = dome(distance, half * rng.uniform(0.3, 0.9)) * np.float32(rng.uniform(0.3, 1))
    relief += np.float32(half * rng.uniform(0.05, 0.4)) * smooth(
        rng, height, width, half * rng.uniform(0.5, 1.2)
    )
    dx, dy = slopes(relief)
    length = np.sqrt(1 + dx * dx + dy * dy)
    tone = reflected(mirror(rng), np.divide(dx, length), np.divide(dy, length))
    tone = tone * (1 + np.float32(rng.uniform(0, 0.1)) * streaks(rng, height, width, at.angle, 1, 60))
    base = metal(rng) if chance(rng, 0.6) else any_colour(rng, 0.8)
    gloss_share = np.float32(rng.uniform(0.4, 1))
    canvas.paint(cover(distance), base[:, None, None] * (1 - gloss_share + gloss_share * tone))
    if chance(rng, 0.3):
        canvas.piece(
            "print",
            legend(rng, at.u, at.v, at.size * 0.5, half * 0.3) * cover(distance),
            any_colour(rng, 0.5),
        )
    names = pick(
        rng,
        [("chrome part", "polished metal", "fitting"), ("handle", "metal part", "knob"), ("spoon", "tool")],
    )
    return canvas.finish(names, "object", random_light(rng), relief)
