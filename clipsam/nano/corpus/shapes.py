"""Signed distances of plane shapes (negative inside, pixels) and the round solids built from them; legends
too.

Input: coordinates u, v [H, W] in pixels about the shape's centre. Output: float32 fields [H, W].
It does not know of colours. Distance formulas after I. Quilez, "2D distance functions".
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipsam.nano.corpus.noise import Field, along, pick

GLYPHS = "ABCDEFGHJKLMNPRSTUVXYZ0123456789"


def box(u: Field, v: Field, half_u: float, half_v: float, round_by: float = 0.0) -> Field:
    """Rectangle of half-sizes `half_u`, `half_v` with corners rounded by `round_by`."""
    round_by = min(round_by, half_u, half_v)
    a, b = np.abs(u) - (half_u - round_by), np.abs(v) - (half_v - round_by)
    outside = np.sqrt(np.square(np.maximum(a, 0)) + np.square(np.maximum(b, 0)))
    return outside + np.minimum(np.maximum(a, b), 0) - np.float32(round_by)


def ellipse(u: Field, v: Field, half_u: float, half_v: float) -> Field:
    """Ellipse (distance correct near the outline)."""
    scaled = np.sqrt(np.square(u / half_u) + np.square(v / half_v))
    slope = np.sqrt(np.square(u / half_u**2) + np.square(v / half_v**2)) + np.float32(1e-4)
    return scaled * (scaled - 1) / slope


def polygon(u: Field, v: Field, sides: int, radius: float) -> Field:
    """Regular polygon with the given inner radius."""
    step = 2 * math.pi / sides
    angle = np.arctan2(v, u)
    angle -= np.round(angle / np.float32(step)) * np.float32(step)
    return np.sqrt(u * u + v * v) * np.cos(angle) - np.float32(radius)


def blob(
    rng: np.random.Generator, u: Field, v: Field, radius: float, lump: float, harmonics: int = 6
) -> Field:
    """A round shape whose outline wanders by `lump` times its radius."""
    table = np.zeros(256, dtype=np.float32)
    t = np.arange(256, dtype=np.float32) * np.float32(2 * math.pi / 256)
    for k in range(2, 2 + harmonics):
        table += np.float32(rng.normal() / k**1.2) * np.cos(k * t + np.float32(rng.uniform(0, 6.28)))
    outline = radius * (1 + lump * along(table, np.arctan2(v, u) * np.float32(0.5 / math.pi)))
    return np.sqrt(u * u + v * v) - outline


def cover(distance: Field, soft: float = 1.0) -> Field:
    """Anti-aliased coverage [0, 1] of a signed distance; `soft` is the width of the edge in pixels."""
    return np.clip(0.5 - distance * np.float32(1 / soft), 0, 1)


def dome(distance: Field, rim: float) -> Field:
    """Height of a solid whose rim is rounded over `rim` pixels: 0 outside, `rim` on the flat top."""
    t = np.clip(-distance * np.float32(1 / max(rim, 1e-3)), 0, 1)
    return np.float32(rim) * np.sqrt(t * (2 - t))


def words(rng: np.random.Generator, lines: int) -> str:
    """A made-up legend: codes of letters and digits."""
    rows = [
        "".join(GLYPHS[i] for i in rng.integers(len(GLYPHS), size=int(rng.integers(2, 8))))
        for _ in range(lines)
    ]
    return "\n".join(rows)


def legend(rng: np.random.Generator, u: Field, v: Field, half_u: float, half_v: float) -> Field:
    """Coverage [H, W] of a random print inside the rectangle `half_u` x `half_v` of the coordinates u, v."""
    font = ImageFont.load_default(size=int(pick(rng, [18, 22, 26])))
    text = words(rng, 1 if half_u > 2.2 * half_v else int(rng.integers(1, 4)))
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (4, 4))).multiline_textbbox(
        (0, 0), text, font=font
    )
    card = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
    ImageDraw.Draw(card).multiline_text((2 - left, 2 - top), text, fill=255, font=font, align="center")
    ink = np.asarray(card, dtype=np.float32) * np.float32(1 / 255)
    scale = min(2 * half_u / ink.shape[1], 2 * half_v / ink.shape[0])
    column = u / np.float32(scale) + np.float32(ink.shape[1] / 2)
    row = v / np.float32(scale) + np.float32(ink.shape[0] / 2)
    inside = (column >= 0) & (row >= 0) & (column < ink.shape[1] - 1) & (row < ink.shape[0] - 1)
    result = np.zeros(u.shape, dtype=np.float32)
    r, c = row[inside], column[inside]
    i, j = r.astype(np.int32), c.astype(np.int32)
    tr, tc = r - i, c - j
    upper = ink[i, j] * (1 - tc) + ink[i, j + 1] * tc
    lower = ink[i + 1, j] * (1 - tc) + ink[i + 1, j + 1] * tc
    result[inside] = upper * (1 - tr) + lower * tr
    return result
