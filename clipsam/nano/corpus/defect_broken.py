"""Broken parts: a bite out of the outline, a part in two, shattered shards, a spalled face.

Each function takes (rng, part, size in px) and returns (picture float32 [H, W, 3], mask bool [H, W]), or None
where it does not fit. It does not know captions or how often a type is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from clipsam.nano.corpus.defect_blend import Change, blend, contrast_to, hue, outline
from clipsam.nano.corpus.defect_form import everywhere
from clipsam.nano.corpus.defect_shapes import (
    Bools,
    Floats,
    Patch,
    Rng,
    at_border,
    behind,
    blob,
    blur,
    inside,
    light_direction,
    loguniform,
    noise,
    patch_at,
    shading,
    soft,
    strongest,
    wiggle,
)

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part


def bite(rng: Rng, part: Part, size: float) -> Change | None:
    """A chunk gone from the outline: the background shows, along a rough fracture face."""
    spot = at_border(rng, part)
    if spot is None:
        return None
    size = max(size, 5.0)
    patch = patch_at(part.solid.shape, *spot, 1.3 * size + 4)
    field = blob(rng, patch, size / 2.1, roughness=rng.uniform(0.4, 1.2), stretch=loguniform(rng, 1, 3))
    if size > 10:
        field = field + 0.03 * size * noise(rng, patch.shape, max(1.5, size / 9), 2)
    solid = part.solid[patch.window]
    gone = soft(field, 0.9) * solid
    before = part.image[patch.window]
    band = max(1.0, size * rng.uniform(0.03, 0.16))
    fracture = np.exp(-((np.minimum(field, 0) / band) ** 2)).astype(np.float32) * solid
    level = float(before[solid].mean()) if solid.any() else 0.5
    face = before * rng.uniform(0.5, 1.0) + contrast_to(rng, level, 0.06, 0.4) * rng.choice([0, 1])
    face = face * (1 + 0.25 * noise(rng, patch.shape, 1.5, 2))[..., None]
    after = blend(blend(before, np.clip(face, 0, 1), fracture), behind(part)[patch.window], gone)
    return outline(part, patch, after, (gone > 0.3) | (fracture > 0.5))


def in_two(rng: Rng, part: Part, size: float) -> Change | None:
    """The part split along a ragged line, its halves moved apart; the mask is the gap that opened."""
    share = part.solid.mean()
    if not 0.03 < share < 0.85:
        return None
    patch = everywhere(part.solid.shape)
    height, width = part.solid.shape
    ys, xs = np.nonzero(part.solid[::4, ::4])
    cy, cx = 4 * rng.normal(ys.mean(), 0.4 * ys.std()), 4 * rng.normal(xs.mean(), 0.4 * xs.std())
    angle = rng.uniform(0, np.pi)
    reach = float(np.sqrt(part.solid.sum()))
    along = (patch.xx - cx) * np.cos(angle) + (patch.yy - cy) * np.sin(angle)
    across = (patch.yy - cy) * np.cos(angle) - (patch.xx - cx) * np.sin(angle)
    bend = wiggle(rng, 257, rng.uniform(0.3, 0.8)) * reach * rng.uniform(0.03, 0.12)
    index = np.clip((along / reach * 0.5 + 0.5) * 256, 0, 256)
    side = across - np.interp(index, np.arange(257), bend).astype(np.float32)
    gap = max(1.0, loguniform(rng, 0.015, 0.14) * reach)
    push = np.array([np.cos(angle), -np.sin(angle)]) * gap / 2
    twist = rng.normal(0, 0.03)
    image, filled = behind(part), np.zeros(part.solid.shape, bool)
    ground = image.copy()
    for sign in (-1, 1):
        half = part.solid & (np.sign(side) == sign)
        rows = patch.yy - sign * push[0] + sign * twist * (patch.xx - cx)
        cols = patch.xx - sign * push[1] - sign * twist * (patch.yy - cy)
        iy, ix = (
            np.clip(np.rint(rows), 0, height - 1).astype(int),
            np.clip(np.rint(cols), 0, width - 1).astype(int),
        )
        moved = half[iy, ix]
        image = np.where(moved[..., None], part.image[iy, ix], image)
        filled |= moved
    opened = ~filled & (np.abs(side) < 0.75 * gap + 0.03 * reach) & _between(part.solid, filled)
    rim = (filled ^ ndimage.binary_erosion(filled)) & (part.solid != filled)
    image = np.where((part.solid | filled)[..., None], image, part.image)
    image = np.where(ndimage.binary_dilation(rim)[..., None], blur(image, 0.6), image)  # soft as any outline
    if rng.random() < 0.6:
        image = _crumbs(rng, part, image, opened, reach)
    # The gap lies in the shade of its walls.
    image = image * (1 - rng.uniform(0.1, 0.5) * blur(opened.astype(np.float32), 0.8) * opened)[..., None]
    image = np.clip(image, 0, 1).astype(np.float32)
    opened = ndimage.binary_opening(opened) | (opened & (gap < 3))
    contrast = strongest(np.abs(ground - part.image))[opened]
    if opened.sum() < 6 or contrast.mean() < 0.05:
        return None
    return image, opened


def _between(solid: Bools, filled: Bools) -> Bools:
    """The pixels that the part covered, or that now lie between its halves."""
    return np.asarray(solid | ndimage.binary_closing(np.pad(filled, 8), iterations=6)[8:-8, 8:-8], bool)


def _crumbs(rng: Rng, part: Part, image: Floats, opened: Bools, reach: float) -> Floats:
    spots = np.flatnonzero(opened)
    if spots.size == 0:
        return image
    for at in rng.choice(spots, size=int(rng.integers(1, 9))):
        y, x = divmod(int(at), opened.shape[1])
        y, x = y + rng.normal(0, 0.06 * reach), x + rng.normal(0, 0.06 * reach)
        patch = patch_at(opened.shape, y, x, 5)
        cover = soft(blob(rng, patch, loguniform(rng, 0.6, 3.0), roughness=0.8), 1)
        colour = part.image[int(np.clip(y, 0, opened.shape[0] - 1)), int(np.clip(x, 0, opened.shape[1] - 1))]
        image[patch.window] = blend(image[patch.window], colour, cover)
    return image


def facets(rng: Rng, patch: Patch, before: Floats, size: float, gloss: float) -> Floats:
    """Broken faces [h, w, 3]: cells that tilt every way, each mirroring something else, a few of them
    glinting.
    """
    count = int(rng.integers(5, 26))
    span = np.array(patch.shape)
    seeds = rng.uniform(0, 1, size=(count, 2)) * span
    stretch = rng.uniform(1, 2.5)
    yy, xx = np.arange(span[0], dtype=np.float32)[:, None], np.arange(span[1], dtype=np.float32)[None, :]
    wobble = noise(rng, (int(span[0]), int(span[1])), max(2.0, size / 8), 2) * size / 45
    nearest = np.full(patch.shape, np.inf, np.float32)
    cell = np.zeros(patch.shape, np.int64)
    for k, (y, x) in enumerate(seeds):
        turn = k * 2.4
        a, b = (
            (xx - x) * np.cos(turn) + (yy - y) * np.sin(turn),
            (yy - y) * np.cos(turn) - (xx - x) * np.sin(turn),
        )
        distance = (a * a / stretch + b * b * stretch + wobble * wobble).astype(np.float32)
        closer = distance + wobble * 2 < nearest
        nearest = np.where(closer, distance + wobble * 2, nearest)
        cell[closer] = k
    own = before.reshape(-1, 3)
    tones = own[rng.integers(0, len(own), size=count)] * np.exp(rng.normal(-0.1, 0.45, size=(count, 1)))
    glint = rng.random(count) < gloss
    warm = np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.4, 1.0)])
    tones[glint] = warm * rng.uniform(0.6, 1.1, size=(int(glint.sum()), 1))
    slant = rng.normal(0, 0.5 / max(size, 8), size=(count, 2))
    tilt = slant[cell, 0] * (yy - seeds[cell, 0]) + slant[cell, 1] * (xx - seeds[cell, 1])
    ridges = np.abs(ndimage.laplace(cell.astype(np.float32))) > 0
    lined = tones[cell] * (1 + tilt)[..., None] + (rng.uniform(-0.2, 0.35) * ridges)[..., None]
    texture = 0.06 * noise(rng, (int(span[0]), int(span[1])), 1.5, 2)
    return np.clip(lined + texture[..., None], 0, 1).astype(np.float32)


def shards(rng: Rng, part: Part, size: float) -> Change | None:
    """Shattered: a zone, often an arc around the part's middle, of jagged splinters and bright facets."""
    size = max(size, 10.0)
    shape = part.solid.shape
    spot = inside(rng, part) if rng.random() < 0.6 else at_border(rng, part) or inside(rng, part)
    if spot is None:
        return None
    arc = _arc(rng, part, spot, size) if part.kind == "object" and rng.random() < 0.65 else None
    if arc is not None:
        patch, field = arc
    else:
        patch = patch_at(shape, *spot, 0.9 * size + 3)
        field = blob(rng, patch, size / 2.3, roughness=0.9, stretch=loguniform(rng, 1, 3.5))
    field = field + np.clip(noise(rng, patch.shape, max(2.0, size / 7), 2), -2, 2) * 0.06 * size
    cover = soft(field, 0.8) * part.solid[patch.window]
    before = part.image[patch.window]
    broken = facets(rng, patch, before, size, rng.uniform(0.02, 0.35))
    dy, dx = light_direction(part)
    shade = ndimage.shift(blur(cover, 1), (dy, dx), order=1)
    after = blend(before, broken * (0.75 + 0.25 * shade)[..., None], cover * rng.uniform(0.75, 1))
    edge = cover * (field < 1.6)
    after = after + (edge * rng.uniform(-0.3, 0.4))[..., None]
    return outline(part, patch, after, cover > 0.25)


def _arc(rng: Rng, part: Part, spot: tuple[float, float], size: float) -> tuple[Patch, Floats] | None:
    """A piece of the ring that runs through `spot` around the part's middle, as (window, signed distance)."""
    ys, xs = np.nonzero(part.solid[::4, ::4])
    cy, cx = 4 * ys.mean() + 1.5, 4 * xs.mean() + 1.5
    radius = float(np.hypot(spot[0] - cy, spot[1] - cx))
    if radius < 8:
        return None
    patch = patch_at(part.solid.shape, cy, cx, radius + size / 2)
    theta = np.arctan2(patch.yy, patch.xx) - np.arctan2(spot[0] - cy, spot[1] - cx)
    theta = np.abs((theta + np.pi) % (2 * np.pi) - np.pi)
    half = min(2.6, rng.uniform(0.4, 1.6) * size / radius)
    broad = np.clip(radius * rng.uniform(0.08, 0.3), 3, size / 2)
    ends = (half - theta) * radius
    field = np.minimum(
        broad * np.clip(ends / (0.6 * half * radius), 0.0, 1) ** 0.6
        - np.abs(np.hypot(patch.yy, patch.xx) - radius),
        ends,
    )
    return patch, field.astype(np.float32)


def spall(rng: Rng, part: Part, size: float) -> Change | None:
    """A flake gone from the face or from the frame's edge: rough inside, steep lit and shaded walls."""
    height, width = part.solid.shape
    if part.solid.all() and rng.random() < 0.5:  # the picture's frame is then likely the part's edge
        along = rng.uniform(0, 1)
        spot: tuple[float, float] | None = (
            (along * (height - 1), rng.choice([0.0, width - 1.0]))
            if rng.random() < 0.5
            else (rng.choice([0.0, height - 1.0]), along * (width - 1))
        )
    else:
        spot = inside(rng, part)
    if spot is None:
        return None
    size = max(size, 5.0)
    patch = patch_at((height, width), *spot, 0.9 * size + 3)
    field = blob(rng, patch, size / 2.3, roughness=0.8, stretch=loguniform(rng, 1, 3))
    cover = soft(field, 0.9) * part.solid[patch.window]
    before = part.image[patch.window]
    rough = noise(rng, patch.shape, max(1.5, size / 10), 3) * 0.5
    slope = shading(
        part, (-blur(cover, 0.7 + size / 40) * max(1.5, size / 10) + rough * cover).astype(np.float32)
    )
    own = before.mean(axis=(0, 1))
    face = np.clip(own + contrast_to(rng, float(own.mean()), 0.05, 0.5), 0.01, 1)
    if rng.random() < 0.15:
        face = 0.7 * face + 0.3 * hue(rng)
    after = blend(before, (face * (1 + 0.12 * rough)[..., None]).astype(np.float32), cover)
    after = after * (1 + rng.uniform(0.2, 0.7) * np.clip(slope, -1, 1))[..., None]
    return outline(part, patch, after, cover > 0.25)


def broken(rng: Rng, part: Part, size: float) -> Change | None:
    """Any of bite, split, shatter or spall, as the part allows."""
    ways = [bite, in_two, shards, spall] if not part.solid.all() else [shards, spall]
    shares = np.array([0.28, 0.15, 0.42, 0.15] if len(ways) == 4 else [0.4, 0.6])
    for way in rng.choice(len(ways), size=len(ways), replace=False, p=shares):
        change = ways[int(way)](rng, part, size)
        if change is not None:
            return change
    return None
