"""What the flawless world hands on: a rendered part, the pieces it is made of, and the call that renders one.

Input: a `numpy.random.Generator`, a size, optionally the families to draw from. Output: a `Part`: colours,
where
the part is, which pieces belong to it and how the photo looks without them, its height and its light.
It does not know of defects, captions or the camera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Family = Callable[[np.random.Generator, int, int], "Part"]


@dataclass
class Piece:
    """A sub-part that belongs to a flawless part: a screw hole, a print, a pin, a chip.

    `mask` is bool [H, W]; `without` float32 [H, W, 3] shows the whole photo with this piece missing.
    """

    name: str
    mask: NDArray[np.bool_]
    without: NDArray[np.float32] | None = None


@dataclass
class Part:
    """A flawless part as rendered.

    `image` float32 [H, W, 3] in [0, 1], display-referred; `solid` bool [H, W], False where only the
    background is;
    `relief` float32 [H, W], height in pixels, or None where the part is flat; `light` a unit vector (x, y, z)
    towards the light, x to the right, y down, z to the camera; `kind` "surface" or "object".
    """

    image: NDArray[np.float32]
    product: str
    names: tuple[str, ...]
    solid: NDArray[np.bool_]
    pieces: tuple[Piece, ...]
    relief: NDArray[np.float32] | None
    light: tuple[float, float, float]
    kind: str


def render_part(
    rng: np.random.Generator, height: int, width: int, families: Sequence[str] | None = None
) -> Part:
    """A random flawless part of one of `families` (default: all but the held-out ones).

    Objects and surfaces are drawn about equally often when `families` is not given. Raises KeyError for a
    name
    that neither `SURFACES` nor `OBJECTS` knows.
    """
    from clipsam.nano.corpus.families import FAMILIES, TRAIN_OBJECTS, TRAIN_SURFACES

    if families is None:
        families = TRAIN_SURFACES if rng.random() < 0.45 else TRAIN_OBJECTS
    return FAMILIES[families[int(rng.integers(len(families)))]](rng, height, width)
