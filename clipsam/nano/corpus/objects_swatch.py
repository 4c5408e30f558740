"""Any surface cut to a shape: swatches, discs, rings, plates and lumps of cloth, wood, stone, metal on
some ground.

Input: a generator and a size. Output: a `Part` of kind "object" that borrows its skin from a surface family.
It does not know of defects or the camera.
"""

from __future__ import annotations

import numpy as np

from clipsam.nano.corpus.canvas import Place, any_colour, gloss, place, random_light, shading
from clipsam.nano.corpus.noise import Field, chance, pick, smooth
from clipsam.nano.corpus.part import Part
from clipsam.nano.corpus.scene import backdrop, shadow
from clipsam.nano.corpus.shapes import blob, box, cover, dome, ellipse, legend, polygon
from clipsam.nano.corpus.surfaces import SURFACES

# Skins; the families held out for validation are not among them.
SKINS = (
    "woven", "knitted", "carpet", "leather", "wood", "fibre_board", "paper", "felt", "striped_cloth",
    "random_texture", "brushed", "rolled", "ground", "cast", "turned_face", "perforated", "embossed",
    "grainy_strip", "foil", "terrazzo", "marble", "concrete", "cobbles", "printed", "foam", "glazed",
    "orange_peel", "rubber", "layered",
)  # fmt: skip
GROUNDS = (
    "wood",
    "woven",
    "paper",
    "brushed",
    "concrete",
    "glazed",
    "rubber",
    "felt",
    "marble",
    "random_texture",
)


def outline(rng: np.random.Generator, at: Place, half: float) -> Field:
    """Signed distance [H, W] of a random shape of half-sizes `at.size` and `half`."""
    shape = pick(rng, ["box", "box", "round", "polygon", "ring", "blob", "frame"])
    if shape == "round":
        return ellipse(at.u, at.v, at.size, half)
    if shape == "polygon":
        return polygon(at.u, at.v, int(rng.integers(3, 9)), at.size * 0.8)
    if shape == "ring":
        radius = at.radius
        return np.maximum(radius - np.float32(at.size), np.float32(at.size * rng.uniform(0.2, 0.7)) - radius)
    if shape == "blob":
        return blob(rng, at.u, at.v * np.float32(at.size / half), at.size * 0.9, rng.uniform(0.02, 0.2))
    corner = half * pick(rng, [0.02, 0.1, 0.3, 1.0])
    outer = box(at.u, at.v, at.size, half, corner)
    if shape == "frame":
        inner = box(at.u, at.v, at.size - half * 0.35, half * 0.65, corner * 0.7)
        return np.maximum(outer, -inner)
    return outer


def swatch(rng: np.random.Generator, height: int, width: int) -> Part:
    """A piece of a surface with its own outline, rounded or sharp rim, shadow, now and then a print or
    holes."""
    canvas = backdrop(rng, height, width)
    if chance(rng, 0.3):
        under = SURFACES[pick(rng, GROUNDS)](rng, height, width)
        canvas.pixels[:] = under.image.transpose(2, 0, 1) * np.float32(rng.uniform(0.5, 1))
    skin = SURFACES[pick(rng, SKINS)](rng, height, width)
    aspect = pick(rng, [1.0, 1.0, rng.uniform(1, 2.5)])
    at = place(rng, height, width, (0.3, 0.49), aspect=aspect, cut=0.2)
    half = at.size / aspect
    distance = outline(rng, at, half)
    distance = distance + np.float32(rng.uniform(0, 0.01) * half) * smooth(rng, height, width, half * 0.2)
    canvas.solid = distance < 0
    before = canvas.pixels.copy()
    shadow(rng, canvas, distance, half)
    body = cover(distance, rng.uniform(1, 2.5))
    light = random_light(rng)
    relief = dome(distance, half * pick(rng, [0.02, 0.08, 0.3, 0.9])) * np.float32(rng.uniform(0.4, 1))
    canvas.paint(body, skin.image.transpose(2, 0, 1))
    canvas.shade(1 + body * (shading(relief, light, 0.7) - 1))
    canvas.glow(body * gloss(relief, light, 0.7, 30) * np.float32(rng.uniform(0, 0.2)))
    if chance(rng, 0.25):
        canvas.piece("print", legend(rng, at.u, at.v, at.size * 0.5, half * 0.3) * body, any_colour(rng, 0.8))
    if chance(rng, 0.25):
        radius = half * rng.uniform(0.05, 0.14)
        for side in (-1, 1) if chance(rng, 0.6) else (1,):
            u = at.u - np.float32(side * at.size * 0.75)
            hole = np.sqrt(u * u + at.v * at.v) - np.float32(radius)
            canvas.piece("hole", cover(hole) * body, before)
            canvas.solid &= hole > 0
    names = pick(
        rng,
        [
            ("part", "component", "workpiece"),
            ("sample", "piece", "swatch"),
            (skin.product, *skin.names[1:2], "object"),
        ],
    )
    return canvas.finish(names, "object", light, relief)
