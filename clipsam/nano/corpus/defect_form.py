"""Defects of the body itself: hole, dent, deformation, wear, uneven surface, missing part, misplaced part.

Each function takes (rng, part, size in px) and returns (picture float32 [H, W, 3], mask bool [H, W]), or None
where it does not fit. It does not know captions or how often a type is drawn; broken parts are in
defect_broken.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from clipsam.nano.corpus.defect_blend import Change, blend, contrast_to, hue, outline
from clipsam.nano.corpus.defect_shapes import (
    Floats,
    Patch,
    Rng,
    at_border,
    behind,
    blob,
    blur,
    edge_pixels,
    inside,
    loguniform,
    noise,
    patch_at,
    shading,
    smoothed,
    soft,
    stroke,
    strongest,
    wander,
)

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part, Piece


def everywhere(shape: tuple[int, int]) -> Patch:
    """The window that is the whole picture, with distances from its upper left corner."""
    yy = np.arange(shape[0], dtype=np.float32)[:, None]
    xx = np.arange(shape[1], dtype=np.float32)[None, :]
    return Patch(slice(0, shape[0]), slice(0, shape[1]), yy, xx)


def hole(rng: Rng, part: Part, size: float) -> Change | None:
    """A puncture or tear: dark (or the background) inside, with a rim that catches light and shadow."""
    spot = inside(rng, part)
    if spot is None:
        return None
    size = min(max(size, 3.0), 0.35 * min(part.solid.shape))
    patch = patch_at(part.solid.shape, *spot, size + 4)
    torn = rng.random() < 0.45
    field = blob(
        rng,
        patch,
        size / 2.4,
        roughness=rng.uniform(0.5, 1.2) if torn else rng.uniform(0, 0.15),
        stretch=loguniform(rng, 1, 2.2 if torn else 1.4),
    )
    cover = soft(field, 1.0) * part.solid[patch.window]
    before = part.image[patch.window]
    rim = (
        np.exp(-((np.minimum(field, 0) / max(0.8, 0.08 * size)) ** 2)).astype(np.float32)
        * part.solid[patch.window]
    )
    slope = np.clip(shading(part, -blur(cover, 0.8 + size / 30) * max(1.0, size / 12)), -1, 1)
    raised = (
        before * (1 + rng.uniform(0.2, 0.7) * slope * rim)[..., None]
        + rng.uniform(-0.1, 0.2) * rim[..., None]
    )
    if rng.random() < 0.25 and not part.solid.all():
        inner: Floats = behind(part)[patch.window] * np.float32(rng.uniform(0.5, 1))
    else:
        tone = before.mean(axis=(0, 1)) * rng.uniform(0.05, 0.35) + rng.uniform(0, 0.06)
        inner = np.broadcast_to(tone.astype(np.float32), before.shape)
    wall = np.clip(shading(part, -blur(cover, 1.0)) * 0.5, -0.3, 0.5)
    after = blend(raised, np.clip(inner + (wall * cover)[..., None] * 0.5, 0, 1), cover)
    return outline(part, patch, after, (cover > 0.25) | (rim > 0.6))


def dent(rng: Rng, part: Part, size: float) -> Change | None:
    """A hollow or a bump without a change of matter: one side lit, the other dark, sometimes a highlight."""
    spot = at_border(rng, part) if rng.random() < 0.15 else inside(rng, part)
    if spot is None:
        return None
    size = max(size, 5.0)
    patch = patch_at(part.solid.shape, *spot, 0.9 * size + 3)
    field = blob(rng, patch, size / 2.3, roughness=rng.uniform(0, 0.5), stretch=loguniform(rng, 1, 2.5))
    steep = rng.uniform(0.15, 0.6) * size
    depth = np.clip(field / steep, 0, 1)
    depth = depth * depth * (3 - 2 * depth)
    slope = shading(part, blur(-depth * rng.choice([1, 1, 1, -1]), 0.6)) * steep
    slope = slope / max(float(np.abs(slope).max()), 1e-3) * part.solid[patch.window]
    before = part.image[patch.window]
    strength = loguniform(rng, 0.15, 0.75)
    after = before * (1 + strength * slope)[..., None] + 0.12 * strength * slope[..., None]
    if rng.random() < 0.35:
        after = after + (np.maximum(slope, 0) ** 6 * rng.uniform(0.1, 0.7))[..., None]
    if rng.random() < 0.4:
        after = after * (1 - 0.25 * strength * depth * part.solid[patch.window])[..., None]
    return outline(part, patch, after, (depth > 0.05) & part.solid[patch.window])


def deformation(rng: Rng, part: Part, size: float) -> Change | None:
    """The part bent, squeezed or bulged locally: the picture itself is warped, outline and all."""
    border = at_border(rng, part) if rng.random() < 0.75 else None
    spot = border or inside(rng, part)
    if spot is None:
        return None
    if border is None and rng.random() < 0.6:
        return None  # within a face only coarse structure shows the bend, so most tries would be unseen
    size = max(size, 16.0)
    patch = patch_at(part.solid.shape, *spot, 0.75 * size)
    field = np.clip(1 - np.hypot(patch.yy, patch.xx) / (0.72 * size), 0, 1)
    pull = field * field * (3 - 2 * field)
    kind, amount = rng.random(), size * rng.uniform(0.1, 0.28)
    if kind < 0.6:
        turn = rng.uniform(0, 6.3)
        dy, dx = amount * np.sin(turn) * pull, amount * np.cos(turn) * pull
    elif kind < 0.8:  # swirl
        spin = rng.choice([-1, 1]) * rng.uniform(0.4, 1.1) * pull
        dy, dx = (
            patch.yy * (np.cos(spin) - 1) + patch.xx * np.sin(spin),
            patch.xx * (np.cos(spin) - 1) - patch.yy * np.sin(spin),
        )
    else:  # waves
        dy, dx = (
            pull * amount * 0.6 * np.clip(noise(rng, patch.shape, max(4.0, size / 4)), -2, 2)
            for _ in range(2)
        )
    rows = patch.rows.start + np.arange(patch.shape[0])[:, None] + dy
    cols = patch.cols.start + np.arange(patch.shape[1])[None, :] + dx
    at = np.stack([rows, cols])
    after = np.stack(
        [ndimage.map_coordinates(part.image[..., c], at, order=1, mode="nearest") for c in range(3)], axis=2
    )
    bent = shading(part, blur(pull * amount * rng.choice([-0.5, 0.5]), 1)) * rng.uniform(
        0 if border else 0.4, 0.8
    )
    after = after * (1 + bent * part.solid[patch.window])[..., None]
    # What moves within an even texture looks the same as before: only moved structure is a visible change.
    before = part.image[patch.window]
    change = blur(strongest(np.abs(blur(after, 2.5) - blur(before, 2.5))), max(1.5, size / 12))
    return outline(part, patch, after, (np.hypot(dy, dx) > 1.0) & (change > 0.03))


def wear(rng: Rng, part: Part, size: float) -> Change | None:
    """Rubbed, frayed or abraded: fine parallel marks, a rubbed-off coat, or an outline gone ragged."""
    border = at_border(rng, part)
    if border is not None and rng.random() < 0.45:
        return _frayed(rng, part, size, border)
    spot = border if border is not None and rng.random() < 0.4 else inside(rng, part)
    if spot is None:
        return None
    size = max(size, 8.0)
    patch = patch_at(part.solid.shape, *spot, 0.8 * size + 3)
    field = blob(rng, patch, size / 2.3, roughness=0.6, stretch=loguniform(rng, 1, 3))
    cover = soft(field, 0.3 * size) * part.solid[patch.window]
    before = part.image[patch.window]
    step = contrast_to(rng, float(before.mean()), 0.1, 0.45)
    if rng.random() < 0.6:
        cover = cover * np.clip(0.35 + 0.6 * streaks(rng, patch.shape, rng.uniform(0, np.pi)), 0, 1)
    else:
        cover = (
            soft(field / max(2.0, 0.3 * size) + 0.6 * noise(rng, patch.shape, max(1.5, size / 10), 3), 0.4)
            * cover
        )
    after = before + (step * cover)[..., None]
    change = outline(part, patch, after, (cover > 0.15) & (field > 0))
    if change is not None:
        change[1][patch.window] |= ndimage.binary_closing(change[1][patch.window], iterations=3)
    return change


def _frayed(rng: Rng, part: Part, size: float, spot: tuple[float, float]) -> Change | None:
    patch = patch_at(part.solid.shape, *spot, 0.6 * size + 4)
    near = np.clip(1.2 - np.hypot(patch.yy, patch.xx) / (0.6 * size), 0, 1)
    edge = blur(edge_pixels(part.solid)[patch.window].astype(np.float32), max(1.0, size / 18))
    edge = edge / max(float(edge.max()), 1e-3)
    ragged = np.clip(noise(rng, patch.shape, rng.uniform(1.3, 3.0), 2) * 0.7 + 0.5, 0, 1)
    cover = np.clip(edge * near * ragged * 2.2, 0, 1)
    under = behind(part)[patch.window]
    solid = part.solid[patch.window]
    before = part.image[patch.window]
    bare = np.clip(before.mean(axis=(0, 1)) + contrast_to(rng, float(before.mean()), 0.15, 0.5), 0, 1)
    loss = rng.random() < 0.5
    inner = under if loss else np.broadcast_to(bare.astype(np.float32), before.shape)
    after = blend(before, inner, cover * solid)
    if rng.random() < 0.5:  # fibres or burrs stand out over the background
        after = blend(after, bare.astype(np.float32), cover * ~solid * rng.uniform(0.3, 0.9))
    return outline(part, patch, after, cover > 0.2)


def streaks(rng: Rng, shape: tuple[int, int], angle: float) -> Floats:
    """Fine parallel streaks [h, w] along `angle`, about standard normal."""
    side = int(np.hypot(*shape)) + 4
    if angle % (np.pi / 2) == 0:  # along the picture's axes nothing needs to be turned
        flat = angle % np.pi == 0
        own = noise(rng, (shape[0] if flat else shape[1], 1), 1.0)
        return np.broadcast_to(own if flat else own.T, shape)
    lines = noise(rng, (side, max(4, side // 24 + 2)), 1.0)
    canvas = np.repeat(lines, -(-side // lines.shape[1]), axis=1)[:, :side]
    turned = ndimage.rotate(canvas, -np.degrees(angle), reshape=False, order=1, mode="reflect")
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    return np.asarray(turned[top : top + shape[0], left : left + shape[1]], np.float32)


def uneven_surface(rng: Rng, part: Part, size: float) -> Change | None:
    """A zone of other texture, brightness or grain: unground, rough or over-polished; often large."""
    patch = everywhere(part.solid.shape)
    height, width = part.solid.shape
    size = max(size, 0.12 * min(height, width))
    if (
        rng.random() < 0.55
    ):  # everything beyond a nearly straight border, which mostly follows the picture's axes
        angle = rng.choice([0, 0.5, 1, 1.5]) * np.pi + rng.normal(0, 0.06 if rng.random() < 0.75 else 0.6)
        along = np.cos(angle) * patch.xx + np.sin(angle) * patch.yy
        keep = along[part.solid]
        if keep.size == 0:
            return None
        field = along - np.quantile(keep[:: max(1, keep.size // 500)], rng.uniform(0.5, 0.93))
        field = field + rng.uniform(0, 0.03 * height) * noise(rng, patch.shape, height / 5, 2)
    else:
        spot = inside(rng, part)
        if spot is None:
            return None
        near = Patch(patch.rows, patch.cols, patch.yy - np.float32(spot[0]), patch.xx - np.float32(spot[1]))
        field = blob(rng, near, size / 1.8, roughness=0.5, stretch=loguniform(rng, 1, 2.5))
    cover = soft(field, loguniform(rng, 1.0, 0.12 * min(height, width))) * part.solid
    mask_at = cover > 0.4
    if mask_at.sum() > 0.7 * part.solid.sum():
        return None
    before = part.image
    coarse = smoothed(before, int(rng.integers(3, 9)))
    level = float(before[::4, ::4].mean())
    gain = np.exp(rng.choice([-1, 1]) * loguniform(rng, 0.06, 0.5))
    zone = (coarse + (before - coarse) * rng.choice([0.0, 0.4, 1.0, 1.6])) * gain
    texture = loguniform(rng, 0.01, 0.12) * (0.4 + level)
    grain = (
        streaks(rng, patch.shape, rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)]))
        if rng.random() < 0.55
        else noise(rng, patch.shape, rng.uniform(1, 5), 2)
    )
    after = blend(before, (zone + (texture * grain)[..., None]).astype(np.float32), cover)
    change = outline(part, patch, after, mask_at)
    if change is None or change[1].sum() < 0.3 * mask_at.sum():
        return None
    return change[0], mask_at


def _removable(rng: Rng, part: Part) -> Piece | None:
    pieces = [p for p in part.pieces if p.without is not None and p.mask.sum() > 5]
    return pieces[int(rng.integers(len(pieces)))] if pieces else None


def missing_part(rng: Rng, part: Part, size: float) -> Change | None:
    """A piece that belongs to the part is not there; None for parts that are made in one piece."""
    piece = _removable(rng, part)
    if piece is None or piece.without is None:
        return None
    support = ndimage.binary_dilation(piece.mask, iterations=2)
    local = np.where(blur(support.astype(np.float32), 0.5)[..., None] > 0.05, piece.without, part.image)
    return outline(part, everywhere(part.solid.shape), local, support)


def misplaced_part(rng: Rng, part: Part, size: float) -> Change | None:
    """A piece shifted, turned, or mirrored out of its place; None for parts that are made in one piece."""
    piece = _removable(rng, part)
    if piece is None or piece.without is None:
        return None
    ys, xs = np.flatnonzero(piece.mask.any(axis=1)), np.flatnonzero(piece.mask.any(axis=0))
    tall, wide = ys[-1] + 1 - ys[0], xs[-1] + 1 - xs[0]
    spare = int(0.3 * max(tall, wide)) + 3
    top, left = max(0, ys[0] - spare), max(0, xs[0] - spare)
    window = slice(top, ys[-1] + 1 + spare), slice(left, xs[-1] + 1 + spare)
    cover, body = blur(piece.mask[window].astype(np.float32), 0.5), part.image[window]
    kind = rng.random()
    if kind < 0.4:
        turn = rng.choice([-1, 1]) * rng.uniform(12, 180)
        cover = ndimage.rotate(cover, turn, reshape=False, order=1)
        body = ndimage.rotate(body, turn, reshape=False, order=1, mode="nearest")
    elif kind < 0.5:
        cover, body = cover[:, ::-1], body[:, ::-1]
    shift = (
        rng.normal(0, 0.25, size=2) * (tall, wide)
        if kind > 0.4
        else rng.normal(0, 0.05, size=2) * (tall, wide)
    )
    dy, dx = (int(np.sign(s) * max(abs(s), 2)) for s in shift)
    image = np.asarray(piece.without, np.float32).copy()
    rows = slice(max(0, top + dy), min(image.shape[0], top + dy + cover.shape[0]))
    cols = slice(max(0, left + dx), min(image.shape[1], left + dx + cover.shape[1]))
    inner = (
        slice(rows.start - top - dy, rows.stop - top - dy),
        slice(cols.start - left - dx, cols.stop - left - dx),
    )
    image[rows, cols] = blend(image[rows, cols], body[inner], cover[inner])
    support = ndimage.binary_dilation(piece.mask, iterations=2)
    support[rows, cols] |= cover[inner] > 0.2
    local = np.where(support[..., None], image, part.image)
    return outline(part, everywhere(part.solid.shape), local, support)


def burr(rng: Rng, part: Part, size: float) -> Change | None:
    """A thin sliver of the part's own matter that stands out of its outline; None where it has none."""
    spot = at_border(rng, part)
    if spot is None:
        return None
    patch = patch_at(part.solid.shape, *spot, size)
    line = wander(rng, *spot, rng.uniform(0, 6.3), size, bend=0.6, roughness=0.5)
    cover = stroke(patch, [line], [max(1.5, size * rng.uniform(0.05, 0.2))]) * ~part.solid[patch.window]
    near = part.image[patch.window][part.solid[patch.window]]
    colour = near.mean(axis=0) if near.size else hue(rng)
    return outline(part, patch, blend(part.image[patch.window], colour, cover), cover > 0.25)
