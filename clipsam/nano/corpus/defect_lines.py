"""Line-like defects: scratch, crack, cut, thread and hair, wrinkle.

Each function takes (rng, part, size in px) and returns (picture float32 [H, W, 3], mask bool [H, W]), or None
where it does not fit. It does not know captions or how often a type is drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.nano.corpus.defect_blend import Change, blend, contrast_to, hue, outline
from clipsam.nano.corpus.defect_shapes import (
    Floats,
    Rng,
    around,
    at_border,
    blur,
    inside,
    light_direction,
    loguniform,
    outward,
    shading,
    stroke,
    wander,
    wiggle,
)

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part

Line = NDArray[np.float64]


def _place(rng: Rng, part: Part, border_share: float) -> tuple[float, float, float] | None:
    """(y, x, direction): inside the part in any direction, or from its border inwards."""
    border = at_border(rng, part) if rng.random() < border_share else None
    if border is not None:
        return *border, outward(part, *border) + np.pi + rng.normal(0, 0.5)
    spot = inside(rng, part)
    return None if spot is None else (*spot, rng.uniform(0, 2 * np.pi))


def scratch(rng: Rng, part: Part, size: float) -> Change | None:
    """One to several nearly straight, nearly parallel thin marks, brighter or darker than the ground, fading
    out.
    """
    place = _place(rng, part, 0.1)
    if place is None:
        return None
    y, x, angle = place
    size = max(size, 8.0)
    count = 1 if rng.random() < 0.5 else int(rng.integers(2, 7))
    spread = min(size, loguniform(rng, 2, 0.5 * size + 3))
    bend = rng.choice([0.03, 0.15, 0.5])
    lines, widths = [], []
    for _ in range(count):
        off = rng.normal(0, spread / 2, size=2) if count > 1 else (0.0, 0.0)
        turn = angle + rng.normal(0, 0.06 if rng.random() < 0.8 else 0.6)
        length = size * rng.uniform(0.4, 1) if count > 1 else size
        lines.append(wander(rng, y + off[0], x + off[1], turn, length, bend=bend, roughness=0.1))
        widths.append(loguniform(rng, 0.7, 1.2 + size / 40))
    patch = around(part.solid.shape, lines, 4)
    if patch is None:
        return None
    cover = stroke(patch, lines, widths) * part.solid[patch.window]
    before = part.image[patch.window]
    step = contrast_to(rng, float(before.mean()), 0.08, 0.6)
    pressure = np.clip(0.85 + 0.35 * wiggle(rng, cover.shape[1], 0.8)[None, :], 0.3, 1.2)
    after = before + (step * cover * pressure)[..., None]
    if rng.random() < 0.4:  # a groove catches the light on its far wall
        after += (0.5 * abs(step) * shading(part, -2 * blur(cover, 0.7)))[..., None]
    return outline(part, patch, after, cover > 0.2, fill=False)


def branching(
    rng: Rng, y: float, x: float, angle: float, length: float, depth: int
) -> list[tuple[Line, float]]:
    """A jagged line and its branches as (points, relative width)."""
    trunk = wander(rng, y, x, angle, length, bend=rng.uniform(0.2, 0.6), roughness=0.9)
    found = [(trunk, 1.0)]
    if depth > 0:
        for _ in range(int(rng.integers(0, 4))):
            at = trunk[int(rng.integers(1, len(trunk)))]
            turn = angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
            reach = length * rng.uniform(0.15, 0.5)
            start = at + 0.5 * reach * np.array([np.sin(turn), np.cos(turn)])
            found += [(p, 0.6 * w) for p, w in branching(rng, start[0], start[1], turn, reach, depth - 1)]
    return found


def crack(rng: Rng, part: Part, size: float) -> Change | None:
    """A jagged, tapering, often branching dark line with a bright lip; from the border or anywhere."""
    place = _place(rng, part, 0.4)
    if place is None:
        return None
    y, x, angle = place
    size = max(size, 10.0)
    tree = branching(rng, y, x, angle, size, int(rng.integers(0, 3)))
    thick = loguniform(rng, 0.8, 1.3 + size / 22)
    lines = [points for points, _ in tree]
    widths = [
        thick * w * np.linspace(1, 0.35, len(p)) * np.clip(1 + 0.4 * wiggle(rng, len(p), 1), 0.3, 2)
        for p, w in tree
    ]
    patch = around(part.solid.shape, lines, thick + 4)
    if patch is None:
        return None
    cover = stroke(patch, lines, cast(list[float | Floats], widths)) * part.solid[patch.window]
    before = part.image[patch.window]
    dark = before * rng.uniform(0.05, 0.55)
    if before.mean() < 0.12 or rng.random() < 0.08:  # on black parts, and in glass, a crack shines
        dark = np.clip(before + rng.uniform(0.15, 0.6), 0, 1)
    lip = shading(part, -blur(cover, 0.8)) * rng.uniform(0, 0.5)
    after = blend(before + (lip * part.solid[patch.window])[..., None], dark, cover)
    return outline(part, patch, after, cover > 0.15, fill=False)


def cut(rng: Rng, part: Part, size: float) -> Change | None:
    """A slit, widest in its middle, with dark inside, raised bright lips and sometimes frayed ends."""
    place = _place(rng, part, 0.3)
    if place is None:
        return None
    y, x, angle = place
    size = max(size, 8.0)
    line = wander(rng, y, x, angle, size, bend=rng.choice([0.02, 0.25]), roughness=0.15)
    thick = loguniform(rng, 1.2, 2 + size / 9)
    lens = thick * np.clip(np.sin(np.linspace(0.1, np.pi - 0.1, len(line))), 0.2, 1)
    patch = around(part.solid.shape, [line], 2 * thick + 4)
    if patch is None:
        return None
    solid = part.solid[patch.window]
    slit = stroke(patch, [line], [lens.astype(np.float32)]) * solid
    lips = (
        np.clip(blur(stroke(patch, [line], [(lens * 1.8 + 1.5).astype(np.float32)]), 0.8) - slit, 0, 1)
        * solid
    )
    before = part.image[patch.window]
    side = shading(part, blur(slit, 0.9 + thick / 4) * thick)
    raised = before + (lips * (rng.uniform(0.02, 0.2) - rng.uniform(0.1, 0.5) * side))[..., None]
    inner = before.mean(axis=(0, 1)) * rng.uniform(0.05, 0.4) + hue(rng, 0.3, 0.05)
    if rng.random() < 0.15:  # the lining shows
        inner = hue(rng, 0.4, rng.uniform(0.5, 0.9))
    after = blend(raised, inner.astype(np.float32), slit)
    return outline(part, patch, after, (slit > 0.15) | (lips > 0.45))


def fibre(rng: Rng, part: Part, size: float, thick: float, colour: Floats, curl: float) -> Change | None:
    """A curved fibre lying on the part with a soft shadow; it may hang over the part's border."""
    spot = inside(rng, part)
    if spot is None:
        return None
    lines = [wander(rng, *spot, rng.uniform(0, 6.3), size, bend=curl, roughness=0.05)]
    while rng.random() < 0.25 and len(lines) < 4:
        at = lines[0][int(rng.integers(len(lines[0])))]
        lines.append(
            wander(
                rng,
                at[0],
                at[1],
                rng.uniform(0, 6.3),
                size * rng.uniform(0.3, 0.9),
                bend=curl,
                roughness=0.05,
            )
        )
    patch = around(part.solid.shape, lines, thick + 6)
    if patch is None:
        return None
    cover = stroke(patch, lines, [thick] * len(lines))
    before = part.image[patch.window]
    dy, dx = light_direction(part)
    lift = rng.uniform(0.5, 1 + thick)
    fallen = ndimage.shift(blur(cover, 0.8 + 0.2 * thick), (-dy * lift, -dx * lift), order=1)
    shaded = before * (1 - rng.uniform(0.1, 0.5) * fallen[..., None])
    body = colour + 0.35 * shading(part, blur(cover, 0.7) * 2)[..., None]
    if thick > 2:  # the twist of the yarn
        body = body * (0.85 + 0.15 * np.sin((patch.xx + patch.yy) * 2.2 / thick * 2))[..., None]
    after = blend(shaded, np.clip(body, 0, 1).astype(np.float32), cover * rng.uniform(0.7, 1))
    return outline(part, patch, after, cover > 0.2, fill=False)


def thread(rng: Rng, part: Part, size: float) -> Change | None:
    """A loose thread or yarn, curved, of its own colour."""
    thick = loguniform(rng, 1.0, 1.5 + size / 22)
    colour = hue(rng) if rng.random() < 0.7 else hue(rng, 0.1, rng.uniform(0.6, 1))
    return fibre(rng, part, max(size, 14.0), thick, colour, rng.uniform(0.3, 1.4))


def hair(rng: Rng, part: Part, size: float) -> Change | None:
    """A thin dark or pale hair or fibre."""
    colour = hue(rng, 0.3, rng.choice([0.05, 0.15, 0.5, 0.85]))
    return fibre(rng, part, max(size, 12.0), rng.uniform(0.7, 1.6), colour, rng.uniform(0.2, 1.2))


def wrinkle(rng: Rng, part: Part, size: float) -> Change | None:
    """One sharp fold, or several soft ridges side by side, seen by their shading."""
    place = _place(rng, part, 0.3)
    if place is None:
        return None
    y, x, angle = place
    size = max(size, 14.0)
    single = rng.random() < 0.45
    lines = []
    for k in range(1 if single else int(rng.integers(2, 6))):
        off = (k - 1.5) * rng.uniform(0.08, 0.18) * size + rng.normal(0, 1)
        at = (y + off * np.cos(angle), x - off * np.sin(angle))
        lines.append(
            wander(rng, *at, angle + rng.normal(0, 0.12), size * rng.uniform(0.5, 1), bend=0.3, roughness=0.2)
        )
    broad = loguniform(rng, 1.5, 3 + size / 14)
    patch = around(part.solid.shape, lines, 3 * broad + 3)
    if patch is None:
        return None
    solid = part.solid[patch.window]
    ridge = blur(stroke(patch, lines, [broad] * len(lines)), broad * 0.7)
    relief = shading(part, ridge * broad * rng.choice([-1, 1]))
    # Light along the fold would hide it, so a part of the crease is dark by itself.
    relief *= loguniform(rng, 0.14, 0.6) / max(float(np.abs(relief).max()), 1e-3)
    shade = relief - ridge * rng.uniform(0, 0.25)
    before = part.image[patch.window]
    after = before * (1 + (shade * solid)[..., None]) + 0.15 * np.maximum(shade * solid, 0)[..., None]
    return outline(part, patch, after, (np.abs(shade) > 0.03) & solid & (ridge > 0.08))
