"""Matter and colour where none belongs: stain, discolouration, contamination, glue, bubble, corrosion,
misprint.

Each function takes (rng, part, size in px) and returns (picture float32 [H, W, 3], mask bool [H, W]), or None
where it does not fit. It does not know captions or how often a type is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from clipsam.nano.corpus.defect_blend import Change, blend, contrast_to, dirt, hue, outline, tint
from clipsam.nano.corpus.defect_lines import hair
from clipsam.nano.corpus.defect_shapes import (
    Bools,
    Floats,
    Patch,
    Rng,
    at_border,
    blob,
    blur,
    inside,
    light_direction,
    loguniform,
    noise,
    patch_at,
    shading,
    soft,
    stroke,
    wander,
)

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part


def _spot(rng: Rng, part: Part, size: float, reach: float = 0.8) -> Patch | None:
    """A window for a lump of `size` px across, somewhere on the part."""
    spot = inside(rng, part)
    return None if spot is None else patch_at(part.solid.shape, *spot, reach * size + 3)


def drops(rng: Rng, patch: Patch, size: float, count: int) -> Floats:
    """Signed distance (px) to the union of `count` discs strewn over the window, of very unequal sizes."""
    field = np.full(patch.shape, -1e3, np.float32)
    for _ in range(count):
        y, x = rng.normal(0, size * 0.22, size=2)
        radius = loguniform(rng, 0.7, max(1.0, size * 0.12))
        field = np.maximum(field, radius - np.hypot(patch.yy - y, patch.xx - x))
    return field.astype(np.float32)


def stain(rng: Rng, part: Part, size: float) -> Change | None:
    """A spot of dried or fresh liquid: a film, with a darker rim at times, a ring, or a spray of drops."""
    patch = _spot(rng, part, size)
    if patch is None:
        return None
    kind = rng.random()
    if kind < 0.15:
        field = drops(rng, patch, size, int(rng.integers(3, 14)))
    else:
        field = blob(rng, patch, size / 2.4, roughness=rng.uniform(0.05, 0.6), stretch=loguniform(rng, 1, 3))
    cover = soft(field, loguniform(rng, 0.8, 1 + size / 4))
    if size > 12 and rng.random() < 0.4:
        cover *= np.clip(0.75 + 0.3 * noise(rng, patch.shape, size / 4, 2), 0.2, 1)
    if kind > 0.7:  # evaporation leaves a rim
        rim = np.exp(-((field / max(1.0, size * rng.uniform(0.02, 0.06))) ** 2)).astype(np.float32)
        cover = np.clip(cover * rng.uniform(0, 0.6) + rim, 0, 1)
    cover = cover * part.solid[patch.window]
    before = part.image[patch.window]
    strength = loguniform(rng, 0.25, 1.0)
    colour = dirt(rng) if rng.random() < 0.6 else hue(rng, rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9))
    if rng.random() < 0.75 and before.mean() > 0.12:
        after = tint(before, np.clip(colour + 0.1, 0.05, 1), cover * strength)
    else:
        after = blend(before, np.maximum(colour, before.mean() + 0.1), cover * 0.7 * strength)
    return outline(part, patch, after, cover > 0.12)


def discolouration(rng: Rng, part: Part, size: float) -> Change | None:
    """A region, soft or sharp, whose hue or brightness is off while its texture stays."""
    size = max(size, 10.0)
    patch = _spot(rng, part, size)
    if patch is None:
        return None
    field = blob(rng, patch, size / 2.2, roughness=rng.uniform(0.1, 0.5), stretch=loguniform(rng, 1, 2.5))
    cover = soft(field, rng.uniform(0.1, 0.7) * size) * part.solid[patch.window]
    cover *= np.clip(0.85 + 0.2 * noise(rng, patch.shape, max(2.0, size / 5), 2), 0, 1)
    gain = np.exp(rng.normal(0, 0.35, size=3) + rng.choice([-0.35, 0.0, 0.3]))
    if rng.random() < 0.3:
        gain = np.full(3, rng.choice([rng.uniform(0.4, 0.8), rng.uniform(1.2, 1.7)]))
    before = part.image[patch.window]
    after = tint(before, np.clip(gain, 0.25, 2.2).astype(np.float32), cover)
    if rng.random() < 0.2:  # bleached or faded
        after = blend(before, before.mean(axis=2, keepdims=True) * 0.7 + 0.25, cover)
    return outline(part, patch, after, cover > 0.22)


def cavity(rng: Rng, part: Part, size: float) -> Change | None:
    """A hollow piece of the part filled with a cloudy, mostly brownish liquid or powder."""
    hollow = [p.mask for p in part.pieces if 60 < p.mask.sum() < 0.45 * part.solid.size]
    if not hollow:
        return None
    mask: Bools = hollow[int(rng.integers(len(hollow)))]
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    rows, cols = slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1)
    shape = ys[-1] + 1 - ys[0], xs[-1] + 1 - xs[0]
    patch = Patch(rows, cols, np.zeros((shape[0], 1), np.float32), np.zeros((1, shape[1]), np.float32))
    before = part.image[patch.window]
    colour: NDArray[Any] = np.array([1, rng.uniform(0.6, 0.8), rng.uniform(0.3, 0.55)]) * rng.uniform(
        0.2, 0.6
    )
    if rng.random() < 0.25:
        colour = hue(rng)
    cloudy = np.clip(1 + 0.18 * noise(rng, shape, max(3.0, min(shape) / 3), 3), 0.5, 1.5)
    level = blur(mask[patch.window].astype(np.float32), 1.0) * rng.uniform(0.6, 0.95)
    after = blend(before, (colour * cloudy[..., None]).astype(np.float32), level)
    return outline(part, patch, after, mask[patch.window])


def specks(rng: Rng, part: Part, size: float) -> Change | None:
    """Dust, crumbs or chips: many small grains of one matter, strewn close together."""
    patch = _spot(rng, part, size)
    if patch is None:
        return None
    field = drops(rng, patch, size, int(np.clip(size / 2, 2, 25)))
    field += rng.uniform(0, 0.6) * noise(rng, patch.shape, 1.5)
    cover = soft(field, 1.0) * part.solid[patch.window]
    before = part.image[patch.window]
    colour = dirt(rng) if rng.random() < 0.7 else hue(rng)
    grain = np.clip(1 + 0.2 * noise(rng, patch.shape, 2), 0.5, 1.5)[..., None]
    return outline(part, patch, blend(before, (colour * grain).astype(np.float32), cover), cover > 0.25)


def lump(rng: Rng, part: Part, size: float) -> Change | None:
    """A foreign body lying on the part: a crumb, chip or blob with its own colour, relief and cast shadow."""
    spot = at_border(rng, part) if rng.random() < 0.15 else inside(rng, part)
    if spot is None:
        return None
    patch = patch_at(part.solid.shape, *spot, size + 3)
    field = blob(rng, patch, size / 2.5, roughness=rng.uniform(0.2, 1), stretch=loguniform(rng, 1, 3))
    cover = soft(field, 1.0)
    before = part.image[patch.window]
    dy, dx = light_direction(part)
    throw = min(6.0, 0.1 * size + 0.7)
    shadow = ndimage.shift(blur(cover, 0.5 + throw / 3), (-dy * throw, -dx * throw), order=1)
    dome = np.sqrt(np.maximum(field, 0) * max(size, 2.0) / 2) + 0.4 * noise(
        rng, patch.shape, max(2.0, size / 6), 2
    )
    colour = dirt(rng) if rng.random() < 0.5 else hue(rng)
    body = colour * (1 + 0.6 * np.clip(shading(part, dome.astype(np.float32)), -1.2, 1.2))[..., None]
    after = blend(before * (1 - rng.uniform(0.1, 0.6) * shadow)[..., None], np.clip(body, 0, 1), cover)
    return outline(part, patch, after, cover > 0.3)


def smear(rng: Rng, part: Part, size: float) -> Change | None:
    """A dirty wipe mark: a broad streaky band of film."""
    spot = inside(rng, part)
    if spot is None:
        return None
    patch = patch_at(part.solid.shape, *spot, 0.8 * size + 4)
    line = wander(rng, *spot, rng.uniform(0, 6.3), size, bend=0.5, roughness=0.1)
    cover = blur(stroke(patch, [line], [max(2.0, size * rng.uniform(0.08, 0.3))]), 0.6 + size / 40)
    cover = (
        cover
        * np.clip(0.7 + 0.5 * noise(rng, patch.shape, max(1.5, size / 14), 2), 0, 1)
        * part.solid[patch.window]
    )
    before = part.image[patch.window]
    after = blend(before, dirt(rng), cover * loguniform(rng, 0.2, 0.9))
    return outline(part, patch, after, cover > 0.15)


def contamination(rng: Rng, part: Part, size: float) -> Change | None:
    """Foreign matter of any kind: hair, dust, crumb, smear, or a liquid that fills a hollow of the part."""
    if rng.random() < 0.3:
        filled = cavity(rng, part, size)
        if filled is not None:
            return filled
    kinds = (hair, specks, lump, smear)
    return kinds[int(rng.choice(4, p=(0.13, 0.27, 0.38, 0.22)))](rng, part, size)


def glue(rng: Rng, part: Part, size: float) -> Change | None:
    """A raised, glossy, more or less clear blob or bead with a sharp highlight and a darker rim."""
    spot = at_border(rng, part) if rng.random() < 0.2 else inside(rng, part)
    if spot is None:
        return None
    size = max(size, 6.0)
    patch = patch_at(part.solid.shape, *spot, 0.9 * size + 3)
    if rng.random() < 0.35:
        line = wander(rng, *spot, rng.uniform(0, 6.3), size, bend=0.8, roughness=0.1)
        wide = max(2.0, size * rng.uniform(0.08, 0.25))
        field = (blur(stroke(patch, [line], [wide]), wide / 4) - 0.4) * wide
    else:
        field = blob(rng, patch, size / 2.4, roughness=rng.uniform(0.2, 0.7), stretch=loguniform(rng, 1, 2.5))
    cover = soft(field, 1.2) * part.solid[patch.window]
    dome = blur(np.sqrt(np.clip(field, 0, size / 4)) * np.sqrt(size) * 0.4, 0.8)
    slope = shading(part, dome)
    gloss = np.exp(-(((slope - rng.uniform(0.3, 0.6)) / 0.16) ** 2)) * rng.uniform(0.2, 0.9)
    before = part.image[patch.window]
    film = hue(rng, rng.uniform(0, 0.25), rng.uniform(0.6, 1.0)) * np.array(
        [1.0, 0.98, rng.uniform(0.7, 1.0)]
    )
    seen = blend(before, film.astype(np.float32), cover * loguniform(rng, 0.08, 0.8))
    after = seen * (1 + 0.3 * slope * cover)[..., None] + (gloss * cover)[..., None]
    after = after * (1 - rng.uniform(0.1, 0.4) * cover * (field < 1.5))[..., None]
    return outline(part, patch, after, cover > 0.3)


def bubble(rng: Rng, part: Part, size: float) -> Change | None:
    """Blisters with a highlight, or blowholes and pores: one, or a cluster."""
    spot = inside(rng, part)
    if spot is None:
        return None
    count = 1 if rng.random() < 0.5 else int(rng.integers(2, 10))
    patch = patch_at(part.solid.shape, *spot, 0.8 * size + 3)
    height = np.zeros(patch.shape, np.float32)
    cover = np.zeros(patch.shape, np.float32)
    for _ in range(count):
        radius = min(size, 60) / 2.2 if count == 1 else loguniform(rng, 0.9, max(1.2, size / 7))
        y, x = (0, 0) if count == 1 else rng.normal(0, size / 4, size=2)
        stretch = loguniform(rng, 1, 1.5)
        distance = radius - np.hypot((patch.yy - y) * stretch, (patch.xx - x) / stretch)
        cover = np.maximum(cover, soft(distance, 1.0))
        height = np.maximum(height, np.sqrt(np.maximum(distance, 0) * radius))
    cover = cover * part.solid[patch.window]
    before = part.image[patch.window]
    slope = np.clip(shading(part, blur(height, 0.6)), -1, 1)
    if rng.random() < 0.5:  # raised, and shiny on its crown
        gloss = np.exp(-(((slope - 0.45) / 0.18) ** 2)) * rng.uniform(0, 0.6)
        after = (
            before * (1 + loguniform(rng, 0.15, 0.6) * slope * cover)[..., None] + (gloss * cover)[..., None]
        )
    else:  # a hole in the cast: dark, lit on the far wall
        depth = rng.uniform(0.3, 0.95)
        after = before * (1 - depth * cover)[..., None] - (0.25 * slope * cover)[..., None] * before
    return outline(part, patch, after, cover > 0.25)


def corrosion(rng: Rng, part: Part, size: float) -> Change | None:
    """Rust or oxide: a ragged patch of mottled colour, or clusters of dark pits."""
    patch = _spot(rng, part, size, 0.9)
    if patch is None:
        return None
    field = blob(rng, patch, size / 2.4, roughness=0.9, stretch=loguniform(rng, 1, 3.5))
    pitted = rng.random() < 0.5
    grain = noise(rng, patch.shape, float(np.clip(size / 9, 1.4, 6)), 3)
    edge = max(2.0, 0.35 * size)
    cover = soft(field / edge + (0.55 if pitted else 0.35) * grain - (0.25 if pitted else 0), 0.35)
    cover = cover * soft(field + 0.2 * size, 1) * part.solid[patch.window]
    before = part.image[patch.window]
    rust: NDArray[Any] = np.array([1.0, rng.uniform(0.4, 0.75), rng.uniform(0.12, 0.5)]) * rng.uniform(
        0.2, 0.65
    )
    if pitted and rng.random() < 0.7:
        rust = before.mean(axis=(0, 1)) * rng.uniform(0.1, 0.5) * np.array([1.05, 1, 0.9])
    elif rng.random() < 0.15:
        rust = hue(rng, 0.4, 0.7)  # verdigris, white oxide
    mottled = rust * np.clip(1 + 0.3 * noise(rng, patch.shape, 1.6, 2), 0.3, 1.7)[..., None]
    after = blend(before, np.clip(mottled, 0, 1).astype(np.float32), cover * rng.uniform(0.5, 1))
    change = outline(part, patch, after, cover > 0.25)
    if change is not None and pitted:  # a person outlines the cluster, not every pit
        closed = ndimage.binary_closing(change[1][patch.window], iterations=2)
        change[1][patch.window] |= closed
    return change


def _print_masks(part: Part) -> list[Bools]:
    words = ("print", "label", "legend", "text", "logo", "marking", "letter", "number", "scale")
    return [p.mask for p in part.pieces if any(w in p.name for w in words) and p.mask.sum() > 12]


def _doubled(rng: Rng, part: Part, mask: Bools) -> Change | None:
    """A print gone wrong: shifted twice, smudged, faded or half gone."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    y, x = (ys[0] + ys[-1]) / 2, (xs[0] + xs[-1]) / 2
    patch = patch_at(part.solid.shape, y, x, max(ys[-1] - ys[0], xs[-1] - xs[0]) / 2 + 6)
    before = part.image[patch.window]
    area = blur(mask[patch.window].astype(np.float32), 0.7)
    if rng.random() < 0.5:
        dy, dx = rng.integers(-5, 6, size=2)
        ghost = np.roll(before, (dy, dx), axis=(0, 1))
        reach = ndimage.maximum_filter(np.maximum(area, np.roll(area, (dy, dx), axis=(0, 1))), 3)
        after = blend(before, before * (1 - 0.5) + ghost * 0.5, reach)
        return outline(part, patch, after, reach > 0.2)
    ground = np.median(before.reshape(-1, 3), axis=0).astype(np.float32)
    lost = soft(noise(rng, patch.shape, max(3.0, min(patch.shape) / 4)) * 2, 1.0) * area
    return outline(part, patch, blend(before, ground, lost * rng.uniform(0.5, 1)), lost > 0.2)


def misprint(rng: Rng, part: Part, size: float) -> Change | None:
    """A faulty print: doubled or faded where the part has one, else stray letters or smeared ink."""
    prints = _print_masks(part)
    if prints and rng.random() < 0.6:
        change = _doubled(rng, part, prints[int(rng.integers(len(prints)))])
        if change is not None:
            return change
    size = max(size, 8.0)
    patch = _spot(rng, part, size, 0.7)
    if patch is None:
        return None
    canvas = Image.new("L", (patch.shape[1], patch.shape[0]))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(float(np.clip(size * rng.uniform(0.25, 0.7), 7, 60)))
    text = "".join(rng.choice(list("ABEHKLMRSTX0123456789-+#/"), size=int(rng.integers(1, 6))))
    draw.text((canvas.width / 2, canvas.height / 2), text, fill=255, font=font, anchor="mm")
    ink = np.asarray(canvas.rotate(rng.uniform(-180, 180) if rng.random() < 0.5 else 0), np.float32) / 255
    if rng.random() < 0.6:  # dragged while wet
        ink = ndimage.uniform_filter1d(ink, int(max(2, size / 5)), axis=int(rng.integers(2))) * 1.6
    ink = np.clip(ink + np.roll(ink, rng.integers(-4, 5, size=2), axis=(0, 1)) * rng.choice([0, 0.7]), 0, 1)
    ink = (ink * part.solid[patch.window]).astype(np.float32)
    before = part.image[patch.window]
    colour = np.clip(before.mean(axis=(0, 1)) + contrast_to(rng, float(before.mean()), 0.2, 0.9), 0, 1)
    if rng.random() < 0.4:
        colour = hue(rng, 0.8)
    change = outline(part, patch, blend(before, colour.astype(np.float32), ink), ink > 0.12)
    if change is not None:  # a person marks the word, not its strokes
        change[1][patch.window] |= ndimage.binary_closing(change[1][patch.window], iterations=2)
    return change
