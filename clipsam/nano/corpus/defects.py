"""The defect types of the corpus: one function per type, how often and how large each is drawn, and which are
held out.

Input: a generator, a flawless `Part` and a size in px; output: the damaged picture and the mask of what a
person would outline. It does not know captions, samples or the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from clipsam.nano.corpus import defect_broken, defect_form, defect_lines, defect_spots
from clipsam.nano.corpus.defect_blend import Change
from clipsam.nano.corpus.defect_shapes import Bools, Floats, Rng, loguniform

if TYPE_CHECKING:
    from clipsam.nano.corpus.part import Part

Defect = Callable[[Rng, "Part", float], Change | None]


def _crack(rng: Rng, part: Part, size: float) -> Change | None:
    """A crack line; now and then it goes through the whole part and opens."""
    opened = defect_broken.in_two(rng, part, size) if rng.random() < 0.2 else None
    return opened or defect_lines.crack(rng, part, size)


def _wear(rng: Rng, part: Part, size: float) -> Change | None:
    ragged = defect_form.burr(rng, part, size) if rng.random() < 0.12 else None
    return ragged or defect_form.wear(rng, part, size)


def _thread(rng: Rng, part: Part, size: float) -> Change | None:
    """A loose thread; or a hair, which goes by this name too."""
    return (defect_lines.hair if rng.random() < 0.3 else defect_lines.thread)(rng, part, size)


DEFECTS: dict[str, Defect] = {
    "scratch": defect_lines.scratch,
    "crack": _crack,
    "hole": defect_form.hole,
    "broken": defect_broken.broken,
    "stain": defect_spots.stain,
    "contamination": defect_spots.contamination,
    "dent": defect_form.dent,
    "cut": defect_lines.cut,
    "missing part": defect_form.missing_part,
    "deformation": defect_form.deformation,
    "misprint": defect_spots.misprint,
    "glue": defect_spots.glue,
    "thread": _thread,
    "discolouration": defect_spots.discolouration,
    "corrosion": defect_spots.corrosion,
    "bubble": defect_spots.bubble,
    "wear": _wear,
    "wrinkle": defect_lines.wrinkle,
    "misplaced part": defect_form.misplaced_part,
    "uneven surface": defect_form.uneven_surface,
}
"""Defect type (as in prompts/industrial.toml) to the function that draws it."""

HELD_OUT: tuple[str, ...] = ("glue", "misprint")
"""Types that a training split with `hold_out` never draws, and its validation does."""

MOVING: tuple[str, ...] = (
    "deformation",
    "missing part",
    "misplaced part",
    "broken",
    "crack",
    "uneven surface",
)
"""Types that may move or replace what is already in the picture; they are drawn before the others."""

SHARES: dict[str, float] = {"broken": 1.8, "crack": 1.5, "contamination": 1.5, "scratch": 1.2, "wrinkle": 0.8}
"""How much more often (or less) than the others a type is drawn; 1 where it is not named."""

JUST_SEEN = 1.2
"""Changes less conspicuous than this are not kept: nobody could be asked to find them."""

LARGE: tuple[str, ...] = ("broken", "discolouration", "deformation", "uneven surface", "wrinkle", "wear")
LONG: tuple[str, ...] = ("scratch", "crack", "thread", "cut")


def draw_size(rng: Rng, defect: str, shorter: int) -> float:
    """A size in px for a defect of this type on a picture whose shorter side is `shorter` px; log-uniform."""
    if defect in LARGE:
        return loguniform(rng, 0.1 * shorter, 0.6 * shorter)
    if defect in LONG:
        return loguniform(rng, 0.06 * shorter, 0.6 * shorter)
    return loguniform(rng, max(3.0, 0.014 * shorter), 0.42 * shorter)


def apply(rng: Rng, part: Part, defect: str, *, tries: int = 4) -> Change | None:
    """Draw one defect of the named type at a random place and size; None where it did not fit in `tries`
    attempts.

    Raises KeyError for a type that is not in DEFECTS.
    """
    draw = DEFECTS[defect]
    for _ in range(tries):
        change = draw(rng, part, draw_size(rng, defect, min(part.solid.shape)))
        if change is not None and conspicuity(part.image, *change) > JUST_SEEN:
            return change
    return None


def conspicuity(before: Floats, after: Floats, mask: Bools) -> float:
    """How well a person sees the change between two pictures [H, W, 3]: its root mean square in the mask,
    relative to the texture around it and to a camera's noise; small defects must be stronger.
    """
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    window = slice(max(0, ys[0] - 4), ys[-1] + 5), slice(max(0, xs[0] - 4), xs[-1] + 5)
    old, new, inside = before[window], after[window], mask[window]
    strength = np.sqrt(np.square(new - old)[inside].mean())
    grey = old.mean(axis=2)
    detail = (grey - ndimage.uniform_filter(grey, 5)).std()
    return float(strength / np.hypot(detail, 0.03) * min(1.0, inside.sum() ** 0.5 / 6))
