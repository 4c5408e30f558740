"""Laying a defect onto a picture: blending, tinting, and the mask a person would draw around what changed.

Input: a part, a window and covers from defect_shapes.py; output: (picture float32 [H, W, 3], mask bool [H,
W]). It does not know the defect types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from scipy import ndimage

from clipsam.nano.corpus.defect_shapes import Bools, Floats, Patch, Rng, strongest

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part

Change = tuple[Floats, Bools]
VISIBLE = 0.03  # the smallest change, as a fraction of full white, that a person sees beside camera noise


def outline(part: Part, patch: Patch, local: Floats, support: Bools, *, fill: bool = True) -> Change | None:
    """The whole picture with `local` [h, w, 3] put into the window, and the mask of what visibly changed in
    `support`.

    None where fewer than 3 pixels changed visibly.
    """
    local = np.clip(local, 0, 1).astype(np.float32, copy=False)
    change = strongest(np.abs(local - part.image[patch.window]))
    here = _bounds(support)
    if here is None:
        return None
    seen = (ndimage.maximum_filter(change[here], size=3) > VISIBLE) & support[here]
    # A person draws one smooth line around a blotch, however ragged it is; thin lines are followed closely.
    gap = int(np.clip(seen.sum() ** 0.5 / 14, 1, 4)) if fill else 1
    found = ndimage.binary_closing(np.pad(seen, gap), np.ones((3, 3), bool), iterations=gap)
    found = found[gap:-gap, gap:-gap] & support[here] | seen
    if fill:
        found = ndimage.binary_fill_holes(found)
    if int((found & (change[here] > VISIBLE)).sum()) < 3:
        return None
    image = part.image.copy()
    image[patch.window] = local
    mask = np.zeros(part.solid.shape, bool)
    mask[patch.window][here] = found
    return image, mask


def _bounds(support: Bools) -> tuple[slice, slice] | None:
    """The window that holds all of `support` and a pixel more, or None where it is empty."""
    ys, xs = np.flatnonzero(support.any(axis=1)), np.flatnonzero(support.any(axis=0))
    if ys.size == 0:
        return None
    return slice(max(0, ys[0] - 1), ys[-1] + 2), slice(max(0, xs[0] - 1), xs[-1] + 2)


def blend(below: Floats, above: Floats, cover: Floats) -> Floats:
    """`above` (a colour [3] or picture [h, w, 3]) over `below` [h, w, 3] where `cover` [h, w] is 1."""
    return cast(Floats, below + (above - below) * cover[..., None])


def tint(below: Floats, colour: Floats, strength: Floats) -> Floats:
    """`below` seen through a coloured film: multiplied by `colour` [3] in (0, 2] where `strength` [h, w] is
    1.
    """
    return below * np.power(colour, strength[..., None])


def hue(rng: Rng, saturation: float | None = None, value: float | None = None) -> Floats:
    """A random colour [3] in [0, 1]."""
    s = rng.uniform(0.0, 0.9) if saturation is None else saturation
    v = rng.uniform(0.1, 0.95) if value is None else value
    phase = rng.uniform(0, 6.283) + np.array([0.0, 2.094, 4.189])
    return (v * (1 - s * (0.5 + 0.5 * np.cos(phase)))).astype(np.float32)


def dirt(rng: Rng) -> Floats:
    """A colour [3] that dirt, oil, rust and old liquids have: brown to black, sometimes grey or whitish."""
    warm = np.array([1.0, rng.uniform(0.55, 0.85), rng.uniform(0.2, 0.65)])
    kind = rng.random()
    if kind < 0.55:
        colour = warm * rng.uniform(0.15, 0.6)
    elif kind < 0.8:
        colour = np.ones(3) * rng.uniform(0.02, 0.3)
    else:
        colour = np.ones(3) * rng.uniform(0.6, 0.95) * (0.9 + 0.1 * warm)
    return colour.astype(np.float32)


def contrast_to(rng: Rng, level: float, low: float = 0.06, high: float = 0.6) -> float:
    """A signed step of brightness from `level`, log-uniform in size, to the side that has room (mostly)."""
    step = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    down = rng.random() < np.clip(0.25 + 0.6 * level, 0.1, 0.9)
    return -min(step, max(level - 0.02, 0.06)) if down else min(step, max(0.98 - level, 0.06))
