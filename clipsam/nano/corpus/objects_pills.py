"""Medicines: tablets and capsules. Input: a generator and a size. Output: a `Part` of kind "object".

It does not know of defects or the camera.
"""

from __future__ import annotations

import numpy as np

from clipsam.nano.corpus.canvas import any_colour, gloss, place, random_light, shading, vary
from clipsam.nano.corpus.noise import chance, pick, smooth, soft_step
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import backdrop, shadow
from clipsam.nano.corpus.shapes import box, cover, dome, legend


def tablet(rng: np.random.Generator, height: int, width: int) -> Part:
    """A tablet or pill: domed, speckled or plain, with a score line or print."""
    canvas = backdrop(rng, height, width)
    aspect = pick(rng, [1.0, 1.0, 1.6, 2.2])
    at = place(rng, height, width, (0.2, 0.46), aspect=aspect)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half * rng.uniform(0.7, 1.0))
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, at.size)
    relief = dome(distance, half * rng.uniform(0.2, 1.0)) * np.float32(rng.uniform(0.4, 0.9))
    base = any_colour(rng, 0.6) if chance(rng, 0.5) else vary(rng, (0.9, 0.89, 0.86), 0.06)
    if chance(rng, 0.5):
        score = np.exp(-np.square(at.u / np.float32(max(1.0, half * 0.05))))
        relief -= score * np.float32(half * 0.08)
    light = random_light(rng)
    body = cover(distance)
    canvas.paint(body, base)
    if chance(rng, 0.4):
        specks = soft_step(smooth(rng, height, width, rng.uniform(1, 2.5)), rng.uniform(0.5, 1.1), 1.3)
        canvas.paint(body * specks * np.float32(0.8), any_colour(rng, 0.8))
    canvas.shade(1 + body * (shading(relief, light, rng.uniform(0.3, 0.9)) - 1))
    canvas.glow(body * gloss(relief, light, 0.6, 30) * np.float32(rng.uniform(0, 0.3)))
    if chance(rng, 0.45):
        ink = legend(rng, at.u, at.v, at.size * 0.45, half * 0.35) * body
        canvas.piece("print", ink * np.float32(0.85), base * np.float32(rng.uniform(0.2, 0.8)))
    return canvas.finish(("pill", "tablet", "lozenge", "drug tablet"), "object", light, relief)


def capsule(rng: np.random.Generator, height: int, width: int) -> Part:
    """A two-coloured gelatine capsule with a long highlight and print."""
    canvas = backdrop(rng, height, width)
    aspect = rng.uniform(2.2, 3.2)
    at = place(rng, height, width, (0.3, 0.47), aspect=aspect)
    half = at.size / aspect
    distance = box(at.u, at.v, at.size, half, half)
    canvas.solid = distance < 0
    shadow(rng, canvas, distance, half)
    relief = dome(distance, half)
    light = random_light(rng)
    body = cover(distance)
    one, other = any_colour(rng, 0.8), any_colour(rng, 0.8)
    seam = at.size * rng.uniform(-0.25, 0.25)
    canvas.paint(body, one)
    canvas.note("cap", (distance < 0) & (at.u > seam))
    canvas.paint(body * cover(np.float32(seam) - at.u), other)
    canvas.shade(1 + body * (shading(relief, light, rng.uniform(0.3, 0.7)) - 1))
    canvas.shade(1 - 0.4 * body * np.exp(-np.square((at.u - np.float32(seam)) / 1.2)))
    stripe = np.exp(-np.square((at.v - np.float32(half * rng.uniform(-0.6, 0.6))) / np.float32(half * 0.1)))
    canvas.glow(
        body
        * stripe
        * soft_step(np.abs(at.u), at.size * 0.9, at.size * 0.7)
        * np.float32(rng.uniform(0.1, 0.5))
    )
    if chance(rng, 0.6):
        ink = legend(rng, at.u - np.float32(at.size * 0.4), at.v, at.size * 0.3, half * 0.35) * body
        canvas.piece("print", ink * np.float32(0.9), any_colour(rng, 0.3))
    return canvas.finish(("capsule", "medicine capsule", "gel capsule"), "object", light, relief)
